package registry

import (
	"testing"

	"github.com/welfarehub/welfarehub/pkg/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
