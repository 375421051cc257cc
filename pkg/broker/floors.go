package broker

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"go.uber.org/zap"

	"github.com/welfarehub/welfarehub/pkg/datadir"
)

const floorsFile = "floors.json"

// floor is where the partitions of a topic ended when it was written; the id tells a topic from a later one of its name.
type floor struct {
	ID   json.RawMessage `json:"id"`
	Ends map[int32]int64 `json:"ends"`
}

// saveFloors writes the end of each partition, so that raiseFloors can go on from there.
func (b *Broker) saveFloors() error {
	b.floorMu.Lock()
	defer b.floorMu.Unlock()
	topics, err := readTopics(b.dir.Path)
	if err != nil {
		return err
	}
	floors := make(map[string]floor, len(topics.Topics))
	for _, topic := range topics.Topics {
		f := floor{ID: topic.ID, Ends: make(map[int32]int64)}
		for _, p := range b.cluster.PartitionInfos(topic.Name) {
			if p.HighWatermark > 0 {
				f.Ends[p.Partition] = p.HighWatermark
			}
		}
		if len(f.Ends) > 0 {
			floors[topic.Name] = f
		}
	}
	raw, err := json.Marshal(floors)
	if err != nil {
		return fmt.Errorf("encode %s: %w", floorsFile, err)
	}
	return datadir.WriteFile(filepath.Join(b.dir.Path, floorsFile), raw)
}

// raiseFloors puts an empty batch at the known end of each partition that has no file left, so that its offsets go on
// and do not start over. Kafka itself leaves such batches behind when it compacts.
func raiseFloors(dir string, log *zap.Logger) error {
	floors := make(map[string]floor)
	if err := readJSON(filepath.Join(dir, floorsFile), &floors); err != nil {
		return err
	}
	topics, err := readTopics(dir)
	if err != nil {
		return err
	}
	for _, topic := range topics.Topics {
		f, ok := floors[topic.Name]
		if !ok || string(f.ID) != string(topic.ID) {
			continue
		}
		for partition, end := range f.Ends {
			if int(partition) >= topic.Partitions || end == 0 {
				continue
			}
			pdir := filepath.Join(dir, "partitions", fmt.Sprintf("%s-%d", url.PathEscape(topic.Name), partition))
			empty, err := withoutData(pdir)
			if err != nil {
				return err
			}
			if !empty {
				continue
			}
			if err := os.MkdirAll(pdir, 0o755); err != nil {
				return fmt.Errorf("%w: %w", datadir.ErrUnwritable, err)
			}
			path := filepath.Join(pdir, fmt.Sprintf("%d.dat", end-1))
			if err := datadir.WriteFile(path, emptyBatch(end-1)); err != nil {
				return err
			}
			log.Info("broker goes on at a known offset", zap.String("topic", topic.Name), zap.Int32("partition", partition), zap.Int64("offset", end))
		}
	}
	return nil
}

func withoutData(pdir string) (bool, error) {
	entries, err := os.ReadDir(pdir)
	if os.IsNotExist(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("list %s: %w", pdir, err)
	}
	for _, entry := range entries {
		if !strings.HasSuffix(entry.Name(), ".dat") {
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return false, fmt.Errorf("list %s: %w", pdir, err)
		}
		if info.Size() > 0 {
			return false, nil
		}
	}
	return true, nil
}

// emptyBatch is a record batch (magic 2) that holds no record and takes one offset.
func emptyBatch(offset int64) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(offset))
	b = binary.BigEndian.AppendUint32(b, 49)         // length of what follows
	b = binary.BigEndian.AppendUint32(b, 0)          // leader epoch
	b = append(b, 2)                                 // magic
	b = binary.BigEndian.AppendUint32(b, 0)          // CRC, below
	b = binary.BigEndian.AppendUint16(b, 0)          // attributes
	b = binary.BigEndian.AppendUint32(b, 0)          // last offset delta
	b = binary.BigEndian.AppendUint64(b, 0)          // first timestamp
	b = binary.BigEndian.AppendUint64(b, 0)          // max timestamp
	b = binary.BigEndian.AppendUint64(b, ^uint64(0)) // producer id: none
	b = binary.BigEndian.AppendUint16(b, 0xffff)     // producer epoch: none
	b = binary.BigEndian.AppendUint32(b, ^uint32(0)) // first sequence: none
	b = binary.BigEndian.AppendUint32(b, 0)          // records
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
	return b
}
