package validate

import (
	"strconv"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/event"
)

func checkRange(p *plan, in *input) {
	ind := in.indicator(p)
	if ind == nil {
		return
	}
	if v := in.row.Vals[event.IndicatorObservedValue].Float; !(v >= ind.Min && v <= ind.Max) {
		in.reject(E73, "value", "value is outside the indicator's range, "+decimal(ind.Min)+" to "+decimal(ind.Max)+"; is a percentage sent for a share?")
	}
}

func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

// Directions of feedback, by the index of their symbol.
var fromDirections, toDirections = func() (from, to []bool) {
	t := event.ByName("FeedbackRecorded")
	for _, s := range t.Fields[event.FeedbackRecordedDirection].Symbols {
		from, to = append(from, strings.HasPrefix(s, "FROM_")), append(to, strings.HasPrefix(s, "TO_"))
	}
	return from, to
}()

// direction tells whether feedback comes from people or goes back to them; neither where it is unknown.
func (in *input) direction() (from, to bool) {
	d := in.row.Vals[event.FeedbackRecordedDirection].Int
	return fromDirections[d], toDirections[d]
}

func checkFeedback(_ *plan, in *input) {
	likert := &in.row.Vals[event.FeedbackRecordedLikert]
	if !likert.Null && (likert.Int < 1 || likert.Int > 5) {
		in.reject(E72, "likert", "likert is out of its range, 1 to 5")
	}
	text := in.given(event.FeedbackRecordedText)
	switch from, to := in.direction(); {
	case from && likert.Null && !text:
		in.reject(E72, "text", "likert and text are both missing; feedback from someone has exactly one of them")
	case from && !likert.Null && text:
		in.reject(E72, "text", "likert and text are both there; feedback from someone has exactly one of them")
	case to && !text:
		in.reject(E72, "text", "text is missing; feedback to someone says something")
	case to && !likert.Null:
		in.reject(E72, "likert", "likert is there; feedback to someone is text")
	}
}

func checkReply(_ *plan, in *input) {
	if _, to := in.direction(); to && !in.given(event.FeedbackRecordedInReplyTo) && !in.given(event.FeedbackRecordedActionTaken) {
		in.reject(E74, "inReplyTo", "inReplyTo and actionTaken are both missing; feedback to someone answers a feedback or says what was done")
	}
}
