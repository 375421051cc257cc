// Command generate writes the migrations of package ddl, or prints the one that a new version of an event needs.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/welfarehub/welfarehub/pkg/clickhouse/ddl"
	"github.com/welfarehub/welfarehub/pkg/event"
)

func main() {
	out := flag.String("out", "", "folder of the migrations")
	evolve := flag.String("evolve", "", "event of which the migration to its next version is printed, instead")
	flag.Parse()
	if *evolve != "" {
		t := event.ByName(*evolve)
		if t == nil {
			fmt.Fprintf(os.Stderr, "no event %q\n", *evolve)
			os.Exit(1)
		}
		text := ddl.EvolveText(t)
		if text == "" {
			fmt.Fprintf(os.Stderr, "the schema of %s is as it was released: change schemas/avro/%s.avsc first\n", t.Name, t.Name)
			os.Exit(1)
		}
		fmt.Print(text)
		return
	}
	for _, f := range ddl.Files() {
		if err := os.WriteFile(filepath.Join(*out, f.Name), []byte(f.Text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
