package publish

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// FuzzMapping reads any text as a mapping, and what is one is used on a record: nothing panics.
func FuzzMapping(f *testing.F) {
	text, err := os.ReadFile("testdata/mapped.yaml")
	if err != nil {
		f.Fatal(err)
	}
	const record = "PROT;DATA;COM;POSTI;OCC;TIPO;NOTE;UTENZA;DAL\n1;31/12/2023 10:30;1;1;1;P;;1;2023-01-01\n"
	f.Add(text, []byte(record))
	f.Add([]byte("csv: {delimiter: tab}\nzone: Europe/Rome\nevents: [{event: CapacityChanged, columns: {serviceId: {column: A, pad: 3}, reason: {template: \"{A}{{B}}\"}}}]"), []byte("A\tB\n1\t2\n"))
	f.Add([]byte("events: [{event: BenefitDecided, each: {column: X}}]"), []byte(`{"X":[{"a":1}]}`))
	for _, name := range Mappings() {
		text, err := shipped.ReadFile("mappings/" + name + ".yaml")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, []byte("a,b\n1,2\n"))
	}
	f.Fuzz(func(t *testing.T, text, data []byte) {
		if _, err := ParseMapping("any", text); err != nil {
			return
		}
		file := filepath.Join(t.TempDir(), "mapping.yaml")
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		report, _ := Run(t.Context(), Options{Files: []string{"-"}, Stdin: bytes.NewReader(data), DryRun: true, Mapping: file, MaxErrors: -1, OnProblem: func(p Problem) { _ = p.String() }})
		if report.Bad > report.Records {
			t.Errorf("%d bad of %d", report.Bad, report.Records)
		}
	})
}
