// Package schemas holds what the hub and its clients agree on: Avro schemas, ClickHouse
// migrations and reference code lists, embedded so that one binary carries them.
package schemas

import "embed"

// Avro has the current schemas, avro/<EventName>.avsc, one event or control message each.
//
//go:embed avro/*.avsc
var Avro embed.FS
