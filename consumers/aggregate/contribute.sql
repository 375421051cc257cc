{{- /* What the groups in question add to the cells, from the facts in force below the aggregated
positions. Every branch gives the key columns, then the measures in their order in store.contrib.

Wanted    predicate on grp: the groups to compute
Snapshot  predicate on (type, partition, offset): what this computation may see
Now       the horizon in milliseconds

Two tables travel with the query: dead, the positions below Snapshot that are not in force, and
services, what the offers that the groups name are. They are small, and computing them apart keeps
this query to one scan of the facts: a WITH that is used twice is run twice. */ -}}

{{define "facts"}}
    SELECT *, {{month "instant"}} AS month
    FROM store.facts
    WHERE {{.Wanted}} AND gone = 0 AND {{.Snapshot}}
      AND (rec, partition, offset) NOT IN (SELECT reinterpretAsUInt128(rec), partition, offset FROM dead)
{{end}}

{{define "contribute"}}
WITH
    toInt64({{.Now}}) AS now_ms,
    ('UNMAPPED', 'UNKNOWN') AS unmapped,
    toFixedString('', 6) AS nowhere
SELECT
    grp, comune, nomenclature, area, month, unit,
    sum(if(measure = 1, toInt64(value), 0)) AS requests,
    sum(if(measure = 2, toInt64(value), 0)) AS granted,
    sum(if(measure = 3, toInt64(value), 0)) AS refused,
    sum(if(measure = 4, toInt64(value), 0)) AS waiting,
    sum(if(measure = 5, value, 0)) AS capacity,
    sum(if(measure = 6, value, 0)) AS occupied,
    sum(if(measure = 7, value, 0)) AS delivered,
    sum(if(measure = 8, value, 0)) AS amount,
    sum(if(measure = 9, toInt64(value), 0)) AS residents,
    sum(if(measure = 10, toInt64(value), 0)) AS mark
FROM
(
    SELECT
        grp, c.1 AS comune, c.2.1 AS nomenclature, c.2.2 AS area, c.3 AS month, c.4 AS unit, c.5 AS measure, c.6 AS value
    FROM
    (
        -- Each level below names what the next one uses more than once: the analyzer repeats a named
        -- expression wherever its name stands.
        SELECT
            grp,
            arrayConcat(
                counted,
                arrayMap(x -> (x.1, own, x.2, '', toUInt8(3), toDecimal64(1, 3)), refusals),
                arrayMap(x -> (x.1, x.2, x.3, x.4, toUInt8(7), x.5), deliveries),
                arrayMap(x -> (x.1, x.2, x.3, '', toUInt8(8), x.6), deliveries),
                arrayMap(s -> (s.1.7, s.3, s.1.8, '', toUInt8(4), toDecimal64(1, 3)), spells),
                arrayMap(s -> (s.1.7, s.3, s.2.8, '', toUInt8(4), toDecimal64(-1, 3)), arrayFilter(s -> s.2.6 > 0 AND s.2.1 <= now_ms, spells)),
                -- Capacity: what stands from a month on, less what stood before.
                arrayMap((m, s) -> (s.1, s.2, m, '', toUInt8(5), s.3), months, stands),
                arrayMap((m, s) -> (s.1, s.2, m, '', toUInt8(6), s.4), months, stands),
                arrayMap((m, s) -> (s.1, s.2, m, '', toUInt8(5), CAST(-s.3, 'Decimal(18, 3)')), arrayPopFront(months), arrayPopBack(stands)),
                arrayMap((m, s) -> (s.1, s.2, m, '', toUInt8(6), CAST(-s.4, 'Decimal(18, 3)')), arrayPopFront(months), arrayPopBack(stands)),
                service_of) AS cells
        FROM
        (
            SELECT
                grp, own, counted, refusals, months, service_of,
                arrayMap(x -> (x.1, multiIf(given = 1, own, x.6 = 1, x.7, unmapped), x.2, x.3, x.4, x.5), all_deliveries) AS deliveries,

                -- Waits: an ENTER counts until the next row of its timeline, which has the rows of its own service and
                -- every LEAVE as PLACED.
                arrayFilter(s -> s.1.6 = 1 AND s.1.1 <= now_ms, arrayMap(
                    (w, i) -> (w, arrayFirst(x -> x.5 = w.5 OR x.6 = 3, arraySlice(waits, i + 1)), if(w.9 = 1, w.10, own)),
                    waits, arrayEnumerate(waits))) AS spells,

                -- Capacity at the end of each month in which something changes: without any offer it counts as
                -- unmapped; else only under an offer that is open and valid then.
                arrayMap(f -> (f.1.1, f.1.2, CAST(if(f.1.3, f.2.4 + f.3.4, 0), 'Decimal(18, 3)'), CAST(if(f.1.3, f.2.5 + f.3.5, 0), 'Decimal(18, 3)')),
                    arrayMap(t -> (
                            if(empty(offers), (nowhere, unmapped, true), arrayMap(o -> (o.3, o.4, o.5 = 1 AND o.6 <= t AND t < o.7), [arrayLast(o -> o.1 <= t, offers)])[1]),
                            arrayLast(x -> x.1 <= t, places),
                            arrayLast(x -> x.1 <= t, beds)),
                        ends)) AS stands
            FROM
            (
                SELECT
                    grp, counted, refusals, all_deliveries, waits,
                    first_record.1 AS given,
                    if(first_record.1 = 1, first_record.2, unmapped) AS own,
                    -- Of each month only the last state counts, which keeps the look-ups short.
                    arrayFilter((o, next) -> o.8 != next, all_offers, arrayShiftLeft(all_offers.8, 1, toUInt16(0))) AS offers,
                    arrayFilter((x, next) -> x.6 != next, all_places, arrayShiftLeft(all_places.6, 1, toUInt16(0))) AS places,
                    arrayFilter((x, next) -> x.6 != next, all_beds, arrayShiftLeft(all_beds.6, 1, toUInt16(0))) AS beds,
                    if(empty(all_places) AND empty(all_beds), [], changed) AS months,
                    arrayMap(m -> least(now_ms, {{monthEnd "m"}}), months) AS ends,
                    if(empty(all_offers), [], [(nowhere, ((all_offers[-1]).4.1, '#service'), toUInt16(0), (all_offers[-1]).4.2, toUInt8(10), toDecimal64(1, 3))]) AS service_of
                FROM
                (
                    SELECT
                        grp,
                        -- The service of the request or of the benefit; its first member is 0 where no record gives it.
                        argMinIf((toUInt8(1), (toString(nomenclature), toString(area))), (occurred_at, source_record_id), type IN (3, 6)) AS first_record,
                        groupArrayIf((comune, (toString(nomenclature), toString(area)), month, '', if(type = 3, toUInt8(1), toUInt8(2)), toDecimal64(1, 3)),
                            type = 3 OR (type = 6 AND kind = 1)) AS counted,
                        groupArrayIf((comune, month), type = 4 AND kind = 1) AS refusals,
                        groupArrayIf((comune, {{monthOfDate "valid_from"}}, toString(unit), a, b, offered, service), type = 7) AS all_deliveries,
                        arraySort(w -> (w.1, w.2, w.3, w.4), groupArrayIf(
                            (ms, toUInt8(kind > 1), source_record_id, toString(source), sid, kind, comune, month, offered, service),
                            type = 5 AND kind > 0)) AS waits,
                        arraySort(o -> (o.1, o.2), groupArrayIf(
                            (toUnixTimestamp64Milli(occurred_at), source_record_id, comune, (toString(nomenclature), toString(area)), kind, from_ms, to_ms, month),
                            type = 1)) AS all_offers,
                        arraySort(x -> (x.1, x.2, x.3), groupArrayIf((ms, occurred_at, source_record_id, a, b, month), type = 2 AND unit = 'PLACE' AND ms <= now_ms)) AS all_places,
                        arraySort(x -> (x.1, x.2, x.3), groupArrayIf((ms, occurred_at, source_record_id, a, b, month), type = 2 AND unit = 'BED' AND ms <= now_ms)) AS all_beds,
                        arraySort(groupUniqArrayArray(changes)) AS changed
                    FROM
                    (
                        SELECT
                            grp, type, kind, comune, nomenclature, area, unit, month, source, source_record_id, occurred_at, sid, a, b, valid_from, service, offered, ms, from_ms, to_ms,
                            arrayMap(x -> {{month "fromUnixTimestamp64Milli(x, 'UTC')"}}, arrayFilter(x -> x <= now_ms, multiIf(
                                type = 1, [ms, from_ms, to_ms],
                                type = 2, [ms],
                                []))) AS changes
                        FROM
                        (
                            SELECT
                                f.*, s.service AS service, s.found AS offered,
                                toUnixTimestamp64Milli(f.instant) AS ms,
                                toUnixTimestamp64Milli(toDateTime64(f.valid_from, 3, 'Europe/Rome')) AS from_ms,
                                toUnixTimestamp64Milli(toDateTime64(f.valid_to, 3, 'Europe/Rome')) AS to_ms
                            FROM ({{template "facts" .}} AND type < 9 LIMIT 1 BY rec) AS f
                            LEFT JOIN (SELECT reinterpretAsUInt128(offer) AS offer, (nomenclature, area) AS service, 1 AS found FROM services) AS s ON s.offer = f.svc
                        )
                    )
                    GROUP BY grp
                )
            )
        )
    )
    ARRAY JOIN cells AS c
{{if .Population}}
    UNION ALL
    -- Residents: the value of the newest reference date, as steps; mark is 1 from where one is known.
    SELECT grp, comune, '' AS nomenclature, '#population' AS area, s.1 AS month, '' AS unit, s.2 AS measure, s.3 AS value
    FROM
    (
        SELECT
            grp, comune,
            arraySort(groupArray((month, at_last))) AS levels,
            arrayConcat(
                arrayMap((l, before) -> (l.1, toUInt8(9), l.2 - before), levels, arrayShiftRight(levels.2, 1, toDecimal64(0, 3))),
                [((levels[1]).1, toUInt8(10), toDecimal64(1, 3))]) AS steps
        FROM
        (
            SELECT grp, comune, {{monthOfDate "date"}} AS month, argMax(of_date, date) AS at_last
            FROM
            (
                SELECT grp, comune, date, argMin(residents, source) AS of_date
                FROM
                (
                    SELECT
                        grp, comune, date, source,
                        groupArray((sex, toInt32(intDiv(toInt64(b), 1000)), toInt32(toInt64(b) % 1000), people)) AS bands,
                        arrayFirst(x -> x.1 = 0 AND x.2 = 0 AND x.3 = 100, bands) AS total,
                        arrayFirst(x -> x.1 = 1 AND x.2 = 0 AND x.3 = 100, bands) AS whole_m,
                        arraySort(x -> x.2, arrayFilter(x -> x.1 = 1, bands)) AS parts_m,
                        notEmpty(parts_m) AND (parts_m[-1]).3 = 100
                            AND arrayAll((x, start) -> x.2 = start, parts_m, arrayShiftRight(arrayMap(x -> toInt32(x.3 + 1), parts_m), 1, toInt32(0))) AS chained_m,
                        if(whole_m.3 = 100, whole_m.4, CAST(arraySum(parts_m.4), 'Decimal(18, 3)')) AS residents_m,
                        arrayFirst(x -> x.1 = 2 AND x.2 = 0 AND x.3 = 100, bands) AS whole_f,
                        arraySort(x -> x.2, arrayFilter(x -> x.1 = 2, bands)) AS parts_f,
                        notEmpty(parts_f) AND (parts_f[-1]).3 = 100
                            AND arrayAll((x, start) -> x.2 = start, parts_f, arrayShiftRight(arrayMap(x -> toInt32(x.3 + 1), parts_f), 1, toInt32(0))) AS chained_f,
                        if(whole_f.3 = 100, whole_f.4, CAST(arraySum(parts_f.4), 'Decimal(18, 3)')) AS residents_f,
                        total.3 = 100 OR ((whole_m.3 = 100 OR chained_m) AND (whole_f.3 = 100 OR chained_f)) AS known,
                        if(total.3 = 100, total.4, CAST(residents_m + residents_f, 'Decimal(18, 3)')) AS residents
                    FROM
                    (
                        SELECT grp, comune, valid_from AS date, toString(source) AS source, kind AS sex, b, argMin(a, (-version, source_record_id)) AS people
                        FROM ({{template "facts" .}} AND type = 9 AND comune != nowhere LIMIT 1 BY rec)
                        GROUP BY grp, comune, date, source, sex, b
                    )
                    GROUP BY grp, comune, date, source
                    HAVING known
                )
                GROUP BY grp, comune, date
            )
            GROUP BY grp, comune, month
        )
        GROUP BY grp, comune
    )
    ARRAY JOIN steps AS s
{{end}}
)
GROUP BY grp, comune, nomenclature, area, month, unit
{{end}}

{{define "difference"}}
SELECT
    grp, comune, nomenclature, area, month, unit,
    sum(requests) AS requests, sum(granted) AS granted, sum(refused) AS refused, sum(waiting) AS waiting,
    sum(capacity) AS capacity, sum(occupied) AS occupied, sum(delivered) AS delivered, sum(amount) AS amount,
    sum(residents) AS residents, sum(mark) AS mark
FROM
(
    SELECT grp, comune, toString(nomenclature) AS nomenclature, toString(area) AS area, month, toString(unit) AS unit,
        requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark
    FROM ({{template "contribute" .}})
    UNION ALL
    SELECT grp, comune, toString(nomenclature), toString(area), month, toString(unit),
        -requests, -granted, -refused, -waiting, -capacity, -occupied, -delivered, -amount, -residents, -mark
    FROM store.contrib
    WHERE {{.Wanted}} AND grp != 0
)
GROUP BY grp, comune, nomenclature, area, month, unit
HAVING requests != 0 OR granted != 0 OR refused != 0 OR waiting != 0 OR capacity != 0 OR occupied != 0
    OR delivered != 0 OR amount != 0 OR residents != 0 OR mark != 0
{{end}}

{{define "insert"}}
INSERT INTO store.contrib
    (grp, comune, nomenclature, area, month, unit, requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark, updated_at)
SELECT grp, comune, nomenclature, area, month, unit, requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark, now64(3, 'UTC')
FROM
(
    {{template "difference" .}}
    UNION ALL
    SELECT toUInt128(0), toFixedString('', 6), book.1, '#books', toUInt16(book.2), '', 0, 0, 0, 0, 0, 0, 0, 0, 0, toInt64(book.3)
    FROM (SELECT arrayJoin({{.Books}}) AS book)
)
-- A cycle that another aggregator has done in the meantime is not done again; its token sees to the rest.
WHERE (SELECT sum(mark) FROM store.contrib WHERE grp = 0 AND area = '#books' AND nomenclature = 'cycle') = {{.Cycle}}
{{end}}
