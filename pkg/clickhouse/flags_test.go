package clickhouse_test

import (
	"testing"
)

const flags = "SELECT concat(code, ' ', topic, ' ', event_type, ' ', offset) FROM welfare.flags ORDER BY code, topic, offset"

func TestFlagsOfTerritories(t *testing.T) {
	db := migrated(t)
	territory := func(code, ats string) rec {
		return rec{"level": "'COMUNE'", "territory_code": text(code), "ats_code": "CAST('" + ats + "' AS LowCardinality(Nullable(String)))"}
	}
	put(t, db, "service_requested", 0, 0,
		with(id("a"), "comune_code", "'015146'", "ats_code", "'ATS1'"), with(id("b"), "comune_code", "'015147'", "ats_code", "'ATS1'"),
		with(id("c"), "comune_code", "'999999'", "ats_code", "'ATS1'"))
	expect(t, db, flags, "W04 welfare.demand.request ServiceRequested 0", "W04 welfare.demand.request ServiceRequested 1")
	put(t, db, "territory_upserted", 0, 0, territory("015146", "ATS1"), territory("015147", "ATS2"))
	expect(t, db, flags, "W06 welfare.demand.request ServiceRequested 1")
	// Revoked, the territory is unknown again.
	put(t, db, "record_revoked", 0, 0, revocation("x", "r0-0", "1", "1"))
	expect(t, db, flags, "W04 welfare.demand.request ServiceRequested 0", "W06 welfare.demand.request ServiceRequested 1")
}

func TestFlagsOfWaiting(t *testing.T) {
	db := migrated(t)
	comune := []string{"comune_code", "'999999'", "ats_code", "'A'"}
	wait := func(request, service, change, reason, at string) rec {
		return with(rec{
			"request_id": text(request), "service_id": text(service), "change": text(change), "leave_reason": text(reason),
			"changed_at": text("2024-05-" + at + " 00:00:00"), "request_source": "CAST(NULL AS Nullable(String))", "comune_code": "'999999'",
		})
	}
	grant := func(request, source string) rec {
		return with(rec{
			"request_id": text(request), "decision": "'GRANTED'", "occurred_at": "'2024-05-10 00:00:00'",
			"request_source": "CAST(" + source + " AS Nullable(String))",
		}, comune...)
	}
	put(t, db, "waiting_list_changed", 0, 0,
		wait("still", "s", "ENTER", "UNKNOWN", "01"), wait("still", "other", "LEAVE", "WITHDRAWN", "02"),
		wait("left", "s", "ENTER", "UNKNOWN", "01"), wait("left", "s", "LEAVE", "WITHDRAWN", "20"),
		wait("placed", "s", "ENTER", "UNKNOWN", "01"), wait("placed", "other", "LEAVE", "PLACED", "01"),
		wait("again", "s", "ENTER", "UNKNOWN", "11"), // after the decision
		wait("never", "s", "LEAVE", "WITHDRAWN", "01"))
	put(t, db, "benefit_decided", 0, 0, grant("still", "NULL"), grant("left", "NULL"), grant("placed", "NULL"), grant("again", "NULL"))
	put(t, db, "benefit_decided", 0, 4, with(grant("still", "'urn:welfare:a:b'"), "source", text("urn:welfare:c:d")))
	expect(t, db, flags,
		"W41 welfare.demand.waiting WaitingListChanged 7",
		"W42 welfare.demand.benefit BenefitDecided 0", "W42 welfare.demand.benefit BenefitDecided 4")
	put(t, db, "waiting_list_changed", 0, 8, wait("never", "s", "ENTER", "UNKNOWN", "01"), wait("still", "s", "LEAVE", "PLACED", "30"))
	expect(t, db, flags)
}

func TestFlagsOfPopulation(t *testing.T) {
	db := migrated(t)
	people := func(code, sex, from, to, residents string) rec {
		return rec{"territory_code": text(code), "sex": text(sex), "age_from": from, "age_to": to, "residents": residents, "reference_date": "toDate32('2023-01-01')"}
	}
	put(t, db, "population_reported", 0, 0,
		people("001001", "UNKNOWN", "0", "100", "10"), people("001001", "M", "0", "100", "4"), people("001001", "F", "0", "64", "3"), people("001001", "F", "65", "100", "2"), // 9
		people("001002", "UNKNOWN", "0", "100", "10"), people("001002", "M", "0", "100", "4"), people("001002", "F", "0", "64", "3"), people("001002", "F", "65", "100", "3"), // 10
		people("001003", "UNKNOWN", "0", "100", "10"), people("001003", "M", "0", "100", "4"), people("001003", "F", "0", "64", "3"), // women not complete
		people("001004", "UNKNOWN", "0", "100", "10"), people("001004", "UNKNOWN", "0", "17", "4"), people("001004", "UNKNOWN", "18", "100", "5"))
	expect(t, db, flags, "W51 welfare.ref.population PopulationReported 0", "W51 welfare.ref.population PopulationReported 11")
	put(t, db, "population_reported", 1, 50, with(people("001002", "UNKNOWN", "0", "100", "11"), "source", text("urn:welfare:z:z")))
	expect(t, db, "SELECT concat(partition, ':', offset) FROM welfare.flags WHERE code = 'W52' ORDER BY partition, offset", "0:4", "0:5", "0:6", "0:7", "1:50")
}

func TestFlagsOfSessions(t *testing.T) {
	db := migrated(t)
	attended := func(session, minutes string) rec {
		return rec{"student": p("1"), "session_id": text(session), "minutes_present": "CAST(" + minutes + " AS Nullable(Int32))"}
	}
	put(t, db, "activity_session_held", 0, 0,
		rec{"session_id": "'s'", "minutes": "60", "starts_at": "'2024-05-01 09:00:00'"}, rec{"session_id": "'late'", "minutes": "60", "starts_at": "'2024-05-01 11:00:00'"})
	put(t, db, "attendance_recorded", 0, 0, attended("s", "60"), attended("s", "61"), attended("s", "NULL"), attended("late", "5"), attended("unknown", "500"))
	expect(t, db, flags, "W71 welfare.school.attendance AttendanceRecorded 1", "W75 welfare.school.attendance AttendanceRecorded 3")
}
