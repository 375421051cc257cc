package reconcile

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
)

// Kind is what does not fit.
type Kind string

// The kinds of findings.
const (
	KindGap        Kind = "gap"         // offsets between ranges of the ledger, or before the first: not read
	KindOverlap    Kind = "overlap"     // offsets in more than one range of the ledger
	KindSums       Kind = "sums"        // a range whose read is not loaded + duplicate + rejected, or more than its offsets
	KindMissing    Kind = "missing"     // records in the ledger without a row, though not erased
	KindRepeated   Kind = "repeated"    // positions with more than one row
	KindUnbooked   Kind = "unbooked"    // rows that the ledger does not have
	KindEnds       Kind = "ends"        // a range whose rows ended otherwise than the ledger says
	KindNoID       Kind = "no-id"       // loaded rows whose id is not known: a copy would be loaded again
	KindRepeatedID Kind = "repeated-id" // positions that the known ids have more than once
	KindStrayID    Kind = "stray-id"    // known ids at positions that are neither loaded nor erased: a first copy would be refused
	KindCopies     Kind = "copies"      // events loaded at another position too, settled, and not superseded
	KindLog        Kind = "log"         // the ledger has what the log never had
	KindFacts      Kind = "facts"       // facts or records of the aggregation that are not what the rows say
	KindAggregates Kind = "aggregates"  // cells that are not what their facts say

	KindContent     Kind = "content"      // rows whose columns, or hashes, are not what was loaded
	KindDiffers     Kind = "differs"      // rows that say something else than their record in the log
	KindAdded       Kind = "added"        // rows at offsets at which the log has no record
	KindNoLetter    Kind = "no-letter"    // open rejects without a dead letter, though its topic would still have it
	KindStrayLetter Kind = "stray-letter" // dead letters of records that were not rejected
)

// meanings say in a few words what a kind is about, for the table.
var meanings = map[Kind]string{
	KindGap: "not read", KindOverlap: "booked more than once", KindSums: "the range's counts do not add up",
	KindMissing: "booked, but no row", KindRepeated: "more than one row", KindUnbooked: "rows that are not booked",
	KindEnds: "rows and ledger disagree on the ends", KindNoID: "loaded, but the id is not known", KindRepeatedID: "the id is known more than once",
	KindStrayID: "the id is known, but nothing was loaded", KindCopies: "loaded at another position too", KindLog: "booked, but not in the log", KindFacts: "what the aggregates are made of differs from the rows",
	KindAggregates: "aggregates differ",
	KindContent:    "not the content that was loaded", KindDiffers: "not what the log says", KindAdded: "a row, but no record in the log",
	KindNoLetter: "rejected, but no dead letter", KindStrayLetter: "dead letters, but not rejected",
}

// Finding is something that does not fit, at the offsets [From, To) of a partition.
type Finding struct {
	Kind      Kind   `json:"kind"`
	Topic     string `json:"topic,omitempty"`
	Partition uint32 `json:"partition"`
	From      uint64 `json:"from_offset"`
	To        uint64 `json:"to_offset"` // exclusive
	Records   uint64 `json:"records"`   // how many records, or of a gap offsets, are concerned
	Detail    string `json:"detail,omitempty"`
}

func (f Finding) samePlace(g Finding) bool {
	return f.Kind == g.Kind && f.Topic == g.Topic && f.Partition == g.Partition && f.From == g.From && f.To == g.To
}

// String is one line.
func (f Finding) String() string {
	s := fmt.Sprintf("%s: %d %s", f.Kind, f.Records, meanings[f.Kind])
	if f.Topic != "" {
		s = fmt.Sprintf("%s/%d [%d, %d) %s", f.Topic, f.Partition, f.From, f.To, s)
	}
	if f.Detail != "" {
		s += " (" + f.Detail + ")"
	}
	return s
}

// Partition is the books of one partition: Read = Loaded + Duplicate + Rejected, and
// Rows = Loaded − Erased − Superseded.
type Partition struct {
	Topic       string `json:"topic"`
	Partition   uint32 `json:"partition"`
	LogStart    *int64 `json:"log_start"` // null: not looked at, or there is no such partition
	LogEnd      *int64 `json:"log_end"`
	From        uint64 `json:"from_offset"` // of the ledger
	To          uint64 `json:"to_offset"`   // of the ledger, exclusive
	Blocks      uint64 `json:"blocks"`
	Read        uint64 `json:"read"`
	Loaded      uint64 `json:"loaded"`
	Duplicate   uint64 `json:"duplicate"`
	Rejected    uint64 `json:"rejected"`
	OpenRejects uint64 `json:"open_rejects"` // of the rejected, those neither redriven nor discarded
	Redriven    uint64 `json:"redriven"`
	Discarded   uint64 `json:"discarded"`
	Erased      uint64 `json:"erased"`
	Superseded  uint64 `json:"superseded"`
	Rows        int64  `json:"rows"`
	Skipped     uint64 `json:"skipped"` // offsets in the ledger's ranges without a record: the broker skipped them, or retention took the records before they were read
	Lag         int64  `json:"lag"`     // offsets of the log after the ledger's end: not read yet

	Contents Contents `json:"window"`
}

// Contents is what was looked at one by one, within the window.
type Contents struct {
	From     uint64   `json:"from_offset"`
	To       uint64   `json:"to_offset"` // exclusive
	Rows     uint64   `json:"rows"`      // that people see: not those that are erased or superseded
	IDs      uint64   `json:"ids"`       // distinct ids of these
	Checksum Checksum `json:"checksum"`  // of the ids and contents of these, whatever their order
	Hashed   uint64   `json:"hashed"`    // rows whose content was hashed again
	Compared uint64   `json:"compared"`  // records of the log that were compared with their rows
	Letters  uint64   `json:"letters"`   // dead letters
	Expired  uint64   `json:"expired"`   // open rejects whose letter is gone with the retention of its topic
}

// Checksum does not depend on the order of what it is of; those of parts are joined by XOR.
type Checksum uint64

// String is 16 hexadecimal digits.
func (c Checksum) String() string { return fmt.Sprintf("%016x", uint64(c)) }

// MarshalText makes JSON of String, for a number of 64 bits is not kept by every reader.
func (c Checksum) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Report is the result of Run.
type Report struct {
	Partitions []Partition
	Findings   []Finding
	Aggregates *uint64 // cells that differ; nil: not looked at

	Hashed, Compared, Lettered bool // what was asked for besides the books
}

// Balanced tells whether all fits. Lag and open rejects do not count against it.
func (r Report) Balanced() bool { return len(r.Findings) == 0 }

// MarshalJSON adds whether the books balance.
func (r Report) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Balanced   bool        `json:"balanced"`
		Partitions []Partition `json:"partitions"`
		Findings   []Finding   `json:"findings"`
		Aggregates *uint64     `json:"aggregates_differing"`
	}{r.Balanced(), r.Partitions, r.Findings, r.Aggregates})
}

// WriteTable writes the report for people: a line for each partition that has records, the totals, and a
// line for each finding.
func (r Report) WriteTable(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "topic\tpartition\tledger\tread\t= loaded\t+ duplicate\t+ rejected\topen\terased\tsuperseded\trows\tids\tchecksum\tskipped\tlag\t")
	var sum Partition
	shown := 0
	line := func(name, partition, ledger string, p Partition) {
		fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%d\t%s\t%d\t%d\t\n", name, partition, ledger,
			p.Read, p.Loaded, p.Duplicate, p.Rejected, p.OpenRejects, p.Erased, p.Superseded, p.Rows, p.Contents.IDs, p.Contents.Checksum, p.Skipped, p.Lag)
	}
	for _, p := range r.Partitions {
		if p.Blocks == 0 && p.Lag == 0 {
			continue
		}
		shown++
		line(p.Topic, fmt.Sprint(p.Partition), fmt.Sprintf("[%d, %d)", p.From, p.To), p)
		sum.Read += p.Read
		sum.Loaded += p.Loaded
		sum.Duplicate += p.Duplicate
		sum.Rejected += p.Rejected
		sum.OpenRejects += p.OpenRejects
		sum.Erased += p.Erased
		sum.Superseded += p.Superseded
		sum.Rows += p.Rows
		sum.Skipped += p.Skipped
		sum.Lag += p.Lag
		sum.Redriven += p.Redriven
		sum.Discarded += p.Discarded
		sum.Contents.IDs += p.Contents.IDs
		sum.Contents.Checksum ^= p.Contents.Checksum
		sum.Contents.Hashed += p.Contents.Hashed
		sum.Contents.Compared += p.Contents.Compared
		sum.Contents.Letters += p.Contents.Letters
		sum.Contents.Expired += p.Contents.Expired
	}
	line("total", fmt.Sprint(shown), "", sum)
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(w, "rejects: %d open, %d redriven, %d discarded\n", sum.OpenRejects, sum.Redriven, sum.Discarded)
	if r.Hashed {
		fmt.Fprintf(w, "content: %d rows hashed again\n", sum.Contents.Hashed)
	}
	if r.Compared {
		fmt.Fprintf(w, "log: %d records compared with their rows\n", sum.Contents.Compared)
	}
	if r.Lettered {
		fmt.Fprintf(w, "dead letters: %d, of %d open rejects the letter is expired\n", sum.Contents.Letters, sum.Contents.Expired)
	}
	if r.Aggregates != nil {
		fmt.Fprintf(w, "aggregates: %d cells differ from their facts\n", *r.Aggregates)
	}
	for _, f := range r.Findings {
		fmt.Fprintln(w, f)
	}
	verdict := "balanced: every record read has its end, once"
	if !r.Balanced() {
		verdict = fmt.Sprintf("NOT balanced: %d findings", len(r.Findings))
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}
