package api

import (
	"bytes"
	"encoding/json"
	"mime"
	"net/http"
	"strconv"
	"strings"
)

const (
	typeJSON = "application/json"
	typeCSV  = "text/csv"
	typeHTML = "text/html"
)

// negotiate returns the media type of offers that an Accept header likes best, the first of equals.
func negotiate(accept string, offers []string) (string, error) {
	if strings.TrimSpace(accept) == "" {
		return offers[0], nil
	}
	best, quality := "", 0.0
	for _, offer := range offers {
		if q := qualityOf(accept, offer); q > quality {
			best, quality = offer, q
		}
	}
	if best == "" {
		return "", &Problem{Status: http.StatusNotAcceptable, Code: CodeNotAcceptable, Detail: "the media types are " + strings.Join(offers, ", ")}
	}
	return best, nil
}

// qualityOf is the q that an Accept header gives to a media type by its most specific range; 0 where none.
func qualityOf(accept, offer string) float64 {
	main, _, _ := strings.Cut(offer, "/")
	quality, specific := 0.0, 0
	for part := range strings.SplitSeq(accept, ",") {
		media, params, err := mime.ParseMediaType(part)
		if err != nil {
			continue // what we cannot read, we cannot serve
		}
		rank := map[string]int{"*/*": 1, main + "/*": 2, offer: 3}[media]
		if rank <= specific {
			continue
		}
		specific, quality = rank, 1
		if text, ok := params["q"]; ok {
			quality, err = strconv.ParseFloat(text, 64)
			if err != nil || quality < 0 || quality > 1 {
				quality = 0
			}
		}
	}
	return quality
}

func jsonAnswer(v any) (*answer, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // ends with a newline
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return &answer{header: http.Header{"Content-Type": {typeJSON}}, body: b.Bytes()}, nil
}
