package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

const (
	dataFormat   = 1 // of the folder's layout; a newer one is refused
	logFile      = "engine.log"
	passwordFile = "clickhouse.password"

	maxLogBytes = 8 << 20
	// lockPatience covers the child of a parent that was just killed: it holds the lock for some milliseconds more.
	lockPatience = 3 * time.Second
)

// dataDir is the engine's folder, locked for this process and its child.
type dataDir struct {
	*datadir.Dir        // of root/clickhouse
	root         string // the program's data folder, absolute
}

func (d *dataDir) configFile() string   { return filepath.Join(d.Path, "config.xml") }
func (d *dataDir) usersFile() string    { return filepath.Join(d.Path, "users.xml") }
func (d *dataDir) logFile() string      { return filepath.Join(d.Path, logFile) }
func (d *dataDir) passwordFile() string { return filepath.Join(d.root, passwordFile) }

// openDataDir makes the folder if it is not there, checks that it is ours and has room, and locks it.
func openDataDir(ctx context.Context, root string, minFree int64) (*dataDir, error) {
	if root == "" {
		return nil, fmt.Errorf("%w: no data folder was given", ErrDataDir)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("find data folder %s: %w", root, err)
	}
	dir, err := datadir.Open(ctx, filepath.Join(root, "clickhouse"), datadir.Options{
		Part: "clickhouse", Format: dataFormat, MinFree: minFree, Wait: lockPatience,
	})
	if err != nil {
		return nil, err
	}
	return &dataDir{Dir: dir, root: root}, nil
}

// loadPassword reads hub's password, or makes one at the first start.
func (d *dataDir) loadPassword() (string, error) {
	raw, err := os.ReadFile(d.passwordFile())
	if err == nil {
		if password := strings.TrimSpace(string(raw)); password != "" {
			return password, nil
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read password: %w", err)
	}
	secret := make([]byte, 24)
	rand.Read(secret) // never fails
	password := hex.EncodeToString(secret)
	return password, datadir.WriteFile(d.passwordFile(), []byte(password+"\n"))
}

// openLog opens the file for the child's output, and says where new output begins. The file is for this user only: what
// ClickHouse says of a query may hold values.
func (d *dataDir) openLog() (*os.File, int64, error) {
	f, err := os.OpenFile(d.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	st, err := f.Stat()
	if err == nil && st.Size() > maxLogBytes {
		err = f.Truncate(0)
	}
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	if st.Size() > maxLogBytes {
		return f, 0, nil
	}
	return f, st.Size(), nil
}

// logTail is the child's output from an offset on, at most 64 KiB of it.
func (d *dataDir) logTail(from int64) string {
	f, err := os.Open(d.logFile())
	if err != nil {
		return ""
	}
	defer f.Close()
	raw, _ := io.ReadAll(io.LimitReader(io.NewSectionReader(f, from, 1<<40), 64<<10)) // only for a message
	return string(raw)
}
