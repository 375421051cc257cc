package ddl

import (
	"strings"
	"testing"

	"github.com/welfarehub/welfarehub/pkg/event"
)

func TestEvolve(t *testing.T) {
	typ := event.ByName("ServiceRequested")
	if got := Evolve(typ); got != nil {
		t.Errorf("an event as it was released: %q", got)
	}
	raw := strings.Replace(typ.Raw, `"THIRD_SECTOR"]`, `"THIRD_SECTOR", "CARER"]`, 1)
	at := strings.LastIndex(raw, "]")
	raw = raw[:at] + `, {"name": "note", "type": ["null", "string"], "default": null, "doc": "It's a note."},
		{"name": "weight", "type": "double", "default": 1.5, "doc": "Weight."}, {"name": "kept", "type": "boolean", "default": true, "doc": "Kept."}` + raw[at:]
	next, err := typ.WithSchema(raw)
	if err != nil {
		t.Fatal(err)
	}
	text := EvolveText(next)
	for _, want := range []string{
		"ALTER TABLE store.service_requested ADD COLUMN IF NOT EXISTS `note` Nullable(String) COMMENT 'It\\'s a note.' CODEC(ZSTD(1)) AFTER `requested_at`;",
		"ADD COLUMN IF NOT EXISTS `weight` Float64 DEFAULT 1.5 COMMENT 'Weight.' AFTER `note`;",
		"ADD COLUMN IF NOT EXISTS `kept` Bool DEFAULT 1 COMMENT 'Kept.' AFTER `weight`;",
		"MODIFY COLUMN `channel` Enum8(",
		"'CARER' = 8)",
		"CREATE OR REPLACE VIEW welfare.service_requested ",
		"CREATE OR REPLACE VIEW welfare.service_requested_current ",
		"-- +goose Down\n\nSELECT 1;\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("the migration lacks %s", want)
		}
	}
	if n := strings.Count(text, "ALTER TABLE"); n != 4 {
		t.Errorf("%d columns are changed, want 4", n)
	}
}
