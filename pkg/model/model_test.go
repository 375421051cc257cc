package model

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/welfarehub/welfarehub/pkg/event"
)

// A sentence of the tests is "Event field=value …". The header has defaults: source "a", a new
// eventId, sourceRecordId equal to the eventId's number, version 1. Times may be given as 2024-01-31T10:00:00Z.
type scribe struct {
	t *testing.T
	n int
}

// fields that every event of a family needs to be readable; the model looks at no others.
func (s *scribe) row(sentence string) *event.Row {
	s.t.Helper()
	words := strings.Fields(sentence)
	ty := event.ByName(words[0])
	if ty == nil {
		s.t.Fatalf("no event %s", words[0])
	}
	r := event.NewRow(ty)
	s.n++
	r.Set(event.EventID, fmt.Sprintf("00000000-0000-7000-8000-%012d", s.n))
	r.Set(event.Source, "a")
	r.Set(event.SourceRecordID, strconv.Itoa(s.n))
	r.SetInt(event.RecordVersion, 1)
	for _, w := range words[1:] {
		name, value, _ := strings.Cut(w, "=")
		i := map[string]int{"id": event.SourceRecordID, "v": event.RecordVersion, "at": event.OccurredAt}[name]
		if i == 0 {
			i = ty.Field(name)
		}
		if name == "source" {
			i = event.Source
		}
		if i < 0 {
			s.t.Fatalf("%s has no field %s", ty.Name, name)
		}
		if err := event.SetText(r, i, value); err != nil {
			s.t.Fatalf("%s: %v", w, err)
		}
	}
	return r
}

func (s *scribe) rows(sentences string) []*event.Row {
	s.t.Helper()
	var out []*event.Row
	for line := range strings.Lines(sentences) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, s.row(line))
		}
	}
	return out
}

var reference = Reference{
	Regions:           map[string]string{"015146": "03", "016024": "03", "058091": "12"},
	KnownNomenclature: func(code string) bool { return code == "NIDO" || code == "SAD" },
}

func apply(m *Model, rows []*event.Row) {
	for i, r := range rows {
		m.Apply(Record{Topic: r.Type.Topic, Offset: int64(i), Row: r})
	}
}

// show prints the rows of one level, a measure where it is not zero.
func show(rows []SupplyDemandRow, level string) string {
	var b strings.Builder
	for _, r := range rows {
		if r.Level != level {
			continue
		}
		fmt.Fprintf(&b, "%s %s %s %s", r.Territory, r.Nomenclature, r.UserArea, r.PeriodStart[:7])
		if r.Unit != "" {
			fmt.Fprintf(&b, " %s", r.Unit)
		}
		v := reflect.ValueOf(r.Measures)
		for i := range v.NumField() {
			if n := v.Field(i).Int(); n != 0 {
				fmt.Fprintf(&b, " %s=%d", v.Type().Field(i).Name, n)
			}
		}
		if r.Population != nil {
			fmt.Fprintf(&b, " Population=%d", *r.Population)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

const (
	offerA   = "ServiceOfferPublished serviceId=o nomenclatureCode=NIDO userArea=FAMILY_MINORS comuneCode=015146 status=OPEN validFrom=2024-01-10 at=2024-01-01T00:00:00Z\n"
	requestA = "ServiceRequested pseudonym=p requestId=r nomenclatureCode=SAD userArea=OLDER_PEOPLE comuneCode=015146 requestedAt=2024-01-05T00:00:00Z at=2024-01-05T00:00:00Z\n"
	// tick moves the horizon to 20 March 2024 and counts nowhere.
	tick = "TerritoryUpserted level=REGION territoryCode=03 at=2024-03-20T12:00:00Z\n"
)

func TestSupplyDemand(t *testing.T) {
	for _, c := range []struct{ name, events, level, want string }{
		{"nothing happened", "", "COUNTRY", ""},
		{
			"a request counts in its month of Rome, at four levels",
			"ServiceRequested pseudonym=p requestId=r nomenclatureCode=NIDO userArea=FAMILY_MINORS comuneCode=015146 requestedAt=2024-01-31T23:30:00Z at=2024-02-01T00:00:00Z",
			"PROVINCE", "015 NIDO FAMILY_MINORS 2024-02 Requests=1\n",
		},
		{
			"an unknown comune is unmapped, as reserved codes are", strings.ReplaceAll(requestA, "015146", "999999") + requestA, "REGION",
			"03 SAD OLDER_PEOPLE 2024-01 Requests=1\nUNMAPPED SAD OLDER_PEOPLE 2024-01 Requests=1\n",
		},
		{"an unknown code keeps its area", strings.ReplaceAll(requestA, "SAD", "XX.1"), "COMUNE", "015146 UNMAPPED OLDER_PEOPLE 2024-01 Requests=1\n"},
		{"months after the horizon are not shown", strings.Replace(requestA, "requestedAt=2024-01", "requestedAt=2024-02", 1), "COUNTRY", ""},
		{
			"a refusal takes the service of its request", requestA +
				"NeedAssessed pseudonym=p requestId=r requestSource=a source=ats outcome=NOT_ELIGIBLE comuneCode=016024 assessedAt=2024-01-07T00:00:00Z\n" +
				"NeedAssessed pseudonym=p requestId=r source=ats outcome=NOT_ELIGIBLE comuneCode=016024 assessedAt=2024-01-07T00:00:00Z\n" +
				"NeedAssessed pseudonym=p requestId=r outcome=ELIGIBLE comuneCode=016024 assessedAt=2024-01-07T00:00:00Z\n",
			"COMUNE", "015146 SAD OLDER_PEOPLE 2024-01 Requests=1\n016024 SAD OLDER_PEOPLE 2024-01 Refused=1\n016024 UNMAPPED UNKNOWN 2024-01 Refused=1\n",
		},
		{
			"granted by month of occurrence",
			"BenefitDecided pseudonym=p benefitId=b decision=GRANTED nomenclatureCode=SAD userArea=MULTI comuneCode=058091 at=2024-02-03T00:00:00Z\n" +
				"BenefitDecided pseudonym=p benefitId=b decision=ENDED nomenclatureCode=SAD userArea=MULTI comuneCode=058091 at=2024-02-04T00:00:00Z\n",
			"REGION", "12 SAD MULTI 2024-02 Granted=1\n",
		},
		{
			"deliveries go by benefit, else offer, units apart", tick + offerA +
				"BenefitDecided pseudonym=p benefitId=b decision=RENEWED nomenclatureCode=SAD userArea=MULTI comuneCode=058091 at=2024-02-03T00:00:00Z\n" +
				"ServiceDelivered pseudonym=p benefitId=b benefitSource=a source=g serviceId=o periodStart=2024-02-01 unit=VISIT unitsDelivered=2.5 amountTotal=10.01 comuneCode=058091\n" +
				"ServiceDelivered pseudonym=p benefitId=x serviceId=o periodStart=2024-02-01 unit=MEAL unitsDelivered=3 amountTotal=1 comuneCode=058091\n" +
				"ServiceDelivered pseudonym=p benefitId=x source=g serviceId=o periodStart=2024-02-01 unit=MEAL unitsDelivered=0 amountTotal=1 comuneCode=058091\n",
			"COUNTRY", "IT NIDO FAMILY_MINORS 2024-02 Amount=100\nIT NIDO FAMILY_MINORS 2024-02 MEAL DeliveredUnits=3000\n" +
				"IT SAD MULTI 2024-02 Amount=1001\nIT SAD MULTI 2024-02 VISIT DeliveredUnits=2500\nIT UNMAPPED UNKNOWN 2024-02 Amount=100\n",
		},
		{
			"waiting: carried forward, to the horizon", tick +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=ENTER comuneCode=015146 changedAt=2024-01-31T22:59:59.999Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=LEAVE leaveReason=MOVED comuneCode=015146 changedAt=2024-03-20T12:00:00.001Z\n",
			"COMUNE", "015146 UNMAPPED UNKNOWN 2024-01 Waiting=1\n015146 UNMAPPED UNKNOWN 2024-02 Waiting=1\n015146 UNMAPPED UNKNOWN 2024-03 Waiting=1\n",
		},
		{
			"waiting: a LEAVE at midnight of Rome belongs to the next month", tick +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=ENTER comuneCode=015146 changedAt=2024-01-31T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=LEAVE leaveReason=MOVED comuneCode=015146 changedAt=2024-01-31T23:00:00Z\n",
			"COMUNE", "015146 UNMAPPED UNKNOWN 2024-01 Waiting=1\n",
		},
		{
			"waiting: the request gives the service where no offer does; ENTER and LEAVE at one instant leave", tick + requestA +
				"WaitingListChanged pseudonym=p requestId=r serviceId=x change=ENTER comuneCode=015146 changedAt=2024-01-31T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=x id=0 change=LEAVE leaveReason=MOVED comuneCode=015146 changedAt=2024-02-10T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=y change=ENTER comuneCode=015146 changedAt=2024-01-30T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=y id=0 source=b requestSource=a change=LEAVE leaveReason=MOVED comuneCode=015146 changedAt=2024-01-30T00:00:00Z\n",
			"COUNTRY", "IT SAD OLDER_PEOPLE 2024-01 Requests=1 Waiting=1\n",
		},
		{
			"waiting: PLACED ends all of the request, other reasons their own; a LEAVE before its ENTER ends nothing", tick + offerA +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=ENTER comuneCode=015146 changedAt=2024-01-20T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=x change=ENTER comuneCode=015146 changedAt=2024-01-20T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=z change=LEAVE leaveReason=PLACED comuneCode=015146 changedAt=2024-02-20T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=z change=LEAVE leaveReason=EXPIRED comuneCode=015146 changedAt=2024-03-10T00:00:00Z\n" +
				"WaitingListChanged pseudonym=p requestId=r serviceId=o change=ENTER comuneCode=058091 changedAt=2024-03-01T00:00:00Z\n",
			"COMUNE", "015146 NIDO FAMILY_MINORS 2024-01 Waiting=1\n015146 UNMAPPED UNKNOWN 2024-01 Waiting=1\n058091 NIDO FAMILY_MINORS 2024-03 Waiting=1\n",
		},
		{
			"capacity: last snapshot of PLACE and BED, while open and valid", tick + offerA +
				"CapacityChanged serviceId=o unit=PLACE operational=10 occupied=4 effectiveFrom=2024-01-02T00:00:00Z\n" +
				"CapacityChanged serviceId=o unit=BED operational=2 occupied=2 effectiveFrom=2024-02-02T00:00:00Z\n" +
				"CapacityChanged serviceId=o unit=PLACE operational=12 occupied=5 effectiveFrom=2024-02-03T00:00:00Z\n" +
				"CapacityChanged serviceId=o unit=FTE operational=7 occupied=7 effectiveFrom=2024-01-02T00:00:00Z\n" +
				strings.NewReplacer("2024-01-01T", "2024-03-01T", "OPEN", "CLOSED").Replace(offerA),
			"COMUNE", "015146 NIDO FAMILY_MINORS 2024-01 Capacity=10000 Occupied=4000\n015146 NIDO FAMILY_MINORS 2024-02 Capacity=14000 Occupied=7000\n",
		},
		{
			"capacity: validTo is the first day no longer valid; a state by another code restates no past month", tick +
				strings.Replace(offerA, " at=", " validTo=2024-02-29 at=", 1) +
				"CapacityChanged serviceId=o unit=PLACE operational=1 occupied=0 effectiveFrom=2023-12-31T00:00:00Z\n" +
				strings.NewReplacer("2024-01-01T", "2024-03-01T", "NIDO", "SAD", "015146", "058091").Replace(offerA),
			"COMUNE", "015146 NIDO FAMILY_MINORS 2024-01 Capacity=1000\n058091 SAD FAMILY_MINORS 2024-03 Capacity=1000\n",
		},
		{
			"capacity without an offer is unmapped; of another source it is not the offer's", tick + offerA +
				"CapacityChanged source=b serviceId=o unit=PLACE operational=1 occupied=3 effectiveFrom=2024-03-01T00:00:00Z\n",
			"REGION", "UNMAPPED UNMAPPED UNKNOWN 2024-03 Capacity=1000 Occupied=3000\n",
		},
		{
			"a published comune takes its region from its parent",
			"TerritoryUpserted level=COMUNE territoryCode=015999 parentCode=016\nTerritoryUpserted level=COMUNE territoryCode=020999 parentCode=215\n" +
				strings.ReplaceAll(requestA, "015146", "015999") + strings.ReplaceAll(requestA, "015146", "020999"),
			"REGION", "03 SAD OLDER_PEOPLE 2024-01 Requests=1\nUNMAPPED SAD OLDER_PEOPLE 2024-01 Requests=1\n",
		},
		{
			"population: newest date with a value, total before sexes, lowest source", requestA +
				"PopulationReported territoryCode=015146 referenceDate=2023-01-01 sex=UNKNOWN ageTo=100 residents=7\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 source=b sex=UNKNOWN ageTo=100 residents=9\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=M ageTo=100 residents=5\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=F ageTo=49 residents=2\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=F ageFrom=50 ageTo=100 residents=1\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-02 sex=M ageTo=100 residents=50\n" +
				"PopulationReported territoryCode=016024 referenceDate=2022-01-01 sex=UNKNOWN ageTo=100 residents=100\n" +
				"PopulationReported territoryCode=000001 referenceDate=2022-01-01 sex=UNKNOWN ageTo=100 residents=1000\n" +
				"PopulationReported territoryCode=03 referenceDate=2022-01-01 sex=UNKNOWN ageTo=100 residents=10000\n",
			"REGION", "03 SAD OLDER_PEOPLE 2024-01 Requests=1 Population=108\n",
		},
		{
			"population: a gap or an overlap between bands leaves a sex incomplete", requestA +
				"PopulationReported territoryCode=015146 referenceDate=2023-01-01 sex=M ageTo=100 residents=7\n" +
				"PopulationReported territoryCode=015146 referenceDate=2023-01-01 sex=F ageTo=49 residents=9\n" +
				"PopulationReported territoryCode=015146 referenceDate=2023-01-01 sex=F ageFrom=51 ageTo=100 residents=9\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=F ageTo=100 residents=7\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=M ageTo=50 residents=9\n" +
				"PopulationReported territoryCode=015146 referenceDate=2024-01-01 sex=M ageFrom=50 ageTo=100 residents=9\n",
			"COMUNE", "015146 SAD OLDER_PEOPLE 2024-01 Requests=1\n",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(reference)
			apply(m, (&scribe{t: t}).rows(c.events))
			if got := show(m.SupplyDemand(), c.level); got != c.want {
				t.Errorf("rows of level %s:\n%swant\n%s", c.level, got, c.want)
			}
		})
	}
}

// currentIDs lists records in force as id:version.
func currentIDs(m *Model, name string) string {
	var out []string
	for _, s := range m.Current(event.ByName(name)) {
		out = append(out, s.Row.Str(event.SourceRecordID)+":"+strconv.FormatInt(s.Row.Vals[event.RecordVersion].Int, 10))
	}
	return strings.Join(out, " ")
}

func TestRecordsInForce(t *testing.T) {
	req := "ServiceRequested requestId=r pseudonym=p id=1 at=2024-01-05T00:00:00Z"
	for _, c := range []struct{ name, events, want string }{
		{"the highest version", req + " v=2\n" + req + " v=1\n", "1:2"},
		{"a revocation before its record", "RecordRevoked revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=1\n" + req + "\n", ""},
		{"a higher version outlives its revocation", req + "\n" + req + " v=2\nRecordRevoked revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=1\n", "1:2"},
		{"a revocation of another event type", req + "\nRecordRevoked revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=1 revokedType=NeedAssessed\n", "1:1"},
		{"a revocation of this event type", req + "\nRecordRevoked revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=1 revokedType=ServiceRequested\n", ""},
		{"a revocation that was lifted", req + "\nRecordRevoked id=x v=2 revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=0\n" +
			"RecordRevoked id=x revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=1\n", "1:1"},
		{"a revocation is not hidden", req + "\nRecordRevoked id=1 revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=9\n" +
			"RecordRevoked revokedSource=a revokedSourceRecordId=1 revokedUpToVersion=9\n", ""},
		{"an erasure up to its instant", req + "\n" + strings.NewReplacer("id=1", "id=2", "05T00:00:00Z", "05T00:00:00.001Z").Replace(req) +
			"\nSubjectErased pseudonym=p scope=DEMAND requestedAt=2024-01-05T00:00:00Z\n", "2:1"},
		{"an erasure of another family", req + "\nSubjectErased pseudonym=p scope=SCHOOL requestedAt=2025-01-05T00:00:00Z\n", "1:1"},
		{"an erasure of unknown scope", req + "\nSubjectErased pseudonym=p scope=UNKNOWN requestedAt=2025-01-05T00:00:00Z\n", "1:1"},
		{"an erasure of all, before the fact", "SubjectErased pseudonym=p scope=ALL requestedAt=2025-01-05T00:00:00Z\n" + req + "\n", ""},
		{"a lower version comes back when the higher is erased", req + " v=2\n" + strings.Replace(req, "pseudonym=p", "pseudonym=q", 1) +
			"\nSubjectErased pseudonym=p scope=ALL requestedAt=2025-01-05T00:00:00Z\n", "1:1"},
		{"an erasure that a version withdraws stays", req + "\nSubjectErased id=e pseudonym=p scope=ALL requestedAt=2025-01-05T00:00:00Z\n" +
			"SubjectErased id=e v=2 pseudonym=p scope=ALL requestedAt=2020-01-05T00:00:00Z\n", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := New(reference)
			apply(m, (&scribe{t: t}).rows(c.events))
			if got := currentIDs(m, "ServiceRequested"); got != c.want {
				t.Errorf("in force: %q, want %q", got, c.want)
			}
		})
	}
}

func TestConflictOfVersionsIsDecidedByHash(t *testing.T) {
	rows := (&scribe{t: t}).rows(requestA + requestA)
	rows[0].Set(event.SourceRecordID, "same")
	rows[1].Set(event.SourceRecordID, "same")
	rows[1].SetInt(event.ServiceRequestedUrgent, 1)
	want := rows[0].ContentHash()
	if h := rows[1].ContentHash(); string(h[:]) < string(want[:]) {
		want = h
	}
	for _, order := range [][]*event.Row{{rows[0], rows[1]}, {rows[1], rows[0]}} {
		m := New(reference)
		apply(m, order)
		if st := m.Current(rows[0].Type); len(st) != 1 || st[0].Hash != want {
			t.Errorf("state is not the one of the lowest hash")
		}
	}
}

func TestEndsAndErasedBooks(t *testing.T) {
	s := &scribe{t: t}
	rows := s.rows(requestA + strings.Replace(requestA, "pseudonym=p", "pseudonym=q householdPseudonym=p", 1))
	conflict := rows[0].Clone()
	conflict.SetInt(event.ServiceRequestedUrgent, 1)
	again := rows[0].Clone()
	again.SetInt(event.RecordedAt, 5)
	again.Set(event.EventID, strings.ToUpper(again.Str(event.EventID)))
	rows = append(rows, again, conflict, s.row("SubjectErased pseudonym=p scope=DEMAND requestedAt=2024-02-01T00:00:00Z"))
	m := New(reference)
	var ends []End
	for i, r := range rows {
		ends = append(ends, m.Apply(Record{Topic: r.Type.Topic, Offset: int64(i), Row: r}))
	}
	if want := []End{Loaded, Loaded, Duplicate, Rejected, Loaded}; !reflect.DeepEqual(ends, want) {
		t.Errorf("ends %v, want %v", ends, want)
	}
	if got, want := m.Ends()["welfare.demand.request"], (Books{Loaded: 2, Duplicate: 1, Rejected: 1, Erased: 1}); got != want {
		t.Errorf("books %+v, want %+v", got, want)
	}
	st := m.Current(event.ByName("ServiceRequested"))
	if len(st) != 1 || !st[0].Row.Vals[event.ServiceRequestedHouseholdPseudonym].Null {
		t.Errorf("want the other person's request, its household gone")
	}
	if rows[1].Vals[event.ServiceRequestedHouseholdPseudonym].Null {
		t.Error("a query changed the row that was applied")
	}
}

func TestHorizonSurvivesErasure(t *testing.T) {
	m := New(reference)
	apply(m, (&scribe{t: t}).rows(requestA+
		strings.NewReplacer("pseudonym=p", "pseudonym=q", "at=2024-01", "at=2024-02").Replace(requestA)+
		"WaitingListChanged pseudonym=p requestId=r serviceId=o change=ENTER comuneCode=015146 changedAt=2024-01-10T00:00:00Z\n"+
		"SubjectErased pseudonym=q scope=ALL requestedAt=2024-03-01T00:00:00Z at=2024-01-02T00:00:00Z\n"))
	want := "IT SAD OLDER_PEOPLE 2024-01 Requests=1 Waiting=1\nIT SAD OLDER_PEOPLE 2024-02 Waiting=1\n"
	if got := show(m.SupplyDemand(), "COUNTRY"); got != want {
		t.Errorf("rows:\n%swant\n%s", got, want)
	}
}

// random makes rows that meet one another often: few ids, few instants, every event that counts.
func random(s *scribe, rng *rand.Rand, n int) []*event.Row {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	digit := func(n int) string { return strconv.Itoa(rng.IntN(n)) }
	at := func() string {
		return time.Date(2024, 1, 1, 0, rng.IntN(40)*24*60/10, 0, 0, time.UTC).AddDate(0, rng.IntN(6), 0).Format(time.RFC3339)
	}
	var out []*event.Row
	for range n {
		name := pick("ServiceOfferPublished", "CapacityChanged", "ServiceRequested", "NeedAssessed", "WaitingListChanged", "WaitingListChanged",
			"BenefitDecided", "ServiceDelivered", "TerritoryUpserted", "PopulationReported", "RecordRevoked", "SubjectErased")
		if name == "SubjectErased" && rng.IntN(5) != 0 || name == "RecordRevoked" && rng.IntN(2) == 0 {
			name = "WaitingListChanged"
		}
		r := s.row(name)
		fields := map[string]string{
			"source": pick("a", "b"), "sourceRecordId": digit(60), "recordVersion": "1", "occurredAt": at(),
			"requestId": digit(8), "benefitId": digit(8), "serviceId": digit(6), "requestSource": pick("", "a"), "benefitSource": pick("", "a"),
			"pseudonym": digit(40), "householdPseudonym": digit(40), "comuneCode": pick("015146", "016024", "058091", "999999", "015999", "020999"),
			"nomenclatureCode": pick("NIDO", "SAD", "XX"), "requestedAt": at(), "assessedAt": at(), "changedAt": at(), "effectiveFrom": at(),
			"validFrom": at()[:10], "validTo": pick("", "2024-05-15"), "periodStart": at()[:10], "referenceDate": pick("2024-01-01", "2024-03-01"),
			"unit": pick("PLACE", "BED", "FTE"), "operational": digit(50), "occupied": digit(50), "unitsDelivered": digit(9), "amountTotal": digit(90),
			"territoryCode": pick("015146", "015999", "020999"), "parentCode": pick("", "03", "016", "999"), "ageTo": "100", "residents": digit(1000),
			"revokedSource": r.Str(event.Source), "revokedSourceRecordId": digit(60), "revokedUpToVersion": digit(3), "revokedType": pick("", "WaitingListChanged"),
		}
		fields["revokedSource"] = fields["source"]
		if rng.IntN(3) == 0 {
			fields["recordVersion"] = pick("2", "3")
		}
		for i, f := range r.Type.Fields {
			value, ok := fields[f.Name]
			if f.Kind == event.Enum {
				value, ok = pick(f.Symbols...), true
			}
			if !ok || value == "" {
				continue
			}
			if err := event.SetText(r, i, value); err != nil {
				s.t.Fatalf("%s.%s: %v", name, f.Name, err)
			}
		}
		out = append(out, r)
	}
	return out
}

// TestAnyOrderGivesTheSameState applies the same rows in random orders. Rerun with the seed that it prints.
func TestAnyOrderGivesTheSameState(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	rows := random(&scribe{t: t}, rng, 3000)
	position := map[*event.Row]int64{}
	for i, r := range rows {
		position[r] = int64(i)
	}
	type result struct {
		ends    map[string]Books
		current map[string][]State
		supply  []SupplyDemandRow
	}
	run := func() result {
		m := New(reference)
		for _, r := range rows {
			m.Apply(Record{Topic: r.Type.Topic, Offset: position[r], Row: r})
		}
		out := result{ends: m.Ends(), current: map[string][]State{}, supply: m.SupplyDemand()}
		for _, ty := range event.Types {
			out.current[ty.Name] = m.Current(ty)
		}
		return out
	}
	first := run()
	if len(first.supply) < 300 {
		t.Fatalf("only %d rows: the test shows little", len(first.supply))
	}
	for range 4 {
		rng.Shuffle(len(rows), func(i, j int) { rows[i], rows[j] = rows[j], rows[i] })
		got := run()
		if !reflect.DeepEqual(got.ends, first.ends) {
			t.Fatalf("seed %d: books differ: %v, %v", seed, got.ends, first.ends)
		}
		if !reflect.DeepEqual(got.supply, first.supply) {
			t.Fatalf("seed %d: supply_demand differs", seed)
		}
		if !reflect.DeepEqual(got.current, first.current) {
			t.Fatalf("seed %d: records in force differ", seed)
		}
	}
	levels := map[string]Measures{}
	for _, r := range first.supply {
		m := levels[r.Level]
		m.Capacity += r.Capacity
		m.Waiting += r.Waiting
		m.Requests += r.Requests
		m.Amount += r.Amount
		levels[r.Level] = m
	}
	for level, m := range levels {
		if m != levels["COUNTRY"] {
			t.Errorf("seed %d: level %s sums to %+v, the country to %+v", seed, level, m, levels["COUNTRY"])
		}
	}
}
