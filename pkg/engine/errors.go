package engine

import (
	"errors"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

// Start fails with one of these, wrapped in a line that says what to do. All of them are permanent: trying again
// without changing something fails again.
var (
	// ErrLibraryMissing: neither the library nor a clickhouse binary was found.
	ErrLibraryMissing = errors.New("the ClickHouse engine is missing")
	// ErrLibraryUnfit: the file is no shared library, or one for another machine.
	ErrLibraryUnfit = errors.New("the engine library does not fit this machine")
	// ErrPortInUse: somebody else listens on an address that was asked for.
	ErrPortInUse = errors.New("the address is in use")
	// ErrDataDir: the data folder cannot be made or written.
	ErrDataDir = datadir.ErrUnwritable
	// ErrForeignData: the folder holds something that this program did not write, or wrote in another format.
	ErrForeignData = datadir.ErrForeign
	// ErrLocked: another instance runs on the same data.
	ErrLocked = datadir.ErrLocked
	// ErrDiskFull: less space is free than MinFreeDisk.
	ErrDiskFull = datadir.ErrFull
	// ErrNotStarted: the engine ended, or did not answer, before StartTimeout.
	ErrNotStarted = errors.New("the engine did not start")
)
