package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	dataFormat   = 1 // of the folder's layout; a newer one is refused
	markerFile   = "welfarehub.json"
	lockFile     = "welfarehub.lock"
	logFile      = "engine.log"
	passwordFile = "clickhouse.password"

	maxLogBytes = 8 << 20
	// lockPatience covers the child of a parent that was just killed: it holds the lock for some milliseconds more.
	lockPatience = 3 * time.Second
)

// marker says that a folder is ours and how it is laid out.
type marker struct {
	Owner  string `json:"owner"`
	Format int    `json:"format"`
}

// dataDir is the engine's folder, locked for this process and its child.
type dataDir struct {
	root string // the program's data folder
	path string // root/clickhouse, absolute
	lock *os.File
}

func (d *dataDir) configFile() string   { return filepath.Join(d.path, "config.xml") }
func (d *dataDir) usersFile() string    { return filepath.Join(d.path, "users.xml") }
func (d *dataDir) logFile() string      { return filepath.Join(d.path, logFile) }
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
	d := &dataDir{root: root, path: filepath.Join(root, "clickhouse")}
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w; choose a folder that you may write", ErrDataDir, err)
	}
	if err := d.checkOwner(); err != nil {
		return nil, err
	}
	if err := d.checkSpace(minFree); err != nil {
		return nil, err
	}
	if err := d.acquire(ctx); err != nil {
		return nil, err
	}
	if err := d.writeMarker(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// checkOwner refuses a folder with content that lacks our marker, or has one of a newer format.
func (d *dataDir) checkOwner() error {
	raw, err := os.ReadFile(filepath.Join(d.path, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(d.path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDataDir, err)
		}
		for _, entry := range entries {
			if entry.Name() != lockFile { // a start that failed early leaves it alone
				return fmt.Errorf("%w: %s holds %s but no %s; choose another data folder, or empty this one", ErrForeignData, d.path, entry.Name(), markerFile)
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil || m.Owner != "welfarehub" {
		return fmt.Errorf("%w: %s in %s is not ours; choose another data folder", ErrForeignData, markerFile, d.path)
	}
	if m.Format != dataFormat {
		return fmt.Errorf("%w: %s has format %d, this program knows format %d; use the version that wrote it, or another data folder", ErrForeignData, d.path, m.Format, dataFormat)
	}
	return nil
}

func (d *dataDir) checkSpace(minFree int64) error {
	if minFree < 0 {
		return nil
	}
	var st syscall.Statfs_t
	if err := syscall.Statfs(d.path, &st); err != nil {
		return fmt.Errorf("read free space of %s: %w", d.path, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < minFree {
		return fmt.Errorf("%w: %s has %d MiB free, %d MiB are needed; free some, or choose a data folder on another disk", ErrDiskFull, d.path, free>>20, minFree>>20)
	}
	return nil
}

// acquire takes the folder's lock. The child inherits it, so a second instance is refused as long as either lives.
func (d *dataDir) acquire(ctx context.Context) error {
	f, err := os.OpenFile(filepath.Join(d.path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w; choose a folder that you may write", ErrDataDir, err)
	}
	for begin := time.Now(); ; {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			f.Close()
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		if time.Since(begin) > lockPatience {
			holder, _ := io.ReadAll(io.LimitReader(f, 32)) // only for the message
			f.Close()
			return fmt.Errorf("%w: process %s runs on %s; stop it, or choose another data folder", ErrLocked, strings.TrimSpace(string(holder)), d.path)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // only for the message above
	}
	d.lock = f
	return nil
}

func (d *dataDir) close() {
	if d.lock != nil {
		d.lock.Close()
		d.lock = nil
	}
}

func (d *dataDir) writeMarker() error {
	raw, err := json.Marshal(marker{Owner: "welfarehub", Format: dataFormat})
	if err != nil {
		return fmt.Errorf("encode %s: %w", markerFile, err)
	}
	return writeFile(filepath.Join(d.path, markerFile), raw)
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
	return password, writeFile(d.passwordFile(), []byte(password+"\n"))
}

// writeFile replaces a file for this user's eyes only, in one step.
func writeFile(path string, content []byte) error {
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, content, 0o600); err != nil {
		return fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("%w: %w", ErrDataDir, err)
	}
	return nil
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
