package agent

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hypeman/guest/network"
	"hypeman/guest/process"
)

// identity is the part that configure and identity have in common.
type identity struct {
	Reason     string          `json:"reason"`
	Generation int             `json:"generation"`
	InstanceID string          `json:"instance_id"`
	Hostname   string          `json:"hostname"`
	MachineID  string          `json:"machine_id"`
	Entropy    string          `json:"entropy"`
	TimeUnixNs string          `json:"time_unix_ns"`
	Network    *network.Config `json:"network"`
}

type identityState struct {
	mu         sync.Mutex        // held through all steps; guards what follows
	configured string            // instance id; empty until configure has begun
	hosts      string            // what the agent wrote into /etc/hosts
	kept       map[string]string // what the agent gave each file below /run/hypeman/etc last

	generation atomic.Int64 // read by health, which never waits for steps
}

type step struct {
	name string
	act  func() error
}

type stepResult struct {
	Name    string  `json:"name"`
	Ms      float64 `json:"ms"`
	OK      bool    `json:"ok"`
	Message string  `json:"message,omitempty"`
}

func run(one step) stepResult {
	began := time.Now()
	err := one.act()
	result := stepResult{Name: one.name, Ms: float64(time.Since(began).Microseconds()) / 1000, OK: err == nil}
	if err != nil {
		result.Message = err.Error()
	}
	return result
}

type configureRequest struct {
	identity
	Volumes []struct {
		Disk      string `json:"disk"`
		MountPath string `json:"mount_path"`
		ReadOnly  bool   `json:"readonly"`
	} `json:"volumes"`
	Workload struct {
		Argv       []string          `json:"argv"`
		Env        map[string]string `json:"env"`
		Cwd        string            `json:"cwd"`
		User       string            `json:"user"`
		StopSignal string            `json:"stop_signal"`
	} `json:"workload"`
}

func (s *Server) configure(w http.ResponseWriter, r *http.Request) error {
	var request configureRequest
	if err := readJSON(r, &request); err != nil {
		return err
	}
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	if request.InstanceID == "" {
		return &Error{http.StatusBadRequest, "bad_request", "instance_id is missing"}
	}
	if s.identity.configured != "" && s.identity.configured != request.InstanceID {
		return &Error{http.StatusConflict, "configured", "this guest is the instance " + s.identity.configured + " already"}
	}
	if s.identity.configured == "" {
		s.identity.configured = request.InstanceID
		steps := append(s.baseSteps(request.identity), s.machineID(request.identity), s.hostname(request.identity))
		steps = append(steps, s.network(request.identity)...)
		// Mounted now, so that a fork has only to write into it.
		steps = append(steps, step{"boot-id", func() error { return s.Guest.ReplaceBootID(newBootID()) }})
		for _, volume := range request.Volumes {
			volume := volume
			steps = append(steps, step{"volumes", func() error { return s.Guest.MountVolume(volume.Disk, volume.MountPath, volume.ReadOnly) }})
		}
		for _, one := range steps {
			if result := run(one); !result.OK {
				s.identity.configured = ""
				return &Error{http.StatusUnprocessableEntity, result.Name, result.Message}
			}
		}
		asked := request.Workload
		s.Workload.Start(process.Command{Argv: asked.Argv, Env: asked.Env, Cwd: asked.Cwd, User: asked.User}, asked.StopSignal)
	}
	return s.health(w, r)
}

func (s *Server) renew(w http.ResponseWriter, r *http.Request) error {
	var request identity
	if err := readJSON(r, &request); err != nil {
		return err
	}
	if request.Reason != "fork" && request.Reason != "restore" {
		return &Error{http.StatusBadRequest, "bad_request", "reason is fork or restore"}
	}
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	steps := s.baseSteps(request)
	if request.Reason == "fork" {
		if request.InstanceID == "" {
			return &Error{http.StatusBadRequest, "bad_request", "instance_id is missing"}
		}
		s.identity.configured = request.InstanceID
		steps = append(steps, s.machineID(request), step{"boot-id", func() error { return s.Guest.ReplaceBootID(newBootID()) }}, s.hostname(request))
		steps = append(steps, s.network(request)...)
		steps = append(steps, step{"connections", s.Guest.ResetConnections})
	}
	request.InstanceID = s.identity.configured
	s.identity.generation.Store(int64(request.Generation))
	steps = append(steps, step{"generation", func() error { return s.writeGeneration(request) }})
	if request.Reason == "fork" {
		steps = append(steps, step{"hooks", func() error { return s.runHooks(request, hooksLimit) }})
	}
	results := make([]stepResult, 0, len(steps))
	for _, one := range steps {
		results = append(results, run(one))
	}
	writeJSON(w, http.StatusOK, map[string]any{"steps": results})
	return nil
}

func (s *Server) baseSteps(request identity) []step {
	return []step{
		{"entropy", func() error {
			bytes, err := base64.StdEncoding.DecodeString(request.Entropy)
			if err != nil || len(bytes) < 64 {
				return fmt.Errorf("entropy is not at least 64 bytes in base64")
			}
			return s.Guest.AddEntropy(bytes)
		}},
		{"clock", func() error { return s.stepClock(request.TimeUnixNs) }},
	}
}

func (s *Server) stepClock(timeUnixNs string) error {
	now, err := strconv.ParseInt(timeUnixNs, 10, 64)
	if err != nil {
		return errors.New("time_unix_ns is not a decimal number")
	}
	return s.Guest.SetClock(time.Unix(0, now))
}

// setClock steps the clock again: the host asks for it when its last request took so long that its time was old when it came.
func (s *Server) setClock(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		TimeUnixNs string `json:"time_unix_ns"`
	}
	if err := readJSON(r, &request); err != nil {
		return err
	}
	if err := s.stepClock(request.TimeUnixNs); err != nil {
		return &Error{http.StatusUnprocessableEntity, "clock", err.Error()}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Server) machineID(request identity) step {
	return step{"machine-id", func() error {
		if len(request.MachineID) != 32 || strings.Trim(request.MachineID, "0123456789abcdef") != "" {
			return errors.New("machine_id is not 32 hexadecimal digits")
		}
		return s.replaceIdentityFile("machine-id", request.MachineID+"\n", 0o444)
	}}
}

func (s *Server) hostname(request identity) step {
	return step{"hostname", func() error {
		if err := s.Guest.SetHostname(request.Hostname); err != nil {
			return err
		}
		if err := s.replaceIdentityFile("hostname", request.Hostname+"\n", 0o644); err != nil {
			return err
		}
		// A fork keeps what its programs and users have added; an image's own file names other hosts.
		extra := ""
		if old, err := os.ReadFile(s.Root + "/etc/hosts"); err == nil && s.identity.hosts != "" {
			extra = strings.Replace(string(old), s.identity.hosts, "", 1)
		}
		s.identity.hosts = hostsFor(request)
		return s.replaceIdentityFile("hosts", s.identity.hosts+extra, 0o644)
	}}
}

func (s *Server) network(request identity) []step {
	if request.Network == nil {
		return nil
	}
	return []step{{"network", func() error {
		if err := s.Guest.SetNetwork(*request.Network); err != nil {
			return err
		}
		return s.replaceIdentityFile("resolv.conf", resolvers(request.Network.DNS), 0o644)
	}}}
}

func hostsFor(request identity) string {
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

func (s *Server) writeGeneration(request identity) error {
	content, err := json.Marshal(map[string]any{"generation": request.Generation, "instance_id": request.InstanceID, "reason": request.Reason, "time_unix_ns": request.TimeUnixNs})
	if err != nil {
		return err
	}
	return s.replaceFile("/run/hypeman/generation", string(content)+"\n", 0o644)
}

// replaceIdentityFile gives /etc/<name> new content. The content lies in memory, below /run, and /etc has a link to it: so a fork writes
// nothing to its disk, which would cost more than all the rest of its identity. Where a program has put a file of its own in the link's place, the link is put back.
func (s *Server) replaceIdentityFile(name, content string, mode uint32) error {
	if s.identity.kept[name] != content {
		if err := s.replaceFile("/run/hypeman/etc/"+name, content, mode); err != nil {
			return err
		}
		if s.identity.kept == nil {
			s.identity.kept = map[string]string{}
		}
		s.identity.kept[name] = content
	}
	at, target := s.Root+"/etc/"+name, "../run/hypeman/etc/"+name
	if present, err := os.Readlink(at); err == nil && present == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	beside := at + ".hypeman"
	if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(target, beside); err != nil {
		return err
	}
	return os.Rename(beside, at)
}

// replaceFile writes beside and renames, so that a reader sees the old or the new content whole. A link at the name is replaced, not followed.
// An image may have no /etc. Plain system calls, since this is most of what a fork waits for; the caller lets one at a time in.
func (s *Server) replaceFile(name, content string, mode uint32) error {
	name = s.Root + name
	beside := name + ".hypeman"
	file, err := syscall.Open(beside, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, mode)
	if err != nil {
		// The directory is not there yet, or an earlier one of us was cut off.
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
			return err
		}
		if file, err = syscall.Open(beside, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, mode); err != nil {
			return &os.PathError{Op: "open", Path: beside, Err: err}
		}
	}
	written, err := syscall.Write(file, []byte(content))
	if closeErr := syscall.Close(file); err == nil {
		err = closeErr
	}
	if err == nil && written != len(content) {
		err = syscall.ENOSPC
	}
	if err == nil {
		err = syscall.Rename(beside, name)
	}
	if err != nil {
		syscall.Unlink(beside)
		return &os.PathError{Op: "replace", Path: name, Err: err}
	}
	return nil
}

func newBootID() string {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic("getrandom failed: " + err.Error())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
