package simulate

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"sort"
	"strconv"
	"strings"

	"github.com/welfarehub/welfarehub/pkg/codes"
	"github.com/welfarehub/welfarehub/pkg/event"
)

type comune struct {
	code, org []byte
	name      string
	region    string
	source    []byte // social services of the comune
	provider  []byte // providers that report by themselves
	district  []byte // social district
	ats       []byte
	ages      [codes.Bands]int
	total     int
	offers    []int // published, indexes of world.offers
}

// ages returns the first and last age of a band, counted as codes.Band is.
func ages(band int) (from, to int64) {
	a, b := codes.Band(band).Ages()
	return int64(a), int64(b)
}

// kind is a kind of service.
type kind struct {
	code, inps, area, unit string
	name                   string
	ages                   [2]int  // indexes of the age bands served, inclusive
	per1000                float64 // places for each thousand of them
	waits                  bool    // has a waiting list
	monthly                int64   // cost per month, cents
	oneOff                 bool
}

type offer struct {
	id       []byte
	comune   int
	kind     int
	size     int64 // operational places
	occupied int64
	open     bool
}

type world struct {
	comuni  []comune
	upTo    []int // cumulated residents
	offers  []offer
	order   []int // offers in the order of publication
	next    int   // how many of order were published
	bare    int   // published offer whose capacity is still to be said, or -1
	cases   caseHeap
	schools []schoolState
	school  int // school with a session under way, or -1
	survey  survey
	ref     int // comuni of which territory and population were published
}

// largeComune is the number of residents from which a comune is in play.
const largeComune = 60_000

// inPlay chooses comuni: the large ones, the four largest and the middle one of each region.
func inPlay(all []codes.Comune) []codes.Comune {
	byRegion := map[string][]codes.Comune{}
	for _, c := range all {
		byRegion[c.Region] = append(byRegion[c.Region], c)
	}
	var out []codes.Comune
	for _, of := range byRegion {
		slices.SortFunc(of, func(a, b codes.Comune) int {
			return cmp.Or(cmp.Compare(b.Total, a.Total), strings.Compare(a.Code, b.Code))
		})
		for i, c := range of {
			if c.Total >= largeComune || i < 4 || i == len(of)/2 {
				out = append(out, c)
			}
		}
	}
	slices.SortFunc(out, func(a, b codes.Comune) int { return strings.Compare(a.Code, b.Code) })
	return out
}

// newWorld lays out comuni and offers. The north has more offers for its residents, as it is.
func newWorld(rng *rand.Rand) world {
	w := world{school: -1, bare: -1}
	sum := 0
	for _, of := range inPlay(codes.Default().Comuni()) {
		belfiore := strings.ToLower(of.Cadastral)
		c := comune{
			code: []byte(of.Code), org: []byte(of.Cadastral), name: of.Name, region: of.Region,
			source:   []byte("urn:welfare:" + belfiore + ":sociale"),
			provider: []byte("urn:welfare:" + belfiore + ":gestori"),
			district: []byte("urn:welfare:ats" + of.Province + ":valutazione"),
			ats:      []byte("ATS" + of.Province),
			ages:     of.Population,
		}
		for _, n := range c.ages {
			c.total += n
		}
		sum += c.total
		w.comuni, w.upTo = append(w.comuni, c), append(w.upTo, sum)
	}
	for ci := range w.comuni {
		for ki := range kinds {
			w.layOut(rng, ci, ki)
		}
	}
	w.order = rng.Perm(len(w.offers))
	w.schools = newSchools()
	return w
}

const largestOffer = 120 // places

func (w *world) layOut(rng *rand.Rand, ci, ki int) {
	c, k := &w.comuni[ci], &kinds[ki]
	people := 0
	for i := k.ages[0]; i <= k.ages[1]; i++ {
		people += c.ages[i]
	}
	served := map[bool]float64{true: 1.3, false: 0.55}[c.region <= "08"]
	if c.region >= "09" && c.region <= "12" {
		served = 1
	}
	places := int64(float64(people) / 1000 * k.per1000 * served * (0.7 + 0.6*rng.Float64()))
	for n := 0; places > 0 && n < 12; n++ {
		size := min(places, 20+rng.Int64N(largestOffer-20))
		if n == 11 {
			size = places // the rest, so that small numbers of offers still hold all places
		}
		places -= size
		id := "UO-" + string(c.code) + "-" + strconv.Itoa(ki) + "-" + strconv.Itoa(n)
		w.offers = append(w.offers, offer{id: []byte(id), comune: ci, kind: ki, size: size, occupied: size * (80 + rng.Int64N(21)) / 100})
	}
}

// anyComune picks one by its residents.
func (s *Simulator) anyComune() int {
	n := s.rng.IntN(s.upTo[len(s.upTo)-1])
	return sort.SearchInts(s.upTo, n+1)
}

// nextFact makes the next fact of the simulated world.
func (s *Simulator) nextFact() *event.Row {
	if s.cfg.Territories && s.ref < len(s.comuni)*2 {
		s.ref++
		c := &s.comuni[(s.ref-1)/2]
		if s.ref%2 == 1 {
			return s.territory(c)
		}
		return s.population(c, -1)
	}
	if s.bare >= 0 {
		o := s.bare
		s.bare = -1
		return s.capacity(o)
	}
	if s.next < len(s.order) && (s.next < 40 || s.rng.IntN(6) == 0) {
		o := s.order[s.next]
		s.next++
		s.offers[o].open = true
		c := &s.comuni[s.offers[o].comune]
		c.offers = append(c.offers, o)
		s.bare = o
		return s.offer(o, "OPEN")
	}
	// Cases set the pace: no new ones while those due are behind, or facts would come ever later.
	behind := s.cases.due(s.now - 3*dayMs)
	if behind && s.rng.IntN(10) < 7 || (s.live && len(s.cases) > 0 || s.cases.due(s.now)) && s.rng.IntN(10) < 4 {
		return s.progress()
	}
	if s.school >= 0 && s.rng.IntN(3) == 0 {
		return s.attendance()
	}
	if s.survey.left > 0 && s.rng.IntN(3) == 0 {
		return s.deprivation()
	}
	switch n := s.rng.IntN(100); {
	case n < 50 && behind:
		return s.progress()
	case n < 50:
		return s.openCase()
	case n < 70:
		return s.moveCapacity()
	case n < 72:
		return s.moveOffer()
	case n < 79 && s.school < 0:
		return s.session()
	case n < 85:
		return s.indicator()
	case n < 91:
		return s.feedback()
	default:
		return s.deprivation()
	}
}
