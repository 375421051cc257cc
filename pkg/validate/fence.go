package validate

import (
	"bytes"
	"unicode/utf8"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/privacy"
)

// scan is a text field that is looked through for a codice fiscale.
type scan struct {
	field  int
	format func([]byte) bool // form of a machine format, which cannot name a person; nil: none
}

// machineFormat returns the form in which a field is exempt from the search: hexadecimal digits between
// dashes may look like a codice fiscale. It is exempt only while it keeps that form.
func machineFormat(field string) func([]byte) bool {
	switch field {
	case "eventId":
		return isUUID
	case "traceparent":
		return isTraceparent
	}
	for _, p := range pseudonymFields {
		if p == field {
			return privacy.IsPseudonym
		}
	}
	return nil
}

func isUUID(s []byte) bool {
	_, ok := event.ParseUUID(s)
	return ok
}

// isTraceparent tells whether s is a W3C trace context of version 00: 00-<32 hex>-<16 hex>-<2 hex>.
func isTraceparent(s []byte) bool {
	if len(s) != 55 || s[2] != '-' || s[35] != '-' || s[52] != '-' {
		return false
	}
	for i, c := range s {
		if i != 2 && i != 35 && i != 52 && !isDigit(c) && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

const fenceMessage = " holds a codice fiscale; send a pseudonym instead, and remove the record from the topic (runbook: personal codes)"

func checkFence(p *plan, in *input) {
	vals := in.row.Vals
	for i := range p.scans {
		s := &p.scans[i]
		v := &vals[s.field]
		if v.Null || s.format != nil && s.format(v.Bytes) {
			continue
		}
		found := privacy.ContainsCF(v.Bytes)
		for _, b := range v.List {
			found = found || privacy.ContainsCF(b)
		}
		if found {
			name := p.t.Fields[s.field].Name
			in.reject(E11, name, name+fenceMessage)
		}
	}
	if !bytes.Equal(in.meta.Key, vals[p.t.Key].Bytes) && privacy.ContainsCF(in.meta.Key) { // an equal one is looked through above
		in.reject(E11, "key", "the Kafka key"+fenceMessage)
	}
	for i := range in.meta.Headers {
		h := &in.meta.Headers[i]
		if inKey := privacy.ContainsCF([]byte(h.Key)); inKey || headerHoldsCF(p, vals, h) {
			name := headerName(h.Key, inKey)
			in.reject(E11, name, "a header"+fenceMessage)
		}
	}
}

// headerHoldsCF looks through the value of a header, unless it repeats what is looked through already.
func headerHoldsCF(p *plan, vals []event.Value, h *Header) bool {
	switch h.Key {
	case "ce_id":
		if isUUID(h.Value) {
			return false
		}
	case "traceparent":
		if isTraceparent(h.Value) {
			return false
		}
	case "ce_source":
		if bytes.Equal(h.Value, vals[event.Source].Bytes) {
			return false
		}
	case "ce_subject":
		if bytes.Equal(h.Value, vals[event.SourceRecordID].Bytes) {
			return false
		}
	case "ce_type":
		if string(h.Value) == p.t.Topic {
			return false
		}
	}
	return privacy.ContainsCF(h.Value)
}

// headerName is how a header is named in a report: a name that is strange may be personal data itself.
func headerName(name string, holdsCF bool) string {
	if holdsCF || len(name) > 64 || !utf8.ValidString(name) {
		return "header"
	}
	return name
}
