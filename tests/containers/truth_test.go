package containers

import (
	"testing"

	"github.com/welfarehub/welfarehub/pkg/clickhouse"
	wkafka "github.com/welfarehub/welfarehub/pkg/kafka"
	"github.com/welfarehub/welfarehub/producers/simulate"
	"github.com/welfarehub/welfarehub/producers/simulate/compare"
)

// compareStored compares all that is in ClickHouse with the truth.
func compareStored(t *testing.T, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	report, err := compare.Stored(t.Context(), db, truth)
	show(t, report, err)
}

// compareTold compares the dead letters and outcomes with the truth and the books.
func compareTold(t *testing.T, broker string, db *clickhouse.DB, truth simulate.Truth) {
	t.Helper()
	report, err := compare.Told(t.Context(), wkafka.Cluster{Brokers: []string{broker}}, db, truth)
	show(t, report, err)
}

func show(t *testing.T, report compare.Report, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range report.Lines[:min(len(report.Lines), 20)] {
		t.Error(line)
	}
	if n := len(report.Lines); n > 20 {
		t.Errorf("%d differences to the truth", n)
	}
}
