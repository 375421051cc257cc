package publish

import (
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/validate"
)

// Rules is the Checker of the hub's own rules. Not safe for concurrent use.
func Rules() Checker { return &rules{validator: validate.New()} }

type rules struct {
	validator *validate.Validator
	result    validate.Result
}

// Check needs no headers: those of event.Message are fields of the row, which are checked themselves.
func (r *rules) Check(row *event.Row, at time.Time, found func(Finding)) {
	meta := validate.Meta{Key: row.Vals[row.Type.Key].Bytes, Timestamp: at.UnixMilli()}
	r.validator.Check(row, meta, &r.result)
	for _, v := range r.result.Violations {
		found(Finding{Code: string(v.Code), Field: v.Field, Message: v.Message})
	}
	if r.result.Flags == 0 {
		return
	}
	for _, code := range validate.FlagNames(r.result.Flags) {
		found(Finding{Code: code})
	}
}
