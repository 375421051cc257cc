package ddl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	"github.com/welfarehub/welfarehub/pkg/event"
)

// Evolve returns the statements that bring the table and the views of an event from the release before to
// the version that t is at: the columns of new fields, new symbols of enums, and the views over them. They
// can be repeated, loaders of both releases may run meanwhile, and a database that is made anew, where the
// columns are there already, takes them too. Rows that are stored read as the default of a new field.
func Evolve(t *event.Type) []string {
	if t.Version == 1 {
		return nil
	}
	m := &migration{}
	key, before := sortKeys[t.Name], clickhouse.SystemColumns[len(clickhouse.SystemColumns)-1].Name
	for _, f := range t.Fields {
		switch {
		case f.Since == t.Version:
			line := strings.TrimSpace(column(f.Column, clickhouse.StorageType(f)+defaultOf(f), codec(f, key), f.Doc))
			m.add(fmt.Sprintf("ALTER TABLE store.%s ADD COLUMN IF NOT EXISTS %s AFTER `%s`", t.Table, line, before), "")
		case f.Grew(t.Version):
			m.add(fmt.Sprintf("ALTER TABLE store.%s MODIFY COLUMN `%s` %s", t.Table, f.Column, clickhouse.StorageType(f)), "")
		}
		before = f.Column
	}
	if len(m.up) == 0 {
		return nil
	}
	m.views(t)
	return m.up
}

// views adds the views that have columns of an event.
func (m *migration) views(t *event.Type) {
	m.view(live(t))
	m.view(replaced(t))
	m.view(public(t))
	m.view(current(t))
}

// EvolveText is Evolve as a migration for schemas/clickhouse; empty where the event has not changed. Its way
// back leaves the column: an older program does not name it, and values would be lost.
func EvolveText(t *event.Type) string {
	up := Evolve(t)
	if len(up) == 0 {
		return ""
	}
	m := &migration{up: up, down: []string{"SELECT 1"}}
	return m.text(fmt.Sprintf("%s, version %d of its schema. The way back leaves the columns: older programs do not name them.", t.Name, t.Version))
}

// defaultOf is what stored rows have in the column of a new field, where that is not the type's own default.
func defaultOf(f event.Field) string {
	switch d := f.Default; {
	case d.Null || !f.HasDef:
		return ""
	case d.Int != 0:
		return " DEFAULT " + strconv.FormatInt(d.Int, 10)
	case d.Float != 0:
		return " DEFAULT " + strconv.FormatFloat(d.Float, 'g', -1, 64)
	}
	return ""
}
