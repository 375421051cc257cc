package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"net/http"
)

const style = `body{font:1rem/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#17324d}
code{background:#eef3f8;padding:.1rem .3rem}dt{margin-top:1rem}dd{margin:0 0 0 1rem}table{border-collapse:collapse}td,th{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}`

// indexPage is Italian first: it is read by Italian bodies.
var indexPage = template.Must(template.New("index").Parse(`<!DOCTYPE html>
<html lang="it">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>National Welfare Data Hub</title><style>` + style + `</style></head>
<body>
<h1>National Welfare Data Hub</h1>
<p>Dati vivi su offerta e domanda di servizi sociali. <span lang="en">Live data on the supply of and demand for social services.</span></p>
<dl>
{{range .Endpoints}}<dt><a href="{{.Path}}"><code>GET {{.Path}}</code></a></dt>
<dd>{{.Description.IT}}. <span lang="en">{{.Description.EN}}.</span>
{{if .Parameters}}<table><thead><tr><th scope="col">Parametro</th><th scope="col">Valori</th><th scope="col">Descrizione</th></tr></thead><tbody>
{{range .Parameters}}<tr><td><code>{{.Name}}</code>{{if .Repeat}} (ripetibile){{end}}</td><td>{{range $i, $v := .Allowed}}{{if $i}}, {{end}}{{$v}}{{end}}</td><td>{{.IT}}. <span lang="en">{{.EN}}</span></td></tr>
{{end}}</tbody></table>
{{end}}</dd>
{{end}}</dl>
<p>welfarehub {{.Version}}</p>
</body>
</html>
`))

// stylePolicy lets a browser use the style of the index, and nothing else.
var stylePolicy = func() string {
	sum := sha256.Sum256([]byte(style))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; frame-ancestors 'none'"
}()

type texts struct {
	IT string `json:"it"`
	EN string `json:"en"`
}

type endpointDoc struct {
	Path        string      `json:"path"`
	Description texts       `json:"description"`
	MediaTypes  []string    `json:"media_types"`
	Parameters  []parameter `json:"parameters,omitempty"`
}

type indexDoc struct {
	Name      string        `json:"name"`
	Version   string        `json:"version"`
	Endpoints []endpointDoc `json:"endpoints"`
}

func (a *api) index(_ context.Context, r *http.Request) (*answer, error) {
	media, err := negotiate(r.Header.Get("Accept"), []string{typeJSON, typeHTML})
	if err != nil {
		return nil, err
	}
	doc := indexDoc{Name: "National Welfare Data Hub", Version: a.Version}
	for _, e := range a.endpoints {
		doc.Endpoints = append(doc.Endpoints, endpointDoc{e.path, texts{e.it, e.en}, e.offers, e.parameters})
	}
	if media == typeJSON {
		return jsonAnswer(doc)
	}
	var b bytes.Buffer
	if err := indexPage.Execute(&b, doc); err != nil {
		return nil, err
	}
	header := http.Header{}
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Language", "it, en")
	header.Set("Content-Security-Policy", stylePolicy)
	return &answer{header: header, body: b.Bytes()}, nil
}
