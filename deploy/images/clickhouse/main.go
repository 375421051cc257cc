// Command launch is the entry point of welfarehub/clickhouse:test: the embedded engine, listening for other containers.
// As in the vendor's image, CLICKHOUSE_PASSWORD is the password; CLICKHOUSE_USER may only be hub, which has all rights.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/engine"
)

const dataDir = "/var/lib/clickhouse"

func main() {
	engine.RunIfChild()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if user := os.Getenv("CLICKHOUSE_USER"); user != "" && user != engine.UserHub {
		return fmt.Errorf("CLICKHOUSE_USER is %s: this image has no user but %s", user, engine.UserHub)
	}
	if password := os.Getenv("CLICKHOUSE_PASSWORD"); password != "" {
		if err := os.MkdirAll(dataDir, 0o700); err != nil {
			return fmt.Errorf("make data folder: %w", err)
		}
		if err := os.WriteFile(filepath.Join(dataDir, "clickhouse.password"), []byte(password), 0o600); err != nil {
			return fmt.Errorf("write password: %w", err)
		}
	}
	log, err := zap.NewProduction()
	if err != nil {
		return fmt.Errorf("make logger: %w", err)
	}
	e, err := engine.Start(ctx, engine.Options{
		Library: "/lib/libchdb.so", DataDir: dataDir, Native: "0.0.0.0:9000", HTTP: "0.0.0.0:8123", MemoryLimit: 1 << 30, Logger: log,
	})
	if err != nil {
		return err
	}
	<-ctx.Done()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	return e.Stop(ctx)
}
