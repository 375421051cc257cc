package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
)

// Epochs. An engine that dies between the token of an insert and its rows leaves a token that is taken, and no rows:
// whoever sends the insert again under that token is told that all is well, and nothing is stored. So a token must not
// outlive the engine's process. It has the epoch in it, a number that is the same for all connections to one process
// and another one after each start: that of the one row of store.engine, which is kept in memory only.

// ReadEpoch is the query of the epoch. Its column epoch is 0 where the process has none yet.
const ReadEpoch = "SELECT max(epoch) AS epoch FROM store.engine"

// newEpoch is the statement that offers an epoch. The first that is offered to a process stays.
func newEpoch() string {
	var seed [8]byte
	_, _ = rand.Read(seed[:]) // never fails
	return fmt.Sprintf("INSERT INTO store.engine (one, epoch) SELECT 1, %d", max(1, binary.LittleEndian.Uint64(seed[:])))
}

// ErrNoEpoch says that the schema is not as it should be.
var ErrNoEpoch = errors.New("store.engine does not keep what is inserted")

// Epoch is the epoch of the process that answers. A pool may answer over another connection next time.
func Epoch(ctx context.Context, conn driver.Conn) (uint64, error) {
	return EpochBy(func() (epoch uint64, err error) {
		err = conn.QueryRow(ctx, ReadEpoch).Scan(&epoch)
		return epoch, err
	}, func(statement string) error { return conn.Exec(ctx, statement) })
}

// EpochBy is Epoch for another driver: read runs ReadEpoch, exec a statement.
func EpochBy(read func() (uint64, error), exec func(statement string) error) (uint64, error) {
	for range 3 {
		epoch, err := read()
		if err != nil {
			return 0, fmt.Errorf("read the engine's epoch: %w", err)
		}
		if epoch != 0 {
			return epoch, nil
		}
		if err := exec(newEpoch()); err != nil {
			return 0, fmt.Errorf("give the engine an epoch: %w", err)
		}
	}
	return 0, fmt.Errorf("read the engine's epoch: %w", ErrNoEpoch)
}

// BookKeys are the columns by which the rows of a book are told apart that views on the storage tables feed, the one
// by which it is sorted first.
var BookKeys = map[string]string{
	"ids":      "id_hash, partition, offset",
	"ledger":   "topic, partition, from_offset",
	"erased":   "topic, partition, offset",
	"erasures": "family, pseudonym, partition, offset",
}
