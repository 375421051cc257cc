package testkit

import (
	"errors"
	"fmt"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

// missing is an error of a machine that lacks something, not of the code under test.
type missing struct{ err error }

func (m missing) Error() string { return m.err.Error() }
func (m missing) Unwrap() error { return m.err }

func missingf(format string, args ...any) error { return missing{fmt.Errorf(format, args...)} }

func isMissing(err error) bool {
	var m missing
	return errors.As(err, &m) || errors.Is(err, engine.ErrLibraryMissing)
}
