package validate

import (
	"bytes"

	"github.com/welfarehub/welfarehub/pkg/event"
)

func checkRevokedSource(_ *plan, in *input) {
	if !bytes.Equal(in.row.Vals[event.RecordRevokedRevokedSource].Bytes, in.row.Vals[event.Source].Bytes) {
		in.reject(E81, "revokedSource", "revokedSource is not the source of this event; a source revokes its own records only")
	}
}

func checkRevokedType(_ *plan, in *input) {
	switch v := &in.row.Vals[event.RecordRevokedRevokedType]; {
	case v.Null:
	case string(v.Bytes) == "RecordRevoked":
		in.reject(E82, "revokedType", "a revocation cannot be revoked; to lift it, publish a higher version of it with revokedUpToVersion 0")
	case string(v.Bytes) == "SubjectErased":
		in.reject(E82, "revokedType", "an erasure cannot be revoked; data sent after its requestedAt are ordinary")
	}
}
