// Command generate writes the migrations of package ddl.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"github.com/welfarehub/welfarehub/pkg/clickhouse/ddl"
)

func main() {
	out := flag.String("out", "", "folder of the migrations")
	flag.Parse()
	for _, f := range ddl.Files() {
		if err := os.WriteFile(filepath.Join(*out, f.Name), []byte(f.Text), 0o644); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
