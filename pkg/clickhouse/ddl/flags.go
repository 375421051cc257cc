package ddl

import (
	"fmt"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// withFields are the types that have all of these fields.
func withFields(names ...string) []*event.Type {
	var out []*event.Type
	for _, t := range event.Types {
		has := true
		for _, n := range names {
			has = has && t.Field(n) >= 0
		}
		if has {
			out = append(out, t)
		}
	}
	return out
}

// flagged is one branch of welfare.flags.
func flagged(code string, t *event.Type, rest string) string {
	return fmt.Sprintf("SELECT '%s' AS event_type, '%s' AS topic, _partition AS partition, _offset AS offset, '%s' AS code\n%s",
		t.Name, t.Topic, code, rest)
}

func branch(code, typ, rest string) string { return flagged(code, event.ByName(typ), rest) }

// flagViews are the warnings that depend on other events, as of now.
func flagViews() []view {
	known := view{
		name: "store.comuni_known",
		doc:  "Comuni that are known: shipped, or published by a territory in force. ats_code is empty where nobody said it.",
		columns: [][3]string{
			{"code", "FixedString(6)", "ISTAT code."},
			{"ats_code", "String", "Social district by the newest territory in force."},
		},
		query: `
SELECT code, max(ats) AS ats_code
FROM (
    SELECT code, '' AS ats FROM store.comuni
    UNION ALL
    SELECT toFixedString(territory_code, 6) AS code, ifNull(ats_code, '') AS ats
    FROM (
        SELECT territory_code, ats_code FROM welfare.territory_upserted_current
        WHERE level = 'COMUNE' AND match(territory_code, '^[0-9]{6}$')
        ORDER BY occurred_at DESC, source DESC, source_record_id DESC LIMIT 1 BY territory_code
    )
)
GROUP BY code`,
	}
	located := union(withFields("comuneCode"), func(t *event.Type) string {
		ats := "''"
		if t.Field("atsCode") >= 0 {
			ats = "toString(ats_code)"
		}
		return fmt.Sprintf("SELECT '%s' AS event_type, '%s' AS topic, _partition, _offset, comune_code, %s AS ats FROM %s", t.Name, t.Topic, ats, visibleRows(t))
	})
	q := fmt.Sprintf(`
SELECT event_type, topic, _partition AS partition, _offset AS offset, if(k.code = toFixedString('', 6), 'W04', 'W06') AS code
FROM (
%s
) AS e
LEFT JOIN (SELECT code, ats_code FROM store.comuni_known) AS k ON e.comune_code = k.code
WHERE k.code = toFixedString('', 6) AND comune_code NOT IN ('999999', '999998') OR k.ats_code != '' AND ats != '' AND ats != k.ats_code`, located)
	q += "\nUNION ALL\n" + union(event.Types, func(t *event.Type) string {
		return fmt.Sprintf("SELECT '%s' AS event_type, '%s' AS topic, row.2 AS partition, row.3 AS offset, 'W08' AS code\nFROM (%s)\nARRAY JOIN rows AS row",
			t.Name, t.Topic, contested(t))
	})
	for _, b := range []string{leaveWithoutEnter(), grantedWhileWaiting(), sexesAgainstTotal(), twoSources(), againstSession()} {
		q += "\nUNION ALL\n" + b
	}
	return []view{known, {
		name: "welfare.flags",
		doc: "Warnings that depend on other events, as of now; those of an event alone are in its _flags. " +
			"W04 comune unknown, W06 not in that ATS, W08 one version with two contents (all of them), W41 left without having entered, " +
			"W42 granted and still waiting, W51 sexes or ages do not add up to the total (flagged), W52 several sources for one territory and date (all of them), " +
			"W71 more minutes than the session had, W75 attendance before its session began.",
		columns: [][3]string{
			{"event_type", "LowCardinality(String)", "Name of the event."},
			{"topic", "LowCardinality(String)", "Topic."},
			{"partition", "UInt32", "Partition."},
			{"offset", "UInt64", "Offset."},
			{"code", "LowCardinality(String)", "Warning."},
		},
		query: q,
	}}
}

func leaveWithoutEnter() string {
	return branch("W41", "WaitingListChanged", `FROM (
    SELECT groupArrayIf(tuple(_partition, _offset), change = 'LEAVE') AS leaves
    FROM welfare.waiting_list_changed_current
    GROUP BY ifNull(request_source, source), request_id
    HAVING countIf(change = 'ENTER') = 0
)
ARRAY JOIN leaves.1 AS _partition, leaves.2 AS _offset`)
}

// grantedWhileWaiting: the last change of a list is an ENTER up to the decision, and no PLACED of the
// request came after it. At one instant ENTER comes before LEAVE, as in the order of the symbols.
func grantedWhileWaiting() string {
	return branch("W42", "BenefitDecided", `FROM (SELECT _partition, _offset, ifNull(request_source, source) AS owner, request_id, occurred_at
    FROM welfare.benefit_decided_current WHERE decision = 'GRANTED') AS b
INNER JOIN (
    SELECT owner, request_id, min(at) AS since
    FROM (
        SELECT owner, request_id, argMax(change, (changed_at, change, source_record_id)) AS last, max(changed_at) AS at, any(placed_at) AS placed
        FROM (
            SELECT ifNull(request_source, source) AS owner, request_id, service_id, change, changed_at, source_record_id,
                maxIf(changed_at, change = 'LEAVE' AND leave_reason = 'PLACED') OVER (PARTITION BY ifNull(request_source, source), request_id) AS placed_at
            FROM welfare.waiting_list_changed_current WHERE change != 'UNKNOWN'
        )
        GROUP BY owner, request_id, service_id
    )
    WHERE last = 'ENTER' AND placed < at
    GROUP BY owner, request_id
) AS w ON b.owner = w.owner AND b.request_id = w.request_id
WHERE w.since <= b.occurred_at`)
}

// sexesAgainstTotal compares the total (UNKNOWN, 0 to 100) with men and women, where both are complete,
// and with bands of UNKNOWN sex, where they are.
func sexesAgainstTotal() string {
	return branch("W51", "PopulationReported", `FROM (
    SELECT source, territory_code, reference_date,
        maxIf(residents, sex = 'UNKNOWN' AND whole) AS total, maxIf(tuple(_partition, _offset), sex = 'UNKNOWN' AND whole) AS place,
        sumIf(residents, sex = 'M') AS men, sumIf(residents, sex = 'F') AS women, sumIf(residents, sex = 'UNKNOWN' AND NOT whole) AS bands,
        countIf(sex = 'UNKNOWN' AND whole) AS totals, sumIf(width, sex = 'M') = 101 AS all_men, sumIf(width, sex = 'F') = 101 AS all_women,
        sumIf(width, sex = 'UNKNOWN' AND NOT whole) = 101 AS all_bands
    FROM (
        SELECT source, territory_code, reference_date, sex, residents, _partition, _offset, age_to - age_from + 1 AS width, width = 101 AS whole,
            max(whole) OVER (PARTITION BY source, territory_code, reference_date, sex) AS has_whole
        FROM (
            SELECT * FROM welfare.population_reported_current
            ORDER BY record_version DESC, source_record_id
            LIMIT 1 BY source, territory_code, reference_date, sex, age_from, age_to
        )
    )
    WHERE whole OR NOT has_whole OR sex = 'UNKNOWN'
    GROUP BY source, territory_code, reference_date
)
ARRAY JOIN [place.1] AS _partition, [place.2] AS _offset
WHERE totals = 1 AND (all_men AND all_women AND men + women != total OR all_bands AND bands != total)`)
}

func twoSources() string {
	return branch("W52", "PopulationReported", `FROM (
    SELECT groupArray(tuple(_partition, _offset)) AS places
    FROM welfare.population_reported_current
    GROUP BY territory_code, reference_date
    HAVING uniqExact(source) > 1
)
ARRAY JOIN places.1 AS _partition, places.2 AS _offset`)
}

// againstSession compares attendances with their session, by (source, sessionId). Of several records of
// one session the longest and the earliest count: a flag is for what no record explains.
func againstSession() string {
	t := event.ByName("AttendanceRecorded")
	return fmt.Sprintf(`SELECT '%s' AS event_type, '%s' AS topic, _partition AS partition, _offset AS offset, code
FROM (SELECT _partition, _offset, toString(source) AS owner, session_id, minutes_present, occurred_at FROM welfare.attendance_recorded_current) AS a
INNER JOIN (
    SELECT toString(source) AS owner, session_id, max(minutes) AS longest, min(starts_at) AS earliest
    FROM welfare.activity_session_held_current GROUP BY owner, session_id
) AS s ON a.owner = s.owner AND a.session_id = s.session_id
ARRAY JOIN arrayFilter(c -> c != '', [if(ifNull(a.minutes_present, 0) > s.longest, 'W71', ''), if(a.occurred_at < s.earliest, 'W75', '')]) AS code`,
		t.Name, t.Topic)
}
