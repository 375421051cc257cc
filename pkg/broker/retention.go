package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/zap"
)

// Why retention is ours and not kfake's: kfake applies it once an hour, to compacted topics too, and its compaction
// removes files before it writes their successors. Worst, a partition whose last record expired has nothing on disk that
// says where it was: after a start its offsets begin at 0 again, and a loader would take new events for old ones.
// So we trim at least one record short of the end, and floors.json keeps the end of each partition for the rest.

// topicsFile is what kfake writes whenever topics change.
type topicsFile struct {
	Topics []struct {
		Name       string            `json:"name"`
		ID         json.RawMessage   `json:"id"`
		Partitions int               `json:"partitions"`
		Configs    map[string]string `json:"configs"`
	} `json:"topics"`
}

func readTopics(dir string) (topicsFile, error) {
	var topics topicsFile
	err := readJSON(filepath.Join(dir, "topics.json"), &topics)
	return topics, err
}

// readJSON leaves v alone if the file is not there.
func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}

func (b *Broker) retainForever() {
	defer b.wg.Done()
	tick := time.NewTicker(b.opts.RetentionInterval)
	defer tick.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-tick.C:
			if err := b.retain(); err != nil {
				b.opts.Logger.Warn("broker could not apply retention", zap.Error(err))
			}
		}
	}
}

// retain trims every partition to its retention.
func (b *Broker) retain() error {
	topics, err := readTopics(b.dir.Path)
	if err != nil {
		return err
	}
	type cut struct {
		topic     string
		partition int32
		offset    int64
	}
	var cuts []cut
	for _, topic := range topics.Topics {
		if policy := topic.Configs["cleanup.policy"]; policy != "" && !strings.Contains(policy, "delete") {
			continue
		}
		bytes := number(topic.Configs["retention.bytes"], b.opts.RetentionBytes)
		age := number(topic.Configs["retention.ms"], -1)
		for _, p := range b.cluster.PartitionInfos(topic.Name) {
			offset := offsetForBytes(p, bytes)
			if age >= 0 && p.HighWatermark > p.LogStartOffset {
				expired, err := b.offsetForAge(topic.Name, p, age)
				if err != nil {
					return err
				}
				offset = max(offset, expired)
			}
			if offset = min(offset, p.HighWatermark-1); offset > p.LogStartOffset {
				cuts = append(cuts, cut{topic.Name, p.Partition, offset})
			}
		}
	}
	if len(cuts) == 0 {
		return nil
	}
	if err := b.saveFloors(); err != nil {
		return err
	}
	for _, c := range cuts {
		// Out of range: somebody else trimmed or deleted meanwhile.
		if err := b.cluster.DeleteRecords(c.topic, c.partition, c.offset); err != nil {
			b.opts.Logger.Debug("broker could not trim", zap.String("topic", c.topic), zap.Int32("partition", c.partition), zap.Error(err))
		}
	}
	return nil
}

func number(s string, otherwise int64) int64 {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n
	}
	return otherwise
}

// offsetForBytes takes records for equally long: what is cut too little now is cut the next time.
func offsetForBytes(p *kfake.PartitionInfo, limit int64) int64 {
	if limit < 0 || p.NumBytes <= limit {
		return p.LogStartOffset
	}
	share := float64(p.NumBytes-limit) / float64(p.NumBytes)
	return p.LogStartOffset + int64(share*float64(p.HighWatermark-p.LogStartOffset))
}

// offsetForAge is the first offset that is younger than age, in milliseconds; the end if there is none.
func (b *Broker) offsetForAge(topic string, p *kfake.PartitionInfo, age int64) (int64, error) {
	since := time.Now().UnixMilli() - age
	if p.MaxTimestamp < since {
		return p.HighWatermark, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := kafka.Client{Addr: kafka.TCP(b.addr), Transport: b.transport}
	resp, err := client.ListOffsets(ctx, &kafka.ListOffsetsRequest{
		Topics: map[string][]kafka.OffsetRequest{topic: {{Partition: int(p.Partition), Timestamp: since}}},
	})
	if err != nil {
		return 0, fmt.Errorf("find offset by time in %s partition %d: %w", topic, p.Partition, err)
	}
	offset := p.LogStartOffset
	for _, po := range resp.Topics[topic] {
		for o := range po.Offsets {
			offset = max(offset, o)
		}
	}
	return offset, nil
}

// guardDeletes saves the ends of partitions before a client's DeleteRecords can empty one, as a purge does.
func (b *Broker) guardDeletes() {
	b.cluster.ControlKey(kmsg.DeleteRecords.Int16(), func(kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		if err := b.saveFloors(); err != nil {
			b.opts.Logger.Error("broker refuses to delete records", zap.Error(err))
			return nil, err, true // closes the connection
		}
		return nil, nil, false
	})
}
