//go:build (linux || darwin) && !noengine

package engine

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/ebitengine/purego"
)

const embedded = true

// ownStop is how long the engine may take to end by itself; shorter than the parent's default patience.
const ownStop = 15 * time.Second

// listenQuery opens the server's ports and then never ends. The engine's own session runs it, as user default.
const listenQuery = `SYSTEM START LISTEN TCP; SYSTEM START LISTEN HTTP;
SELECT sleepEachRow(0.2) FROM system.numbers SETTINGS function_sleep_max_microseconds_per_block = 0, max_block_size = 1 FORMAT Null`

// stopQuery ends listenQuery: the engine's own session is the one without a user name. The library then shuts down as
// a server does, and returns.
const stopQuery = `KILL QUERY WHERE user = '' ASYNC`

// RunIfChild runs the engine and exits, if this process was started to be one; otherwise it does nothing. Call it
// first thing in main, and in TestMain of tests that start an engine.
func RunIfChild() {
	if len(os.Args) > 1 && os.Args[1] == childArgument {
		os.Exit(Main(os.Args[2:]))
	}
}

// Main is the child process: it runs the engine of the library args[0] with the configuration args[1] until SIGTERM
// comes or the parent is gone. args[2] is the HTTP address, args[3] the file with hub's password; both serve to stop.
func Main(args []string) int {
	if len(args) != 4 {
		fmt.Fprintln(os.Stderr, "engine child: want library, configuration, HTTP address, password file")
		return 2
	}
	library, config, addr, passwordFile := args[0], args[1], args[2], args[3]
	runtime.LockOSThread()
	go exitWithParent()
	// An interrupt at the terminal is the parent's affair: it stops us when it has drained.
	signal.Ignore(syscall.SIGINT, syscall.SIGHUP)

	handle, err := purego.Dlopen(library, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		fmt.Fprintf(os.Stderr, "engine child: open %s: %v\n", library, err)
		return 1
	}
	if _, err := purego.Dlsym(handle, "query_stable_v2"); err != nil {
		fmt.Fprintf(os.Stderr, "engine child: %s is no engine library: %v\n", library, err)
		return 1
	}
	var query func(argc int32, argv **byte) uintptr
	purego.RegisterLibFunc(&query, handle, "query_stable_v2")

	term := make(chan os.Signal, 1)
	signal.Notify(term, syscall.SIGTERM)
	stopping := make(chan struct{})
	go func() {
		<-term
		close(stopping)
		stopEngine(addr, passwordFile)
	}()

	// The C side reads argv while it runs: every string ends in a zero byte, the array in a nil, and both stay referenced.
	var argv []*byte
	for _, a := range []string{"clickhouse", "--config-file=" + config, "--query", listenQuery} {
		argv = append(argv, unsafe.StringData(a+"\x00"))
	}
	argc := int32(len(argv))
	argv = append(argv, nil)
	query(argc, &argv[0])
	runtime.KeepAlive(argv)
	select {
	case <-stopping:
		return 0
	default:
		fmt.Fprintln(os.Stderr, "engine child: the engine ended by itself")
		return 1
	}
}

// exitWithParent ends this process when the parent has closed its end of the pipe, as the kernel does when the parent
// dies. On Linux the kernel kills us as well; elsewhere this is the only way.
func exitWithParent() {
	pipe := os.NewFile(3, "parent")
	if pipe == nil {
		return
	}
	_, _ = pipe.Read(make([]byte, 1)) // any outcome means that nobody is there
	os.Exit(1)
}

// stopEngine has the library end as a server does: it finishes what it writes, and query returns. Exits when it cannot
// be asked, or takes longer than ownStop: acknowledged data is on disk already, only the wait for merges is lost.
func stopEngine(addr, passwordFile string) {
	password, err := os.ReadFile(passwordFile)
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		err = postQuery(ctx, addr, strings.TrimSpace(string(password)), stopQuery)
	}
	if err == nil {
		time.Sleep(ownStop)
		err = fmt.Errorf("the engine still runs after %s", ownStop)
	}
	fmt.Fprintf(os.Stderr, "engine child: exit at once: %v\n", err)
	os.Exit(0)
}
