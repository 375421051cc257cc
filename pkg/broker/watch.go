package broker

import (
	"fmt"
	"strings"
	"sync"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/zap"
)

// watch is kfake's logger. Of a topic or a setting that it could not write, kfake only says so in its log; here that
// becomes a fault.
type watch struct {
	log   *zap.Logger
	fault func(error)
	once  sync.Once
}

// Logf passes warnings and errors on.
func (w *watch) Logf(level kfake.LogLevel, format string, args ...any) {
	if level > kfake.LogLevelWarn || level == kfake.LogLevelNone {
		return
	}
	text := fmt.Sprintf(format, args...)
	if !strings.HasPrefix(format, "persist ") && !strings.HasPrefix(format, "compact ") {
		w.log.Warn("broker", zap.String("message", text))
		return
	}
	w.log.Error("broker cannot write its data", zap.String("message", text))
	w.once.Do(func() {
		if w.fault != nil {
			w.fault(fmt.Errorf("%w: %s; is the disk full?", ErrNotDurable, text))
		}
	})
}
