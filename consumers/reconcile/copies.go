package reconcile

import (
	"context"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// findCopies looks for events that are loaded at several positions, though each of these is settled and at
// most one may stand: copies that raced in two partitions, of which none was taken out. Ids are stored in
// their order, so this needs no memory for them; a topic of one partition cannot have any.
func (c *check) findCopies(ctx context.Context) error {
	if len(c.partitions) < 2 {
		return nil
	}
	numbers, ends := []uint32{}, []uint64{}
	var (
		partition uint32
		offset    uint64
	)
	if err := c.each(ctx, `SELECT partition, max(settled_to) FROM store.settled WHERE topic = {topic:String} GROUP BY partition`, c.topicArg(), func() error {
		numbers, ends = append(numbers, partition), append(ends, offset)
		return nil
	}, &partition, &offset); err != nil || len(numbers) < 2 {
		return err
	}
	found := map[uint32]*ranges{}
	err := c.each(ctx, `SELECT r.1 AS p, r.2 AS o FROM (
	SELECT arrayPopFront(arraySort(groupUniqArray((partition, offset)))) AS others FROM store.ids
	WHERE type = {type:UInt8} AND offset < transform(partition, {partitions:Array(UInt32)}, {ends:Array(UInt64)}, toUInt64(0))
		AND (partition, offset) NOT IN (SELECT partition, offset FROM store.superseded WHERE topic = {topic:String})
	GROUP BY id_hash HAVING count() > 1
) ARRAY JOIN others AS r ORDER BY p, o SETTINGS optimize_aggregation_in_order = 1`,
		append(c.topicArg(), clickhouse.Named("type", uint8(c.t.No)), clickhouse.Named("partitions", numbers), clickhouse.Named("ends", ends)),
		func() error {
			if found[partition] == nil {
				found[partition] = &ranges{}
			}
			found[partition].add(offset)
			return nil
		}, &partition, &offset)
	for n, r := range found {
		for _, s := range r.list {
			c.find(KindCopies, n, s.from, s.to, s.n, s.detail())
		}
	}
	return err
}
