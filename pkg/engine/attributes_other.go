//go:build !linux

package engine

import "syscall"

// childAttributes keeps the child out of the terminal's process group; the pipe tells it when we are gone.
func childAttributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
