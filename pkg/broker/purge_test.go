package broker

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/segmentio/kafka-go"
)

// TestPurgeTakesWholeSegmentsOffTheDisk is what the runbook says of a personal code in a topic: records before an
// offset are gone for readers, but stay in a segment that holds later ones, and come back with a kill; all records are
// off the disk at once.
func TestPurgeTakesWholeSegmentsOffTheDisk(t *testing.T) {
	const secret = "what must not be kept"
	dir := t.TempDir()
	p := startProcess(t, dir, "")
	topic(t, p.addr, TopicSpec{Name: "t"})
	produce(t, p.addr, "t", 3, 1, 10)
	conn, err := kafka.DialLeader(t.Context(), "tcp", p.addr, "t", 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteMessages(kafka.Message{Value: []byte(secret)}); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	produce(t, p.addr, "t", 6, 1, 10)
	onDisk := func() bool {
		found := false
		if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			raw, err := os.ReadFile(path)
			found = found || bytes.Contains(raw, []byte(secret))
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	if !onDisk() {
		t.Fatal("the record is not on the disk in plain, so this test shows nothing")
	}
	deleteRecords(t, p.addr, "t", 4)
	if first, last := ends(t, p.addr, "t"); first != 4 || last != 10 {
		t.Errorf("log is [%d, %d) after a purge up to 4", first, last)
	}
	if !onDisk() {
		t.Error("the bytes have left the disk: the runbook says that they have not")
	}
	p.kill()
	p = startProcess(t, dir, p.addr)
	if first, _ := ends(t, p.addr, "t"); first != 0 {
		t.Errorf("log begins at %d after a kill: the runbook says that the records are back", first)
	}

	deleteRecords(t, p.addr, "t", -1)
	if onDisk() {
		t.Error("the bytes are on the disk after a purge of all records")
	}
	p.kill()
	p = startProcess(t, dir, p.addr)
	if _, last := ends(t, p.addr, "t"); last != 10 || onDisk() {
		t.Errorf("log ends at %d after a purge of all records and a kill, want 10; on disk: %v", last, onDisk())
	}
	if end := produce(t, p.addr, "t", 1, 1, 10); end != 11 {
		t.Errorf("log ends at %d after one more", end)
	}
}
