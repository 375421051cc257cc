package child

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Tick is the unit of time in /proc.
const Tick = 10 * time.Millisecond

// Usage reads the CPU time and the peak of resident memory of a process; zero where it is gone.
func Usage(pid int) (used time.Duration, peak int64) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	raw, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return 0, 0
	}
	_, after, _ := strings.Cut(string(raw), ") ") // the name before it may hold blanks
	fields := strings.Fields(after)
	for _, f := range fields[11:13] { // user and system
		n, _ := strconv.ParseInt(f, 10, 64) // the kernel writes numbers
		used += time.Duration(n) * Tick
	}
	raw, err = os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return used, 0
	}
	if _, after, ok := strings.Cut(string(raw), "VmHWM:"); ok {
		peak, _ = strconv.ParseInt(strings.Fields(after)[0], 10, 64) // as above
	}
	return used, peak << 10
}
