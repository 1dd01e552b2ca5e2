package agent

import (
	"os"
	"strconv"
	"syscall"
	"time"
)

const (
	// Where the two programs are found that keep answers of name servers for others, which may be wrong where the guest is now.
	nscdSocket   = "/run/nscd/socket"
	resolvedHome = "/run/systemd/resolve"
	// resolvedName is what the kernel calls systemd-resolved.
	resolvedName = "systemd-resolve"
	// nscdLimit is until nscd has answered.
	nscdLimit = 2 * time.Second
)

// emptyNameCaches has nscd and systemd-resolved forget. It is asked when programs run again, since nscd answers when it has done it. It does no harm that a cache is kept, so nothing of it fails a fork.
func (s *Server) emptyNameCaches() error {
	if s.isThere(resolvedHome) {
		signalAll(resolvedName, syscall.SIGUSR2) // systemd-resolved.service(8)
	}
	if !s.isThere(nscdSocket) {
		return nil
	}
	said, err := s.runProgram([]string{"nscd", "-i", "hosts"}, nil, nscdLimit)
	if ended := s.Programs.HooksEnded(); err == nil {
		err = ended
	}
	if err != nil {
		return warning("nscd may answer with old addresses: " + err.Error() + after(": ", said))
	}
	return nil
}

func signalAll(name string, signal syscall.Signal) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil && pid > 1 && nameOf(pid) == name {
			_ = syscall.Kill(pid, signal) // it may just have ended
		}
	}
}
