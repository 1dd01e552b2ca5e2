package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hypeman/guest/process"
)

const (
	hostKeys = "/etc/ssh"
	// hostKeysLimit is what making all keys may take; an RSA key takes seconds where a machine is emulated.
	hostKeysLimit = 20 * time.Second
	// hostKeyPolicy is a variable of the program's environment; keep: forks have their source's keys.
	hostKeyPolicy = "HYPEMAN_SSH_HOST_KEYS"
)

// hostKeyKinds are those that each ssh-keygen makes. A file of another name may be a copy that somebody has laid aside, or of a kind that was given up, as dsa.
var hostKeyKinds = map[string]bool{"rsa": true, "ecdsa": true, "ed25519": true}

// sshdPidFile is where the server that has the keys in memory says who it is.
var sshdPidFile = "/run/sshd.pid"

// renewHostKeys gives a fork SSH host keys of its own: whoever has one fork's private keys could else pose as all of them. An image without keys is done with one look.
func (s *Server) renewHostKeys() error {
	if !s.isThere(hostKeys) {
		return nil
	}
	files, err := filepath.Glob(s.Root + hostKeys + "/ssh_host_*_key")
	if err != nil || len(files) == 0 {
		return err
	}
	env := s.Workload.Environment(nil)
	if env[hostKeyPolicy] == "keep" {
		return note("the keys of the source are kept, as " + hostKeyPolicy + " says")
	}
	if _, err := process.Resolve(process.Command{Argv: []string{"ssh-keygen"}, Env: env}); err != nil {
		return warning("the keys of the source are kept, since the image has no ssh-keygen: whoever has them can pose as this machine")
	}
	kept, err := s.renewEachHostKey(files)
	if ended := s.Programs.HooksEnded(); err == nil {
		err = ended
	}
	if err != nil {
		return err
	}
	s.tellSSHServer()
	if len(kept) > 0 {
		return warning("keys of the source are kept, and whoever has them can pose as this machine: " + strings.Join(kept, "; "))
	}
	return nil
}

// renewEachHostKey returns the files that are kept, each with the reason: those of kinds that ssh-keygen need not know.
func (s *Server) renewEachHostKey(files []string) (kept []string, _ error) {
	deadline := time.Now().Add(hostKeysLimit)
	for _, file := range files {
		name := filepath.Base(file)
		kind := strings.TrimSuffix(strings.TrimPrefix(name, "ssh_host_"), "_key")
		switch err := s.renewHostKey(file, kind, deadline); {
		case err == nil:
		case hostKeyKinds[kind]:
			return nil, errors.New(name + ": " + err.Error())
		default:
			kept = append(kept, name+": "+err.Error())
		}
	}
	return kept, nil
}

func (s *Server) renewHostKey(file, kind string, deadline time.Time) error {
	fresh := file + spareSuffix
	for _, one := range []string{fresh, fresh + ".pub"} {
		if err := os.Remove(one); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if said, err := s.runProgram([]string{"ssh-keygen", "-q", "-t", kind, "-N", "", "-f", fresh}, nil, time.Until(deadline)); err != nil {
		return errors.New("ssh-keygen: " + err.Error() + after(": ", said))
	}
	if err := os.Rename(fresh+".pub", file+".pub"); err != nil {
		return err
	}
	return os.Rename(fresh, file)
}

// tellSSHServer has a server that runs read its keys anew, when programs go on. One that is not told reads them for its next connection.
func (s *Server) tellSSHServer() {
	content, err := readFile(s.Root + sshdPidFile)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(content))
	if err == nil && pid > 1 && nameOf(pid) == "sshd" {
		_ = syscall.Kill(pid, syscall.SIGHUP) // it may just have ended
	}
}

// nameOf is what the kernel calls a process, at most 15 bytes; empty if there is none.
func nameOf(pid int) string {
	content, err := readFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(content)
}
