package agent

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hypeman/guest/network"
	"hypeman/guest/process"
)

// Identity is what a renewal says. Volumes, Program and StopSignal are those of a boot.
type Identity struct {
	Reason     string
	Generation int
	InstanceID string
	Hostname   string
	MachineID  string
	Entropy    string
	TimeUnixNs string
	Network    *network.Config
	Volumes    []Volume
	// SecretFiles are those of a boot, and of a fork that was given some.
	SecretFiles []SecretFile
	Program     process.Command
	StopSignal  string
}

// Volume is a disk and where it is mounted. Layer is the number of the part of the system disk that takes what is written over a read-only one; 0: nothing is.
type Volume struct {
	Disk, MountPath string
	ReadOnly        bool
	Layer           int
}

type identityState struct {
	mu         sync.Mutex        // held through all steps; guards what follows
	configured string            // instance id; empty until the steps of a boot have begun
	hosts      string            // what the agent wrote into /etc/hosts
	kept       map[string]string // what the agent gave each file below /run/hypeman/etc last
	files      map[string]twins  // of each file that it replaces
	network    network.Config    // what the guest was given last; empty if that failed
	jump       int64             // by how much the last restore or fork has stepped the clock, in nanoseconds
	// cachesThere tells whether there were caches of names when programs came to stand still, cachesDue whether they are to be emptied when these run again.
	cachesThere, cachesDue bool
	hadMore                bool // the runtime had one more processor when programs came to stand still

	generation atomic.Int64 // read by health, which never waits for steps
}

type step struct {
	name string
	act  func() error
}

type stepResult struct {
	name string
	took time.Duration
	err  error
}

// note is what a step that went well has to say; warning is what is not as it should be, and does not make the step fail.
type (
	note    string
	warning string
)

func (n note) Error() string    { return string(n) }
func (w warning) Error() string { return string(w) }

func run(one step) stepResult {
	began := time.Now()
	err := one.act()
	return stepResult{one.name, time.Since(began), err}
}

// failed tells whether the step did not do what it is for.
func (r stepResult) failed() bool {
	switch r.err.(type) {
	case nil, note, warning:
		return false
	}
	return true
}

// Rehearse does beforehand what a boot does for every instance: files and links are made, the interface is set up as hosts have it so far. Then a boot has to change
// what is different, as a fork has. What fails here is tried again when it matters. nil: there is no interface.
func (s *Server) Rehearse(net *network.Config) {
	nobody := &Identity{Reason: "boot", Hostname: "localhost", MachineID: strings.Repeat("0", 32), TimeUnixNs: "0", Network: net}
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	steps := append([]step{s.machineID(nobody), s.hostname(nobody), s.bootID(), s.generationStep(nobody)}, s.network(nobody)...)
	for _, one := range steps {
		if err := one.act(); err != nil {
			fmt.Fprintf(os.Stderr, "agent: %s, beforehand: %v\n", one.name, err)
		}
	}
	// The disk's journal would be committed seconds later, in every fork of what is snapshotted before that once more.
	syncAll()
}

// boot does what a guest that waits is told once: its identity, its volumes, its program. Told again, it says how the program is.
func (s *Server) boot(request *Identity) []byte {
	if s.identity.configured != "" && s.identity.configured != request.InstanceID {
		return refusal(errors.New("this guest is the instance " + s.identity.configured + " already"))
	}
	var answer []byte
	if s.identity.configured == "" {
		s.identity.configured = request.InstanceID
		for _, one := range s.bootSteps(request) {
			result := run(one)
			if result.failed() {
				s.identity.configured = ""
				return refusal(errors.New(result.name + ": " + result.err.Error()))
			}
			answer = appendResult(answer, result)
		}
		s.lookAhead()
		s.Workload.Start(request.Program, request.StopSignal)
	}
	return append(append(append(answer, "workload "...), s.Workload.Status().State...), '\n')
}

func (s *Server) bootSteps(request *Identity) []step {
	steps := []step{s.entropy(request), s.clock(request), s.machineID(request), s.hostname(request)}
	steps = append(steps, s.network(request)...)
	// These are made now, so that a fork has only to write into them.
	steps = append(steps, s.bootID(), s.generationStep(request))
	for _, volume := range request.Volumes {
		volume := volume
		steps = append(steps, step{"volumes", func() error { return s.Guest.MountVolume(volume.Disk, volume.MountPath, volume.ReadOnly, volume.Layer) }})
	}
	return append(steps, s.secrets(request)...)
}

func (s *Server) bootID() step {
	return step{"boot-id", func() error { return s.Guest.ReplaceBootID(newBootID()) }}
}

func (s *Server) machineID(request *Identity) step {
	return step{"machine-id", func() error {
		if len(request.MachineID) != 32 || strings.Trim(request.MachineID, "0123456789abcdef") != "" {
			return errors.New("the machine-id is not 32 hexadecimal digits")
		}
		return s.replaceIdentityFile("machine-id", request.MachineID+"\n", 0o444)
	}}
}

func (s *Server) hostname(request *Identity) step {
	return step{"hostname", func() error {
		if err := s.Guest.SetHostname(request.Hostname); err != nil {
			return err
		}
		if err := s.replaceIdentityFile("hostname", request.Hostname+"\n", 0o644); err != nil {
			return err
		}
		// A fork keeps what its programs and users have added; an image's own file names other hosts.
		extra := ""
		if s.identity.hosts != "" {
			if old, err := s.identityFile("hosts"); err == nil {
				extra = strings.Replace(old, s.identity.hosts, "", 1)
			}
		}
		s.identity.hosts = hostsFor(request)
		return s.replaceIdentityFile("hosts", s.identity.hosts+extra, 0o644)
	}}
}

func (s *Server) network(request *Identity) []step {
	if request.Network == nil {
		return nil
	}
	return []step{{"network", func() error {
		s.identity.network = network.Config{} // a step that fails half way is taken again
		if err := s.Guest.SetNetwork(*request.Network); err != nil {
			return err
		}
		if err := s.replaceIdentityFile("resolv.conf", resolvers(request.Network.DNS), 0o644); err != nil {
			return err
		}
		s.identity.network = *request.Network
		return nil
	}}}
}

func hostsFor(request *Identity) string {
	own := "127.0.1.1"
	if request.Network != nil {
		own, _, _ = strings.Cut(request.Network.Address, "/")
	}
	return "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" + own + "\t" + request.Hostname + "\n"
}

func resolvers(servers []string) string {
	var text strings.Builder
	for _, server := range servers {
		text.WriteString("nameserver " + server + "\n")
	}
	return text.String()
}

// newBootID is a random UUID (RFC 9562, version 4).
func newBootID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic("getrandom failed: " + err.Error())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	digits := hex.EncodeToString(b[:])
	return digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}
