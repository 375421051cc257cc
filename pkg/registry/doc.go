// Package registry serves and uses the Confluent schema registry's REST API: a built-in server whose
// state is a compacted Kafka topic, a client for it or for any registry that speaks the same API, and
// the checks that keep the hub's own schemas compatible with those it released.
//
// The server never gives an id to two schemas nor an id up to be used again, also over restarts and
// compaction, and its topic has Confluent's own records, so that a Confluent registry can take it over.
// One server writes at a time; a second one on the same topic follows the log, and a race between two
// writers is detected and undone (see log.go).
package registry
