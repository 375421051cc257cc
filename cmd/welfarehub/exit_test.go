package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestExitCodes runs command lines that need no other part of the hub.
func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.jsonl")
	if err := os.WriteFile(bad, []byte("{\"event\":\"ServiceRequested\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const (
		kafka    = "--kafka-brokers=127.0.0.1:1"
		registry = "--registry-url=http://127.0.0.1:1"
	)
	for _, tc := range []struct {
		args   string
		code   int
		stdout string // a part of it
		stderr string
		try    string // command that the hint names; empty: no hint
	}{
		{args: "version", code: exitOK, stdout: "welfarehub unknown go1."},
		{args: "schema check", code: exitOK, stdout: "all schemas are compatible"},
		{args: "", code: exitOK, stdout: "Available Commands"},
		{args: "schema", code: exitOK, stdout: "Available Commands"},

		{args: "bogus", code: exitUsage, stderr: `unknown command "bogus"`, try: "welfarehub"},
		{args: "serv", code: exitUsage, stderr: "Did you mean this?", try: "welfarehub"},
		{args: "help bogus", code: exitUsage, stderr: `unknown command "bogus"`, try: "welfarehub help"},
		{args: "schema bogus", code: exitUsage, stderr: `unknown command "bogus"`, try: "welfarehub schema"},
		{args: "version now", code: exitUsage, stderr: `unknown command "now"`, try: "welfarehub version"},
		{args: "publish", code: exitUsage, stderr: "requires at least 1 arg", try: "welfarehub publish"},
		{args: "--bogus", code: exitUsage, stderr: "unknown flag: --bogus", try: "welfarehub"},
		{args: "up --bogus", code: exitUsage, stderr: "unknown flag: --bogus", try: "welfarehub up"},
		{args: "up --rate fast", code: exitUsage, stderr: `"--rate"`, try: "welfarehub up"},
		{args: "load --flush-age", code: exitUsage, stderr: "needs an argument", try: "welfarehub load"},

		{args: "serve --log-level loud", code: exitUsage, stderr: "not debug, info, warn or error", try: "welfarehub serve"},
		{args: "serve --log-format loud", code: exitUsage, stderr: "not json, console or auto", try: "welfarehub serve"},
		{args: "load", code: exitUsage, stderr: "--kafka-brokers", try: "welfarehub load"},
		{args: "load " + kafka, code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub load"},
		{args: "load --clickhouse-dsn clickhouse://h:1/ " + kafka, code: exitUsage, stderr: "--registry-url", try: "welfarehub load"},
		{args: "load --kafka-sasl kerberos " + kafka + " --kafka-password-file " + bad, code: exitUsage, stderr: "scram-sha-256", try: "welfarehub load"},
		{args: "load --kafka-ca " + bad + " " + kafka, code: exitUsage, stderr: "no certificate in PEM form", try: "welfarehub load"},
		{args: "serve", code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub serve"},
		{args: "migrate", code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub migrate"},
		{args: "reconcile", code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub reconcile"},
		{args: "registry", code: exitUsage, stderr: "--kafka-brokers", try: "welfarehub registry"},
		{args: "replay", code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub replay"},
		{args: "replay --clickhouse-dsn clickhouse://h:1/ --dry-run " + kafka + " " + registry, code: exitUsage, stderr: "name a topic", try: "welfarehub replay"},
		{args: "replay --clickhouse-dsn clickhouse://h:1/ --topic welfare.demand.request " + kafka + " " + registry, code: exitUsage, stderr: "--why", try: "welfarehub replay"},
		{args: "replay --clickhouse-dsn clickhouse://h:1/ --since yesterday " + kafka + " " + registry, code: exitUsage, stderr: "RFC 3339", try: "welfarehub replay"},
		{args: "replay --clickhouse-dsn clickhouse://127.0.0.1:1/ --dry-run --topic welfare.demand.request " + kafka + " " + registry, code: exitFailure, stderr: "ClickHouse"},
		{args: "dlq", code: exitOK, stdout: "Available Commands"},
		{args: "dlq bogus", code: exitUsage, stderr: `unknown command "bogus"`, try: "welfarehub dlq"},
		{args: "dlq list", code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub dlq list"},
		{args: "dlq list --state gone --clickhouse-dsn clickhouse://h:1/", code: exitUsage, stderr: "open, redriven or discarded", try: "welfarehub dlq list"},
		{args: "dlq show", code: exitUsage, stderr: "--from-offset", try: "welfarehub dlq show"},
		{args: "dlq redrive", code: exitUsage, stderr: "--why", try: "welfarehub dlq redrive"},
		{args: "dlq discard", code: exitUsage, stderr: "--why", try: "welfarehub dlq discard"},
		{args: "dlq export", code: exitUsage, stderr: "--to-file", try: "welfarehub dlq export"},
		{args: "schema register", code: exitUsage, stderr: "--registry-url", try: "welfarehub schema register"},
		{args: "simulate", code: exitUsage, stderr: "--events N, --rate R", try: "welfarehub simulate"},
		{args: "simulate --events 1", code: exitUsage, stderr: "--out FOLDER", try: "welfarehub simulate"},
		{args: "simulate --events 1 --start yesterday", code: exitUsage, stderr: "2024-01-31", try: "welfarehub simulate"},
		{args: "simulate --events 1 --invalid 2", code: exitUsage, stderr: "--invalid: got 2, limits 0 to 1", try: "welfarehub simulate"},
		{args: "up --invalid 2 --late -1", code: exitUsage, stderr: "--invalid: got 2, limits 0 to 1\n--late: got -1, limits 0 to 1", try: "welfarehub up"},
		{args: "up --invalid 0.5 --duplicates 0.5", code: exitUsage, stderr: "--duplicates, --corrections, --revocations, --invalid, --erasures: got 1.0", try: "welfarehub up"},
		{args: "simulate --events 1 --format xml --out " + dir, code: exitUsage, stderr: "avro or jsonl", try: "welfarehub simulate"},
		{args: "publish " + bad, code: exitUsage, stderr: "--dry-run", try: "welfarehub publish"},
		{args: "publish --wait " + kafka + " " + registry + " " + bad, code: exitUsage, stderr: "--clickhouse-dsn", try: "welfarehub publish"},
		{args: "publish --dry-run --mapping nowhere " + bad, code: exitFailure, stderr: "istat_population"},

		{args: "publish --dry-run " + bad, code: exitFailure, stdout: "1 records with problems", stderr: "bad.jsonl:1"},
		{args: "schema register " + registry, code: exitFailure, stderr: "127.0.0.1:1"},
		{args: "serve --clickhouse-dsn clickhouse://hub:hush@127.0.0.1:1/", code: exitFailure, stderr: "127.0.0.1:1"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			code := run(strings.Fields(tc.args), &stdout, &stderr)
			if code != tc.code {
				t.Errorf("exit code %d, want %d", code, tc.code)
			}
			if !strings.Contains(stdout.String(), tc.stdout) {
				t.Errorf("stdout lacks %q", tc.stdout)
			}
			if !strings.Contains(stderr.String(), tc.stderr) {
				t.Errorf("stderr lacks %q", tc.stderr)
			}
			hint := "Try: " + tc.try + " --help\n"
			if got := strings.Contains(stderr.String(), "Try: "); got != (tc.try != "") || got && !strings.HasSuffix(stderr.String(), hint) {
				t.Errorf("want the hint %q at the end, or none", hint)
			}
			if code != exitOK && !strings.Contains(stderr.String(), "Error: ") {
				t.Error("no line begins with Error:")
			}
			if strings.Contains(stderr.String(), "hush") {
				t.Error("the error shows a password")
			}
			if t.Failed() {
				t.Logf("stdout:\n%s\nstderr:\n%s", stdout.String(), stderr.String())
			}
		})
	}
}

// TestConfigurationErrorsAreListedAtOnce gives a command a file and an environment that are both wrong.
func TestConfigurationErrorsAreListedAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.yml")
	text := "rate: fast\nhistroy: 10\nflush-age: 3\nkafka-brokers: [a:1, b:2]\nclickhouse-dsn: ${NOT_SET_ANYWHERE}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("WELFAREHUB_PARTITIONS", "many")
	t.Setenv("WELFAREHUB_RETENTION_BITES", "1")
	var stdout, stderr bytes.Buffer
	if code := run([]string{"up", "--config", file}, &stdout, &stderr); code != exitUsage {
		t.Errorf("exit code %d, want %d", code, exitUsage)
	}
	for _, want := range []string{
		"Error: configuration: 6 problems",
		file + ":1: rate: got \"fast\"",
		file + ":2: histroy: unknown key", "did you mean history?",
		file + ":3: flush-age",
		file + ":5: clickhouse-dsn", "NOT_SET_ANYWHERE",
		"environment: WELFAREHUB_PARTITIONS",
		"environment: WELFAREHUB_RETENTION_BITES", "did you mean WELFAREHUB_RETENTION_BYTES?",
		"Try: welfarehub up --help",
	} {
		if !strings.Contains(stderr.String(), want) {
			t.Errorf("stderr lacks %q", want)
		}
	}
	if t.Failed() {
		t.Logf("stderr:\n%s", stderr.String())
	}
}

// TestConfigurationReachesCommands checks the order of precedence on a command that says what it got.
func TestConfigurationReachesCommands(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hub.yml")
	if err := os.WriteFile(file, []byte("log-level: from-file\nrate: 3 # of another command\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got := func(args ...string) string {
		var stdout, stderr bytes.Buffer
		if code := run(append([]string{"serve"}, args...), &stdout, &stderr); code != exitUsage {
			t.Errorf("serve %v exits %d, want %d", args, code, exitUsage)
		}
		_, rest, _ := strings.Cut(stderr.String(), `--log-level "`)
		level, _, _ := strings.Cut(rest, `"`)
		return level
	}
	if l := got("--config", file); l != "from-file" {
		t.Errorf("with the file: %q", l)
	}
	t.Setenv("WELFAREHUB_CONFIG", file)
	if l := got(); l != "from-file" {
		t.Errorf("with the file named by the environment: %q", l)
	}
	t.Setenv("WELFAREHUB_LOG_LEVEL", "from-environment")
	if l := got("--config", file); l != "from-environment" {
		t.Errorf("with file and environment: %q", l)
	}
	if l := got("--config", file, "--log-level", "from-flag"); l != "from-flag" {
		t.Errorf("with all three: %q", l)
	}
}
