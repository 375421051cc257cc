-- Aggregates: supply and demand by territory, service, area of users and month.
--
-- store.facts     slim rows of the events that count, kept together by group
-- store.records   where each version of each record is, and what revokes it
-- store.instants  instants that lie after their event and so become due later
-- store.contrib   what each group adds to each cell; written by consumers/aggregate only
--
-- store.facts_of_<event> and store.records_of_revocations are views that say how rows of an event make facts.
-- A cycle of the aggregation feeds store.facts through them, the rows of all new blocks at once: fed with each
-- block they would cost more than the block itself. What facts say of records and instants follows from there.
--
-- A group is all facts of one request, one benefit, one offer or the population of one territory. What a group
-- adds to the cells is a function of its facts in force, of the offers that they name and of "now",
-- so it can be computed again at any time, and only the difference is written.

-- +goose NO TRANSACTION
-- +goose Up

CREATE TABLE IF NOT EXISTS store.facts
(
    grp UInt128 COMMENT 'group: sipHash128 of family tag, source and id',
    rec UInt128 COMMENT 'record: sipHash128 of event number, source and sourceRecordId',
    type UInt8 COMMENT 'number of the event in the catalogue',
    partition UInt32 COMMENT 'partition of its topic',
    offset UInt64 COMMENT 'offset in the partition',
    gone UInt8 COMMENT '1: a tombstone, the row of this position is erased or superseded',
    version Int64 COMMENT 'recordVersion',
    hash FixedString(16) COMMENT 'first half of the content hash; among equal versions the lowest is in force',
    occurred_at DateTime64(3, 'UTC') COMMENT 'occurredAt',
    source LowCardinality(String) COMMENT 'source of the record',
    source_record_id String COMMENT 'sourceRecordId',
    comune FixedString(6) COMMENT 'comune of the subject or of the offer',
    nomenclature LowCardinality(String) COMMENT 'nomenclatureCode as sent',
    area LowCardinality(String) COMMENT 'userArea',
    kind UInt8 COMMENT 'offer: 1 OPEN; assessment: 1 NOT_ELIGIBLE; waiting: 1 ENTER, 2 LEAVE, 3 LEAVE as PLACED; benefit: 1 GRANTED; population: sex 0 UNKNOWN, 1 M, 2 F; else 0',
    unit LowCardinality(String) COMMENT 'unit of capacity and delivery',
    instant DateTime64(3, 'UTC') COMMENT 'when it takes effect: requestedAt, assessedAt, changedAt, effectiveFrom; else occurredAt',
    svc UInt128 COMMENT 'group of the offer that it names; 0: none',
    sid UInt64 COMMENT 'waiting: sipHash64 of serviceId, which names the timeline whoever writes it',
    a Decimal(18, 3) COMMENT 'capacity: operational; delivery: units; population: residents',
    b Decimal(18, 3) COMMENT 'capacity: occupied; delivery: amount; population: 1000 * ageFrom + ageTo',
    valid_from Date32 COMMENT 'offer: validFrom; delivery: periodStart; population: referenceDate',
    valid_to Date32 COMMENT 'offer: validTo, the first day on which it is not valid; 2299-12-31: open',
    INDEX by_svc svc TYPE bloom_filter(0.01) GRANULARITY 16
)
ENGINE = MergeTree
ORDER BY (grp, rec, version)
SETTINGS index_granularity = 256, min_bytes_for_wide_part = 1099511627776, non_replicated_deduplication_window = 10000
COMMENT 'Slim rows of the events that supply and demand are computed from, by group.';

CREATE TABLE IF NOT EXISTS store.records
(
    rec UInt128 COMMENT 'record',
    type UInt8 COMMENT 'number of the event at this position; 15: a revocation',
    partition UInt32 COMMENT 'partition of its topic',
    offset UInt64 COMMENT 'offset in the partition',
    gone UInt8 COMMENT '1: a tombstone',
    version Int64 COMMENT 'recordVersion',
    hash FixedString(16) COMMENT 'first half of the content hash',
    grp UInt128 COMMENT 'group of the fact; in the own row of a revocation the record that it revokes, 0: none that counts here',
    revocation UInt128 COMMENT 'in a row of a revoked record: the record of the revocation; else 0',
    up_to Int64 COMMENT 'revokedUpToVersion'
)
ENGINE = MergeTree
ORDER BY (rec, version)
SETTINGS index_granularity = 256, min_bytes_for_wide_part = 1099511627776, non_replicated_deduplication_window = 10000
COMMENT 'Where each version of each record is, and what revokes it. A revocation has two rows for each record that it may concern: one under that record, one under its own.';

CREATE TABLE IF NOT EXISTS store.instants
(
    instant DateTime64(3, 'UTC') COMMENT 'when something takes effect',
    grp UInt128 COMMENT 'the group that it changes'
)
ENGINE = MergeTree
ORDER BY (instant, grp)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Instants later than their own event: they count once an event as late has been accepted.';

CREATE MATERIALIZED VIEW IF NOT EXISTS store.records_of_facts TO store.records DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT rec, type, partition, offset, gone, version, hash, grp
FROM store.facts;

CREATE MATERIALIZED VIEW IF NOT EXISTS store.instants_of_facts TO store.instants DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT instant, grp
FROM
(
    SELECT
        grp,
        occurred_at,
        arrayJoin(multiIf(
            gone = 1, []::Array(DateTime64(3, 'UTC')),
            type IN (2, 5), [instant],
            type = 1, [toDateTime64(valid_from, 3, 'Europe/Rome')::DateTime64(3, 'UTC'), toDateTime64(valid_to, 3, 'Europe/Rome')::DateTime64(3, 'UTC')],
            []::Array(DateTime64(3, 'UTC')))) AS instant
    FROM store.facts
)
WHERE instant > occurred_at AND instant < '2290-01-01';

CREATE VIEW IF NOT EXISTS store.facts_of_offer DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('O', source, service_id)) AS grp,
    reinterpretAsUInt128(sipHash128(1, source, source_record_id)) AS rec,
    1 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    nomenclature_code AS nomenclature,
    toString(user_area) AS area,
    status = 'OPEN' AS kind,
    occurred_at AS instant,
    valid_from,
    ifNull(valid_to, toDate32('2299-12-31')) AS valid_to
FROM store.service_offer_published
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_capacity DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('O', source, service_id)) AS grp,
    reinterpretAsUInt128(sipHash128(2, source, source_record_id)) AS rec,
    2 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    toString(unit) AS unit,
    effective_from AS instant,
    operational AS a,
    occupied AS b
FROM store.capacity_changed
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_request DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('R', source, request_id)) AS grp,
    reinterpretAsUInt128(sipHash128(3, source, source_record_id)) AS rec,
    3 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    nomenclature_code AS nomenclature,
    toString(user_area) AS area,
    requested_at AS instant
FROM store.service_requested
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_assessment DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('R', ifNull(request_source, source), request_id)) AS grp,
    reinterpretAsUInt128(sipHash128(4, source, source_record_id)) AS rec,
    4 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    outcome = 'NOT_ELIGIBLE' AS kind,
    assessed_at AS instant
FROM store.need_assessed
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_waiting DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('R', ifNull(request_source, source), request_id)) AS grp,
    reinterpretAsUInt128(sipHash128(5, source, source_record_id)) AS rec,
    5 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    multiIf(change = 'ENTER', 1, change = 'LEAVE' AND leave_reason = 'PLACED', 3, change = 'LEAVE', 2, 0) AS kind,
    changed_at AS instant,
    reinterpretAsUInt128(sipHash128('O', source, service_id)) AS svc,
    sipHash64(service_id) AS sid
FROM store.waiting_list_changed
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_benefit DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('B', source, benefit_id)) AS grp,
    reinterpretAsUInt128(sipHash128(6, source, source_record_id)) AS rec,
    6 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    nomenclature_code AS nomenclature,
    toString(user_area) AS area,
    decision = 'GRANTED' AS kind,
    occurred_at AS instant
FROM store.benefit_decided
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.facts_of_delivery DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('B', ifNull(benefit_source, source), benefit_id)) AS grp,
    reinterpretAsUInt128(sipHash128(7, source, source_record_id)) AS rec,
    7 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    comune_code AS comune,
    toString(unit) AS unit,
    occurred_at AS instant,
    if(service_id IS NULL, toUInt128(0), reinterpretAsUInt128(sipHash128('O', source, ifNull(service_id, '')))) AS svc,
    units_delivered AS a,
    amount_total AS b,
    period_start AS valid_from
FROM store.service_delivered
WHERE _end = 'loaded' AND _gone = 0;


CREATE VIEW IF NOT EXISTS store.facts_of_population DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    reinterpretAsUInt128(sipHash128('P', territory_code)) AS grp,
    reinterpretAsUInt128(sipHash128(9, source, source_record_id)) AS rec,
    9 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    occurred_at,
    source,
    source_record_id,
    if(match(territory_code, '^[0-9]{6}$'), territory_code, '') AS comune,
    toInt8(sex) AS kind,
    occurred_at AS instant,
    residents AS a,
    1000 * age_from + age_to AS b,
    reference_date AS valid_from
FROM store.population_reported
WHERE _end = 'loaded' AND _gone = 0;

CREATE VIEW IF NOT EXISTS store.records_of_revocations DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    r.1 AS rec,
    15 AS type,
    _partition AS partition,
    _offset AS offset,
    record_version AS version,
    substring(_content_hash, 1, 16) AS hash,
    r.2 AS grp,
    r.3 AS revocation,
    revoked_up_to_version AS up_to
FROM
(
    SELECT
        _partition, _offset, _content_hash, record_version, revoked_up_to_version,
        reinterpretAsUInt128(sipHash128(15, source, source_record_id)) AS own,
        arrayMap(
            x -> reinterpretAsUInt128(sipHash128(x.1, revoked_source, revoked_source_record_id)),
            arrayFilter(
                x -> ifNull(revoked_type = x.2, 1),
                [(1, 'ServiceOfferPublished'), (2, 'CapacityChanged'), (3, 'ServiceRequested'), (4, 'NeedAssessed'),
                 (5, 'WaitingListChanged'), (6, 'BenefitDecided'), (7, 'ServiceDelivered'), (9, 'PopulationReported')])) AS targets,
        arrayJoin(arrayConcat(
            arrayMap(t -> (t, toUInt128(0), own), targets),
            arrayMap(t -> (own, t, toUInt128(0)), if(empty(targets), [toUInt128(0)], targets)))) AS r
    FROM store.record_revoked
    WHERE _end = 'loaded' AND _gone = 0
);

CREATE TABLE IF NOT EXISTS store.erased_households
(
    topic LowCardinality(String) COMMENT 'topic',
    partition UInt32 COMMENT 'partition of the topic',
    offset UInt64 COMMENT 'offset of the event',
    source String COMMENT 'source of the erasure',
    event_id UUID COMMENT 'id of the erasure',
    erased_at DateTime64(3, 'UTC') COMMENT 'when it was found'
)
ENGINE = ReplacingMergeTree(erased_at)
ORDER BY (topic, partition, offset)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Positions of events whose household_pseudonym is emptied, for it is that of an erased person.';

CREATE TABLE IF NOT EXISTS store.contrib
(
    grp UInt128 COMMENT 'group; 0: the books of the aggregation itself',
    comune FixedString(6) COMMENT 'comune as sent; empty: none',
    nomenclature LowCardinality(String) COMMENT 'nomenclatureCode as sent, UNMAPPED: the service is not known; in the books a topic, or cycle, or now',
    area LowCardinality(String) COMMENT 'userArea; #books, #population and #service mark rows that are no cells',
    month UInt16 COMMENT '12 * year + month - 1 in Europe/Rome; in the books a partition',
    unit LowCardinality(String) COMMENT 'unit of delivered; empty for all else',
    requests Int64,
    granted Int64,
    refused Int64,
    waiting Int64 COMMENT 'a step: added from this month on',
    capacity Decimal(18, 3) COMMENT 'a step',
    occupied Decimal(18, 3) COMMENT 'a step',
    delivered Decimal(18, 3),
    amount Decimal(18, 3),
    residents Int64 COMMENT 'a step',
    mark Int64 COMMENT 'books: offset up to which the partition is aggregated, number of cycles, now in ms; #service: 1; #population: 1 where residents are known, a step',
    updated_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')),
    PROJECTION cells
    (
        SELECT
            comune, nomenclature, area, month, unit,
            sum(requests), sum(granted), sum(refused), sum(waiting), sum(capacity), sum(occupied),
            sum(delivered), sum(amount), sum(residents), sum(mark), max(updated_at)
        GROUP BY comune, nomenclature, area, month, unit
    )
)
ENGINE = SummingMergeTree((requests, granted, refused, waiting, capacity, occupied, delivered, amount, residents, mark))
ORDER BY (grp, comune, nomenclature, area, month, unit)
SETTINGS index_granularity = 256, min_bytes_for_wide_part = 1099511627776, non_replicated_deduplication_window = 10000, deduplicate_merge_projection_mode = 'rebuild'
COMMENT 'What each group adds to each cell, and how far the aggregation has come. One insert a cycle, with token aggregate/<cycle>.';

-- Another generation of store.contrib is built in this table and exchanged for it.
CREATE TABLE IF NOT EXISTS store.contrib_beside AS store.contrib
COMMENT 'A generation of store.contrib beside the live one: being built, or live before. Empty where there is none.';

CREATE VIEW IF NOT EXISTS store.aggregated DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT nomenclature AS topic, toUInt32(month) AS partition, toUInt64(sum(mark)) AS aggregated_to
FROM store.contrib
WHERE grp = 0 AND area = '#books' AND nomenclature LIKE 'welfare.%'
GROUP BY topic, partition;

CREATE TABLE IF NOT EXISTS store.reference_nomenclature
(
    code String COMMENT 'nomenclatureCode'
)
ENGINE = ReplacingMergeTree
ORDER BY code
COMMENT 'The service codes that ship with the release.';

CREATE VIEW IF NOT EXISTS store.known_comuni DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
WITH
    upserted AS
    (
        SELECT
            source,
            source_record_id,
            max(record_version) AS version,
            argMin(
                (territory_code, toString(level), ifNull(parent_code, ''), occurred_at),
                (-record_version, _content_hash, _partition, _offset)) AS state
        FROM store.territory_upserted
        WHERE _end = 'loaded' AND _gone = 0
          AND (_partition, _offset) NOT IN (SELECT partition, offset FROM store.superseded WHERE topic = 'welfare.ref.territory')
        GROUP BY source, source_record_id
    ),
    revoked AS
    (
        SELECT r.1 AS source, r.2 AS source_record_id, max(r.3) AS up_to
        FROM
        (
            SELECT argMin(
                (revoked_source, revoked_source_record_id, revoked_up_to_version, ifNull(revoked_type, 'TerritoryUpserted')),
                (-record_version, _content_hash, _partition, _offset)) AS r
            FROM store.record_revoked
            WHERE _end = 'loaded' AND _gone = 0
              AND (_partition, _offset) NOT IN (SELECT partition, offset FROM store.superseded WHERE topic = 'welfare.control.revocation')
            GROUP BY source, source_record_id
        )
        WHERE r.4 = 'TerritoryUpserted'
        GROUP BY source, source_record_id
    ),
    regions AS
    (
        SELECT toString(province) AS code, any(toString(region)) AS region FROM store.comuni GROUP BY code
        UNION DISTINCT
        SELECT toString(region), toString(region) FROM store.comuni
    )
SELECT code, any(region) AS region
FROM
(
    SELECT toString(code) AS code, toString(region) AS region FROM store.comuni
    UNION ALL
    SELECT added.code AS code, regions.region AS region
    FROM
    (
        SELECT u.state.1 AS code, argMax(u.state.3, (u.state.4, u.source, u.source_record_id)) AS parent
        FROM upserted AS u
        LEFT JOIN revoked AS r ON r.source = u.source AND r.source_record_id = u.source_record_id
        WHERE u.version > r.up_to AND u.state.2 = 'COMUNE' AND match(u.state.1, '^[0-9]{6}$')
          AND u.state.1 NOT IN ('999999', '999998') AND u.state.1 NOT IN (SELECT toString(code) FROM store.comuni)
        GROUP BY code
    ) AS added
    LEFT JOIN regions ON regions.code = added.parent
)
GROUP BY code;

CREATE VIEW IF NOT EXISTS welfare.population
(
    level String COMMENT 'COMUNE, PROVINCE, REGION or COUNTRY',
    territory_code String COMMENT 'ISTAT code: 6, 3 or 2 digits, or IT; UNMAPPED: the comune is not known',
    period_start Date32 COMMENT 'first day of the month, Europe/Rome',
    residents Nullable(Int64) COMMENT 'residents at the newest reference date up to the end of the month, all ages and both sexes'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
WITH
    (
        SELECT toUInt16(toYear(fromUnixTimestamp64Milli(sum(mark), 'Europe/Rome')) * 12 + toMonth(fromUnixTimestamp64Milli(sum(mark), 'Europe/Rome')) - 1)
        FROM store.contrib WHERE grp = 0 AND area = '#books' AND nomenclature = 'now'
    ) AS horizon
SELECT
    level,
    territory_code,
    makeDate32(intDiv(step.1, 12), step.1 % 12 + 1, 1) AS period_start,
    CAST(step.2, 'Nullable(Int64)') AS residents
FROM
(
    SELECT
        level,
        territory_code,
        arraySort(groupArray((month, residents, known))) AS steps,
        arrayMap(s -> s.1, steps) AS months,
        arrayCumSum(arrayMap(s -> s.2, steps)) AS residents_to,
        arrayCumSum(arrayMap(s -> s.3, steps)) AS known_to,
        arrayJoin(arrayFlatten(arrayMap(
            (m, r, k, next) -> if(k > 0 AND m <= horizon, arrayMap(i -> (toUInt16(i), r), range(m, if(next = 0, horizon + 1, least(next, horizon + 1)))), []),
            months, residents_to, known_to, arrayShiftLeft(months, 1, toUInt16(0))))) AS step
    FROM
    (
        SELECT t.1 AS level, t.2 AS territory_code, month, sum(residents) AS residents, sum(known) AS known
        FROM
        (
            SELECT toString(comune) AS comune, month, sum(residents) AS residents, sum(mark) AS known
            FROM store.contrib
            WHERE area = '#population'
            GROUP BY comune, month
        ) AS p
        LEFT JOIN store.known_comuni AS c ON c.code = p.comune
        ARRAY JOIN [
            ('COMUNE', if(c.code = '', 'UNMAPPED', p.comune)),
            ('PROVINCE', if(c.code = '', 'UNMAPPED', substring(p.comune, 1, 3))),
            ('REGION', if(c.region = '', 'UNMAPPED', toString(c.region))),
            ('COUNTRY', 'IT')] AS t
        GROUP BY level, territory_code, month
    )
    GROUP BY level, territory_code
)
COMMENT 'Residents by territory and month, carried forward to the month of the newest event. Territories of which nothing is known have no row.';

CREATE VIEW IF NOT EXISTS store.supply_demand_cells DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
SELECT
    t.1 AS level,
    t.2 AS territory_code,
    if(n.code = '', 'UNMAPPED', c.nomenclature) AS nomenclature_code,
    c.area AS user_area,
    c.month AS month,
    c.unit AS unit,
    sum(c.requests) AS requests,
    sum(c.granted) AS granted,
    sum(c.refused) AS refused,
    sum(c.waiting) AS waiting,
    sum(c.capacity) AS capacity,
    sum(c.occupied) AS occupied,
    sum(c.delivered) AS delivered,
    sum(c.amount) AS amount,
    max(c.updated_at) AS updated_at
FROM
(
    SELECT
        toString(comune) AS comune, toString(nomenclature) AS nomenclature, toString(area) AS area, month, toString(unit) AS unit,
        sum(requests) AS requests, sum(granted) AS granted, sum(refused) AS refused, sum(waiting) AS waiting,
        sum(capacity) AS capacity, sum(occupied) AS occupied, sum(delivered) AS delivered, sum(amount) AS amount,
        max(updated_at) AS updated_at
    FROM store.contrib
    WHERE area NOT IN ('#books', '#population', '#service')
    GROUP BY comune, nomenclature, area, month, unit
) AS c
LEFT JOIN store.known_comuni AS k ON k.code = c.comune
LEFT JOIN (SELECT DISTINCT code FROM store.reference_nomenclature) AS n ON n.code = c.nomenclature
ARRAY JOIN [
    ('COMUNE', if(k.code = '', 'UNMAPPED', c.comune)),
    ('PROVINCE', if(k.code = '', 'UNMAPPED', substring(c.comune, 1, 3))),
    ('REGION', if(k.region = '', 'UNMAPPED', toString(k.region))),
    ('COUNTRY', 'IT')] AS t
GROUP BY level, territory_code, nomenclature_code, user_area, month, unit;

CREATE VIEW IF NOT EXISTS welfare.supply_demand
(
    level String COMMENT 'COMUNE, PROVINCE, REGION or COUNTRY',
    territory_code String COMMENT 'ISTAT code: 6, 3 or 2 digits, or IT; UNMAPPED: the comune is not known',
    nomenclature_code String COMMENT 'code of the service; UNMAPPED: the service is not found, or its code not known',
    user_area String COMMENT 'area of users; UNKNOWN where the service is not found',
    period_start Date32 COMMENT 'first day of the month, Europe/Rome',
    unit String COMMENT 'unit of delivered_units; empty in the rows of all other measures',
    capacity Decimal(38, 3) COMMENT 'places and beds operational at the end of the month, or now, in offers that are open and valid',
    occupied Decimal(38, 3) COMMENT 'places and beds occupied, of the same offers',
    requests Int64 COMMENT 'requests by month of requestedAt',
    granted Int64 COMMENT 'benefits granted by month of the decision',
    refused Int64 COMMENT 'assessments that found no right, by month of assessedAt',
    waiting Int64 COMMENT 'waits not ended at the end of the month, or now',
    delivered_units Decimal(38, 3) COMMENT 'units delivered by month of periodStart, in the unit that the row names',
    amount Decimal(38, 2) COMMENT 'EUR in all of what was delivered, by month of periodStart',
    population Nullable(Int64) COMMENT 'residents of the territory, repeated in each of its rows: do not sum it over services; NULL: not known',
    updated_at DateTime64(3, 'UTC') COMMENT 'when a cycle last changed what this row is computed from'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
WITH
    (
        SELECT toUInt16(toYear(fromUnixTimestamp64Milli(sum(mark), 'Europe/Rome')) * 12 + toMonth(fromUnixTimestamp64Milli(sum(mark), 'Europe/Rome')) - 1)
        FROM store.contrib WHERE grp = 0 AND area = '#books' AND nomenclature = 'now'
    ) AS horizon
SELECT
    r.level AS level,
    r.territory_code AS territory_code,
    r.nomenclature_code AS nomenclature_code,
    r.user_area AS user_area,
    r.period_start AS period_start,
    r.unit AS unit,
    r.capacity AS capacity,
    r.occupied AS occupied,
    r.requests AS requests,
    r.granted AS granted,
    r.refused AS refused,
    r.waiting AS waiting,
    r.delivered AS delivered_units,
    r.amount AS amount,
    p.residents AS population,
    r.updated_at AS updated_at
FROM
(
    SELECT
        level, territory_code, nomenclature_code, user_area,
        makeDate32(intDiv(month, 12), month % 12 + 1, 1) AS period_start,
        unit,
        sum(capacity) AS capacity, sum(occupied) AS occupied, sum(requests) AS requests, sum(granted) AS granted, sum(refused) AS refused,
        sum(waiting) AS waiting, sum(delivered) AS delivered, sum(amount) AS amount, max(updated_at) AS updated_at
    FROM
    (
        -- Flows stand in their own month.
        SELECT level, territory_code, nomenclature_code, user_area, month, unit, requests, granted, refused, delivered, amount,
            toInt64(0) AS waiting, toDecimal128(0, 3) AS capacity, toDecimal128(0, 3) AS occupied, updated_at
        FROM store.supply_demand_cells
        WHERE month <= horizon AND (requests != 0 OR granted != 0 OR refused != 0 OR delivered != 0 OR amount != 0)
        UNION ALL
        -- Stocks are the sums of their steps, in every month up to the horizon in which they are not zero.
        SELECT level, territory_code, nomenclature_code, user_area, step.1 AS month, '' AS unit,
            toInt64(0) AS requests, toInt64(0) AS granted, toInt64(0) AS refused, toDecimal128(0, 3) AS delivered, toDecimal128(0, 3) AS amount,
            step.2 AS waiting, step.3 AS capacity, step.4 AS occupied, step.5 AS updated_at
        FROM
        (
            SELECT
                level, territory_code, nomenclature_code, user_area,
                arraySort(groupArray((month, waiting, capacity, occupied, updated_at))) AS steps,
                arrayMap(s -> s.1, steps) AS months,
                arrayCumSum(arrayMap(s -> s.2, steps)) AS waiting_to,
                arrayCumSum(arrayMap(s -> s.3, steps)) AS capacity_to,
                arrayCumSum(arrayMap(s -> s.4, steps)) AS occupied_to,
                arrayJoin(arrayFlatten(arrayMap(
                    (m, next, w, c, o, u) -> if(w != 0 OR c != 0 OR o != 0,
                        arrayMap(i -> (toUInt16(i), w, c, o, u), range(m, least(if(next = 0, toUInt16(65535), next), toUInt16(horizon + 1)))), []),
                    months, arrayShiftLeft(months, 1, toUInt16(0)), waiting_to, capacity_to, occupied_to, arrayMap(s -> s.5, steps)))) AS step
            FROM store.supply_demand_cells
            WHERE month <= horizon AND (waiting != 0 OR capacity != 0 OR occupied != 0)
            GROUP BY level, territory_code, nomenclature_code, user_area
        )
    )
    GROUP BY level, territory_code, nomenclature_code, user_area, month, unit
    HAVING capacity != 0 OR occupied != 0 OR requests != 0 OR granted != 0 OR refused != 0 OR waiting != 0 OR delivered != 0 OR amount != 0
) AS r
LEFT JOIN welfare.population AS p ON p.level = r.level AND p.territory_code = r.territory_code AND p.period_start = r.period_start
COMMENT 'Supply beside demand: a row per territory, service, area of users, month and unit in which a measure is not zero. Each level sums to the country.';

CREATE VIEW IF NOT EXISTS welfare.supply_demand_full
(
    level String COMMENT 'COMUNE, PROVINCE, REGION or COUNTRY',
    territory_code String COMMENT 'ISTAT code: 6, 3 or 2 digits, or IT; UNMAPPED: the comune is not known',
    nomenclature_code String COMMENT 'code of the service; UNMAPPED: the service is not found, or its code not known',
    user_area String COMMENT 'area of users; UNKNOWN where the service is not found',
    period_start Date32 COMMENT 'first day of the month, Europe/Rome',
    unit String COMMENT 'unit of delivered_units; empty in the rows of all other measures',
    capacity Decimal(38, 3) COMMENT 'places and beds operational at the end of the month, or now, in offers that are open and valid',
    occupied Decimal(38, 3) COMMENT 'places and beds occupied, of the same offers',
    requests Int64 COMMENT 'requests by month of requestedAt',
    granted Int64 COMMENT 'benefits granted by month of the decision',
    refused Int64 COMMENT 'assessments that found no right, by month of assessedAt',
    waiting Int64 COMMENT 'waits not ended at the end of the month, or now',
    delivered_units Decimal(38, 3) COMMENT 'units delivered by month of periodStart, in the unit that the row names',
    amount Decimal(38, 2) COMMENT 'EUR in all of what was delivered, by month of periodStart',
    population Nullable(Int64) COMMENT 'residents of the territory, repeated in each of its rows: do not sum it over services; NULL: not known',
    updated_at DateTime64(3, 'UTC') COMMENT 'when a cycle last changed what this row is computed from; 1970 in a row where nothing is'
)
DEFINER = CURRENT_USER SQL SECURITY DEFINER AS
-- Two kinds of rows, added up by key: a condition on a key reaches both, which it would not through an outer join.
SELECT level, territory_code, nomenclature_code, user_area, period_start, unit,
    sum(capacity) AS capacity, sum(occupied) AS occupied, sum(requests) AS requests, sum(granted) AS granted, sum(refused) AS refused, sum(waiting) AS waiting,
    sum(delivered_units) AS delivered_units, sum(amount) AS amount, max(population) AS population, max(updated_at) AS updated_at
FROM
(
    SELECT level, territory_code, nomenclature_code, user_area, period_start, unit,
        capacity, occupied, requests, granted, refused, waiting, delivered_units, amount, population, updated_at
    FROM welfare.supply_demand
    UNION ALL
    SELECT p.level, p.territory_code, s.nomenclature_code, s.user_area, p.period_start, '',
        toDecimal128(0, 3), toDecimal128(0, 3), toInt64(0), toInt64(0), toInt64(0), toInt64(0), toDecimal128(0, 3), toDecimal128(0, 2), p.residents, toDateTime64(0, 3, 'UTC')
    FROM welfare.population AS p
    INNER JOIN (SELECT nomenclature_code, user_area, period_start FROM welfare.supply_demand WHERE level = 'COUNTRY' AND unit = '') AS s
        ON s.period_start = p.period_start
)
GROUP BY level, territory_code, nomenclature_code, user_area, period_start, unit
COMMENT 'supply_demand, with a row also where people live and nothing is offered or asked for: of each service that the country has in that month.';

-- +goose Down
DROP VIEW IF EXISTS welfare.supply_demand_full SYNC;
DROP VIEW IF EXISTS welfare.supply_demand SYNC;
DROP VIEW IF EXISTS store.supply_demand_cells SYNC;
DROP VIEW IF EXISTS welfare.population SYNC;
DROP VIEW IF EXISTS store.known_comuni SYNC;
DROP TABLE IF EXISTS store.reference_nomenclature SYNC;
DROP VIEW IF EXISTS store.aggregated SYNC;
DROP TABLE IF EXISTS store.contrib_beside SYNC;
DROP TABLE IF EXISTS store.contrib SYNC;
DROP TABLE IF EXISTS store.erased_households SYNC;
DROP VIEW IF EXISTS store.records_of_revocations SYNC;
DROP VIEW IF EXISTS store.facts_of_population SYNC;
DROP VIEW IF EXISTS store.facts_of_delivery SYNC;
DROP VIEW IF EXISTS store.facts_of_benefit SYNC;
DROP VIEW IF EXISTS store.facts_of_waiting SYNC;
DROP VIEW IF EXISTS store.facts_of_assessment SYNC;
DROP VIEW IF EXISTS store.facts_of_request SYNC;
DROP VIEW IF EXISTS store.facts_of_capacity SYNC;
DROP VIEW IF EXISTS store.facts_of_offer SYNC;
DROP VIEW IF EXISTS store.instants_of_facts SYNC;
DROP VIEW IF EXISTS store.records_of_facts SYNC;
DROP TABLE IF EXISTS store.instants SYNC;
DROP TABLE IF EXISTS store.records SYNC;
DROP TABLE IF EXISTS store.facts SYNC;
