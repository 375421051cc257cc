//go:build !(linux || darwin) || noengine

package engine

// RunIfChild does nothing: this build has no embedded engine.
func RunIfChild() {}

const embedded = false
