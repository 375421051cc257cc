// Package fault lets a test kill, stop or delay the program at chosen points of it, and move its clock. It
// promises that a build without the tag faults, as every release is, has none of it: there the functions
// are empty, and no environment variable is read.
//
// A build with the tag reads two variables at its start:
//
//	HUB_FAULTS=kill:after-decide:3,stop:before-insert:1+20ms,sleep:after-decide:0+300ms
//	HUB_CLOCK=-48h
//
// A fault is action:point:passage, with +duration after it for one that comes so long after the passage.
// Passages of a point are counted from 1. kill is SIGKILL and stop SIGSTOP of the process itself, once;
// sleep holds up each passage from the given one on for the duration. Points are the actions of the
// loader's protocol, "before-" and "after-" (consumers/load/protocol.go), the steps of a cycle of the
// aggregates, "aggregate-", and those that are named where At is called.
package fault
