// Package datadir keeps a folder for one embedded part of one running program. It promises that the folder is ours, of
// a format that we know, writable, has room, and is used by nobody else.
package datadir

import (
	"context"
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

// Open fails with one of these, wrapped in a line that says what to do. All of them are permanent.
var (
	// ErrUnwritable: the folder cannot be made or written.
	ErrUnwritable = errors.New("the data folder cannot be written")
	// ErrForeign: the folder holds something that this program did not write, or wrote in another format.
	ErrForeign = errors.New("the data folder is not ours")
	// ErrLocked: another instance runs on the same data.
	ErrLocked = errors.New("the data folder is in use")
	// ErrFull: less space is free than Options.MinFree.
	ErrFull = errors.New("too little disk space")
)

const (
	owner      = "welfarehub"
	markerFile = "welfarehub.json"
	lockFile   = "welfarehub.lock"
)

// Options of Open.
type Options struct {
	Part    string        // what lives there, as "clickhouse"; one folder is never used for two parts
	Format  int           // of the folder's layout
	MinFree int64         // bytes that must be free; negative for no check
	Wait    time.Duration // how long to wait for an instance that is ending
}

// marker says whose the folder is and how it is laid out.
type marker struct {
	Owner  string `json:"owner"`
	Part   string `json:"part"`
	Format int    `json:"format"`
}

// Dir is a locked folder. The lock ends with Close, or with the last process that inherited Lock.
type Dir struct {
	Path string // absolute
	Lock *os.File
}

// Open makes the folder if it is not there, checks it, and locks it.
func Open(ctx context.Context, path string, opts Options) (*Dir, error) {
	if path == "" {
		return nil, fmt.Errorf("%w: no folder was given", ErrUnwritable)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("find folder %s: %w", path, err)
	}
	d := &Dir{Path: abs}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return nil, fmt.Errorf("%w: %w; choose a folder that you may write", ErrUnwritable, err)
	}
	if err := d.checkOwner(opts); err != nil {
		return nil, err
	}
	if err := d.checkSpace(opts.MinFree); err != nil {
		return nil, err
	}
	if err := d.acquire(ctx, opts.Wait); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(marker{Owner: owner, Part: opts.Part, Format: opts.Format})
	if err == nil {
		err = WriteFile(filepath.Join(d.Path, markerFile), raw)
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// Close gives the folder up. A second Close does nothing.
func (d *Dir) Close() {
	if d.Lock != nil {
		d.Lock.Close()
		d.Lock = nil
	}
}

// checkOwner refuses a folder with content that lacks our marker, or has one of another part or format.
func (d *Dir) checkOwner(opts Options) error {
	raw, err := os.ReadFile(filepath.Join(d.Path, markerFile))
	if errors.Is(err, fs.ErrNotExist) {
		entries, err := os.ReadDir(d.Path)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnwritable, err)
		}
		for _, entry := range entries {
			if entry.Name() != lockFile { // a start that failed early leaves it alone
				return fmt.Errorf("%w: %s holds %s but no %s; choose another data folder, or empty this one", ErrForeign, d.Path, entry.Name(), markerFile)
			}
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	var m marker
	if err := json.Unmarshal(raw, &m); err != nil || m.Owner != owner || m.Part != opts.Part {
		return fmt.Errorf("%w: %s in %s is not of %s's %s; choose another data folder", ErrForeign, markerFile, d.Path, owner, opts.Part)
	}
	if m.Format != opts.Format {
		return fmt.Errorf("%w: %s has format %d, this program knows format %d; use the version that wrote it, or another data folder", ErrForeign, d.Path, m.Format, opts.Format)
	}
	return nil
}

func (d *Dir) checkSpace(minFree int64) error {
	if minFree < 0 {
		return nil
	}
	free, err := FreeBytes(d.Path)
	if err != nil {
		return err
	}
	if free < minFree {
		return fmt.Errorf("%w: %s has %d MiB free, %d MiB are needed; free some, or choose a data folder on another disk", ErrFull, d.Path, free>>20, minFree>>20)
	}
	return nil
}

// FreeBytes is the space that this user may still take on the disk of path.
func FreeBytes(path string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(path, &st); err != nil {
		return 0, fmt.Errorf("read free space of %s: %w", path, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), nil //nolint:unconvert // Bsize is 32 bits wide on some systems
}

// acquire takes the lock, waiting a little for an instance that is ending.
func (d *Dir) acquire(ctx context.Context, wait time.Duration) error {
	f, err := os.OpenFile(filepath.Join(d.Path, lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w; choose a folder that you may write", ErrUnwritable, err)
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
		if time.Since(begin) >= wait {
			err := locked(f, d.Path)
			f.Close()
			return err
		}
		select {
		case <-ctx.Done():
			f.Close()
			return fmt.Errorf("lock %s: %w", f.Name(), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err := f.Truncate(0); err == nil {
		_, _ = fmt.Fprintf(f, "%d\n", os.Getpid()) // only for the message above
	}
	d.Lock = f
	return nil
}

// InUse returns ErrLocked, wrapped, where an instance runs on the folder. It waits for nothing and changes nothing.
func InUse(path string) error {
	f, err := os.Open(filepath.Join(path, lockFile))
	if err != nil {
		return nil // nobody has begun on it, or Open will say what is wrong
	}
	defer f.Close()
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB); !errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	return locked(f, path)
}

func locked(f *os.File, path string) error {
	holder, _ := io.ReadAll(io.LimitReader(f, 32)) // only for the message
	return fmt.Errorf("%w: process %s runs on %s; stop it, or choose another data folder", ErrLocked, strings.TrimSpace(string(holder)), path)
}

// WriteFile replaces a file, for this user's eyes only, in one step that survives a power cut.
func WriteFile(path string, content []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	_, err = f.Write(content)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnwritable, err)
	}
	return nil
}
