package codes

import "fmt"

// Kinds of frameworks.
const (
	Deprivation = "deprivation" // items of children and households: DeprivationObserved
	Evaluation  = "evaluation"  // indicators of students, classes and schools: IndicatorObserved
)

// Framework is a set of indicators in one version.
type Framework struct {
	ID         string      `json:"id"`
	Version    int         `json:"version"`
	Kind       string      `json:"kind"`
	K          int         `json:"k"`            // deprivation: poor from so many items on; 0: see KOfWeights
	KOfWeights string      `json:"k_of_weights"` // deprivation: poor from this share of the weights on, for example 1/3
	Indicators []Indicator `json:"indicators"`
	byCode     map[string]int
}

// Indicator is an item of a framework.
type Indicator struct {
	Code      string  `json:"code"`
	Doc       string  `json:"doc"`
	Dimension string  `json:"dimension"` // deprivation, where the framework has dimensions
	UnitKind  string  `json:"unitKind"`  // deprivation: CHILD or HOUSEHOLD
	Weight    int     `json:"weight"`    // deprivation
	Level     string  `json:"level"`     // evaluation: STUDENT, CLASS or SCHOOL
	Min       float64 `json:"min"`       // evaluation: lowest value
	Max       float64 `json:"max"`       // evaluation: highest value, inclusive
}

func (f *Framework) index() error {
	if f.Kind != Deprivation && f.Kind != Evaluation {
		return fmt.Errorf("framework %s: unknown kind %q", f.ID, f.Kind)
	}
	f.byCode = map[string]int{}
	for i := range f.Indicators {
		if err := number(f.byCode, "frameworks.json", f.Indicators[i].Code); err != nil {
			return err
		}
	}
	return nil
}

// Indicator returns the indicator of a code, or nil. The caller must not change it.
func (f *Framework) Indicator(code []byte) *Indicator {
	if i, ok := f.byCode[string(code)]; ok {
		return &f.Indicators[i]
	}
	return nil
}

// Framework returns a framework in a version, or nil. The caller must not change it.
func (l *Lists) Framework(id []byte, version int64) *Framework {
	for i := range l.frameworks { // a handful
		if f := &l.frameworks[i]; f.ID == string(id) && int64(f.Version) == version {
			return f
		}
	}
	return nil
}

// Frameworks returns the frameworks in the order of the file.
func (l *Lists) Frameworks() []Framework { return l.frameworks }
