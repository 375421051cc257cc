// Command welfarehub moves welfare events from their sources through Kafka into ClickHouse and answers
// planners' questions about them.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/welfarehub/welfarehub/pkg/config"
	"github.com/welfarehub/welfarehub/pkg/engine"
)

// Exit codes. They are part of the interface: docs and --help name them.
const (
	exitOK         = 0
	exitFailure    = 1 // something failed; the last line says what and what to do
	exitUsage      = 2 // wrong flags or configuration: do not restart
	exitUnbalanced = 3 // the books do not balance
	exitForced     = 130
)

// exitError carries an exit code. A nil err says all has been printed.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return fmt.Sprintf("exit code %d", e.code)
	}
	return e.err.Error()
}

func (e *exitError) Unwrap() error { return e.err }

func main() {
	engine.RunIfChild()
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run executes the command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signals()
	defer stop()
	stderr = redacted{stderr}
	root, parsed := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitOK
	}
	exit := &exitError{exitFailure, err}
	if !errors.As(err, &exit) && !*parsed {
		exit.code = exitUsage // cobra refused the command, an argument or a flag
	}
	if exit.err != nil {
		fmt.Fprintln(stderr, "Error:", strings.TrimRight(exit.err.Error(), "\n"))
	}
	if exit.code == exitUsage {
		fmt.Fprintf(stderr, "Try: %s --help\n", cmd.CommandPath())
	}
	return exit.code
}

// signals returns a context that the first SIGINT or SIGTERM ends; the second ends the process.
func signals() (context.Context, func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ch := make(chan os.Signal, 2)
	signal.Notify(ch, syscall.SIGINT, syscall.SIGTERM)
	go func() {
		if _, ok := <-ch; !ok {
			return
		}
		cancel()
		if _, ok := <-ch; ok {
			os.Exit(exitForced)
		}
	}()
	return ctx, func() { signal.Stop(ch); close(ch); cancel() }
}

// newRoot makes the command tree. parsed turns true once the command line has been understood: whatever
// fails before is wrong usage.
func newRoot() (root *cobra.Command, parsed *bool) {
	var file string
	parsed = new(bool)
	root = &cobra.Command{
		Use:   "welfarehub",
		Short: "The National Welfare Data Hub: welfare events from Kafka to exact, live supply and demand in ClickHouse",
		Long: `welfarehub moves welfare events (offers, capacity, requests, assessments, waiting lists,
benefits, deliveries, deprivation, school activities) from their sources through
Kafka into ClickHouse, each exactly once, and keeps supply and demand live.

Try it all on this machine, with simulated traffic:  welfarehub up

Each flag can also be set by the environment, WELFAREHUB_<FLAG> (--kafka-brokers is
WELFAREHUB_KAFKA_BROKERS), or in a YAML file given by --config (kafka-brokers: ...;
${VAR} stands for a variable). Flags win over the environment, the environment over the
file, the file over the defaults. Unknown names and bad values are all reported at once.

Exit codes: 0 success, 1 failure, 2 wrong usage or configuration,
3 the books do not balance, 130 ended at once by a second signal.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			*parsed = true
			if err := config.Apply(cmd, file, os.Environ()); err != nil {
				return &exitError{exitUsage, err}
			}
			return nil
		},
	}
	root.PersistentFlags().StringVar(&file, "config", "", "YAML file with settings, named as the flags; one file may serve all commands")
	root.PersistentFlags().String("log-level", "info", "least level logged: debug, info, warn, error")
	root.PersistentFlags().String("log-format", "auto", "log format: json, console, or auto (console on a terminal)")
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetHelpCommand(newHelp())
	root.AddCommand(
		newUp(), newMigrate(), newSchema(), newRegistry(), newSimulate(), newPublish(), newLoad(), newServe(), newReconcile(), newReplay(), newRebuild(), newDLQ(), newVersion(),
	)
	return root, parsed
}

// newHelp is cobra's help command, but an unknown command is an error.
func newHelp() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Show the help of a command",
		// The configuration is not looked at: help must be there when it is wrong.
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		RunE: func(cmd *cobra.Command, args []string) error {
			of, _, err := cmd.Root().Find(args)
			if err != nil {
				return &exitError{exitUsage, err}
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}
