package engine

import "syscall"

// childAttributes has the kernel kill the child when the thread that started it ends, and keeps the child out of the
// terminal's process group, so that Ctrl-C reaches only us.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
