package aggregate

import (
	"fmt"
	"strings"
	"text/template"
)

// params of the queries in contribute.sql.
type params struct {
	Wanted     string // predicate on grp: groups to compute
	Snapshot   string // predicate on (type, partition, offset)
	Now        int64  // horizon, milliseconds
	Population bool   // whether groups of population are among those to compute
	Books      string // rows by which the books advance
	Cycle      uint64 // number of the last cycle
}

// parseTemplates parses contribute.sql. A month is 12 * year + month - 1 by the clock of Europe/Rome.
func parseTemplates() *template.Template {
	return template.Must(template.New("aggregate").Funcs(template.FuncMap{
		"month": func(x string) string {
			return fmt.Sprintf("toUInt16(toYear(%[1]s, 'Europe/Rome') * 12 + toMonth(%[1]s, 'Europe/Rome') - 1)", x)
		},
		"monthOfDate": func(x string) string { return fmt.Sprintf("toUInt16(toYear(%[1]s) * 12 + toMonth(%[1]s) - 1)", x) },
		"monthEnd": func(m string) string {
			return fmt.Sprintf("toUnixTimestamp64Milli(makeDateTime64(intDiv(%[1]s + 1, 12), (%[1]s + 1) %% 12 + 1, 1, 0, 0, 0, 0, 3, 'Europe/Rome')) - 1", m)
		},
	}).Parse(contributeSQL))
}

func (a *Aggregator) render(name string, p params) (string, error) {
	var b strings.Builder
	if err := a.templates.ExecuteTemplate(&b, name, p); err != nil {
		return "", fmt.Errorf("write query %s: %w", name, err)
	}
	return b.String(), nil
}
