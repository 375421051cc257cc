package broker

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"

	"go.uber.org/zap"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// repairLogs cuts what a kill or a full disk left half written at the end of the append logs. kfake skips such an end
// when it loads, but then appends behind it: every offset committed from there on would be lost at the next start.
func repairLogs(dir string, log *zap.Logger) error {
	for _, name := range []string{"groups.log", "pids.log"} {
		path := filepath.Join(dir, name)
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", path, err)
		}
		whole := wholeEntries(raw)
		if whole == len(raw) {
			continue
		}
		log.Warn("broker cuts a half-written entry", zap.String("file", path), zap.Int("bytes", len(raw)-whole))
		if err := os.Truncate(path, int64(whole)); err != nil {
			return fmt.Errorf("repair %s: %w", path, err)
		}
	}
	return nil
}

// wholeEntries is the length of the complete entries at the start of a log. An entry is, little-endian: 4 bytes of
// length, 4 bytes of CRC-32C, and then as many bytes as length says (2 of version, the rest JSON), which the CRC covers.
func wholeEntries(raw []byte) int {
	pos := 0
	for len(raw)-pos >= 10 {
		length := int64(binary.LittleEndian.Uint32(raw[pos:]))
		if length < 2 || int64(pos)+8+length > int64(len(raw)) {
			break
		}
		end := pos + 8 + int(length)
		if crc32.Checksum(raw[pos+8:end], castagnoli) != binary.LittleEndian.Uint32(raw[pos+4:]) {
			break
		}
		pos = end
	}
	return pos
}
