// Package agent answers the host's requests (protocol.md, section 3). What needs a VM is reached through Guest, so that the rest runs on any Linux.
package agent

import (
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"hypeman/guest/process"
	"hypeman/guest/workload"
)

// Version of the agent; set when it is built.
var Version = "dev"

const maxJSON = 1 << 20 // bytes of a JSON request body

// Server holds what the requests work on.
type Server struct {
	Reaper   *process.Reaper
	Workload *workload.Workload
	Guest    Guest
	started  time.Time
	identity identityState
}

// New makes a server; nothing of the image runs before configure was called.
func New(reaper *process.Reaper, w *workload.Workload, guest Guest) *Server {
	return &Server{Reaper: reaper, Workload: w, Guest: guest, started: time.Now()}
}

// Serve answers the requests of one session until its listener is closed.
func (s *Server) Serve(listener net.Listener) {
	server := &http.Server{Handler: s.handler(), ErrorLog: log.New(os.Stderr, "agent: ", 0)}
	_ = server.Serve(listener) // ends with the session, which says nothing new
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	route := func(method, path string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			defer func() {
				if cause := recover(); cause != nil {
					fmt.Fprintf(os.Stderr, "agent: %s %s: %v\n%s", r.Method, r.URL.Path, cause, debug.Stack())
					writeError(w, &Error{http.StatusInternalServerError, "internal", "the agent failed; its console log has the details"})
				}
			}()
			for _, one := range strings.Split(method, "|") {
				if r.Method == one {
					if err := handle(w, r); err != nil {
						writeError(w, err)
					}
					return
				}
			}
			writeError(w, &Error{http.StatusMethodNotAllowed, "method", r.Method + " is not allowed here"})
		})
	}
	route("GET", "/v1/health", s.health)
	route("POST", "/v1/configure", s.configure)
	route("POST", "/v1/identity", s.renew)
	route("POST", "/v1/exec", s.exec)
	route("GET", "/v1/stat", s.stat)
	route("PUT", "/v1/file", s.putFile)
	route("PUT", "/v1/directory", s.putDirectory)
	route("GET|PUT", "/v1/archive", s.archive)
	route("GET", "/v1/stats", s.stats)
	route("POST", "/v1/shutdown", s.shutdown)
	route("POST", "/v1/sync", s.sync)
	return mux
}

// Error is an answer with a status of 400 or more.
type Error struct {
	Status  int
	Code    string
	Message string
}

func (e *Error) Error() string { return e.Message }

func writeError(w http.ResponseWriter, err error) {
	known, ok := err.(*Error)
	if !ok {
		known = &Error{http.StatusInternalServerError, "internal", err.Error()}
	}
	writeJSON(w, known.Status, map[string]string{"code": known.Code, "message": known.Message})
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	body, err := json.Marshal(value)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"code":"internal","message":"the answer could not be encoded"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(body) // the host has gone: nobody is left to be told
}

func readJSON(r *http.Request, into any) error {
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxJSON)).Decode(into); err != nil {
		return &Error{http.StatusBadRequest, "bad_request", "the body is not the JSON expected: " + err.Error()}
	}
	return nil
}

type healthAnswer struct {
	Version    string          `json:"version"`
	Protocol   int             `json:"protocol"`
	BootID     string          `json:"boot_id"`
	Generation int             `json:"generation"`
	UptimeMs   int64           `json:"uptime_ms"`
	Workload   workload.Status `json:"workload"`
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	return s.answerHealth(w, s.identity.currentGeneration())
}

func (s *Server) answerHealth(w http.ResponseWriter, generation int) error {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, healthAnswer{
		Version: Version, Protocol: 1, BootID: strings.TrimSpace(string(bootID)), Generation: generation,
		UptimeMs: time.Since(s.started).Milliseconds(), Workload: s.Workload.Status(),
	})
	return nil
}

func (s *Server) sync(w http.ResponseWriter, _ *http.Request) error {
	syncAll()
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	var request struct {
		Signal  string `json:"signal"`
		GraceMs int    `json:"grace_ms"`
	}
	if err := readJSON(r, &request); err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, struct{}{})
	go func() {
		s.Workload.Stop(request.Signal, time.Duration(request.GraceMs)*time.Millisecond)
		s.Guest.PowerOff()
	}()
	return nil
}
