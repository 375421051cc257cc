package record

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/hamba/avro/v2"

	"github.com/welfarehub/welfarehub/pkg/event"
	"github.com/welfarehub/welfarehub/pkg/registry"
)

// SchemaSource finds writer schemas by id. It reports an id that the registry does not know by an error
// that registry.IsNotFound recognises; every other error is taken for an outage.
type SchemaSource interface {
	SchemaByID(ctx context.Context, id int) (string, error)
}

// decoders are the resolutions of the writer schemas of one topic, by registry id, for ever: a schema id
// never changes its meaning.
type decoders struct {
	mu  sync.Mutex
	by  map[int]resolved
	src SchemaSource
}

// resolved is a decoder, or the violation that every value under that schema is.
type resolved struct {
	dec     *event.Decoder
	code    string // P04 or P08
	problem string
}

// get returns the resolution of schema id for t. found is false for an id that the registry does not
// know (P03); that answer is not kept, since the schema may be registered later. An error is an outage.
func (d *decoders) get(ctx context.Context, t *event.Type, id int) (res resolved, found bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if res, ok := d.by[id]; ok {
		return res, true, nil
	}
	if id <= 0 { // no registry gives such an id; some answer it as if they were broken
		return res, false, nil
	}
	text, err := d.src.SchemaByID(ctx, id)
	if registry.IsNotFound(err) {
		return res, false, nil
	}
	if err != nil {
		return res, false, fmt.Errorf("read schema %d: %w", id, err)
	}
	res = resolve(t, text)
	if d.by == nil {
		d.by = map[int]resolved{}
	}
	d.by[id] = res
	return res, true, nil
}

// resolve never panics, whatever the text: a schema must not end the loader.
func resolve(t *event.Type, text string) (res resolved) {
	defer func() {
		if recover() != nil {
			res = resolved{code: "P04", problem: "the writer's schema cannot be parsed"}
		}
	}()
	s, err := avro.ParseWithCache(text, "", &avro.SchemaCache{})
	if err != nil {
		return resolved{code: "P04", problem: "the writer's schema is not valid Avro"}
	}
	dec, err := event.NewDecoder(t, s)
	switch {
	case errors.Is(err, event.ErrOtherEvent):
		return resolved{code: "P08", problem: "the schema is not of " + t.Name + ", the event of this topic"}
	case err != nil:
		return resolved{code: "P04", problem: err.Error()}
	}
	return resolved{dec: dec}
}
