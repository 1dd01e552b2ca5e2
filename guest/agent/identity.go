package agent

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
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
	mu         sync.Mutex
	configured string // instance id; empty until configure has begun
	generation int
}

func (i *identityState) currentGeneration() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.generation
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
	if s.identity.configured != "" && s.identity.configured != request.InstanceID {
		return &Error{http.StatusConflict, "configured", "this guest is the instance " + s.identity.configured + " already"}
	}
	if s.identity.configured == "" {
		s.identity.configured = request.InstanceID
		steps := append(s.baseSteps(request.identity), s.identitySteps(request.identity)...)
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
	return s.answerHealth(w, s.identity.generation)
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
		s.identity.configured = request.InstanceID
		steps = append(steps, s.identitySteps(request)...)
		steps = append(steps, step{"boot-id", func() error { return s.Guest.ReplaceBootID(newBootID()) }})
	}
	s.identity.generation = request.Generation
	steps = append(steps, step{"generation", func() error { return writeGeneration(request) }})
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
		{"clock", func() error {
			now, err := strconv.ParseInt(request.TimeUnixNs, 10, 64)
			if err != nil {
				return fmt.Errorf("time_unix_ns is not a decimal number")
			}
			return s.Guest.SetClock(time.Unix(0, now))
		}},
	}
}

func (s *Server) identitySteps(request identity) []step {
	steps := []step{
		{"machine-id", func() error { return replaceFile("/etc/machine-id", request.MachineID+"\n", 0o444) }},
		{"hostname", func() error {
			if err := s.Guest.SetHostname(request.Hostname); err != nil {
				return err
			}
			if err := replaceFile("/etc/hostname", request.Hostname+"\n", 0o644); err != nil {
				return err
			}
			return replaceFile("/etc/hosts", hostsFor(request), 0o644)
		}},
	}
	if request.Network != nil {
		steps = append(steps, step{"network", func() error {
			if err := s.Guest.SetNetwork(*request.Network); err != nil {
				return err
			}
			return replaceFile("/etc/resolv.conf", resolvers(request.Network.DNS), 0o644)
		}})
	}
	return steps
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

func writeGeneration(request identity) error {
	content, err := json.Marshal(map[string]any{"generation": request.Generation, "instance_id": request.InstanceID, "reason": request.Reason, "time_unix_ns": request.TimeUnixNs})
	if err != nil {
		return err
	}
	if err := os.MkdirAll("/run/hypeman", 0o755); err != nil {
		return err
	}
	return replaceFile("/run/hypeman/generation", string(content)+"\n", 0o644)
}

// replaceFile writes beside and renames, so that a reader sees the old or the new content whole. A link at the name is replaced, not followed.
func replaceFile(name, content string, mode os.FileMode) error {
	temporary, err := os.CreateTemp(filepath.Dir(name), ".hypeman-")
	if err != nil {
		return err
	}
	defer os.Remove(temporary.Name()) // after the rename there is nothing left to remove
	if _, err = temporary.WriteString(content); err == nil {
		err = temporary.Chmod(mode)
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(temporary.Name(), name)
}

func newBootID() string {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		panic("getrandom failed: " + err.Error())
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
