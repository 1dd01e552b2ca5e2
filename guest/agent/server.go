// Package agent answers the host's requests (protocol.md, section 3). What needs a VM is reached through Guest, so that the rest runs on any Linux.
package agent

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"hypeman/guest/process"
	"hypeman/guest/workload"
	"hypeman/guest/yamux"
)

// Version of the agent; set when it is built.
var Version = "dev"

const (
	maxJSON        = 1 << 20 // bytes of a JSON request body
	defaultGraceMs = 5000
	defaultGrowMs  = 10000
)

// Server holds what the requests work on.
type Server struct {
	Reaper   *process.Reaper
	Workload *workload.Workload
	Guest    Guest
	Programs Programs
	// Root is the directory below which the files of the guest's identity are written; empty: the root itself.
	Root     string
	started  time.Time
	identity identityState
}

// New makes a server; nothing of the image runs before the renewal of a boot.
func New(reaper *process.Reaper, w *workload.Workload, guest Guest, programs Programs) *Server {
	return &Server{Reaper: reaper, Workload: w, Guest: guest, Programs: programs, started: time.Now()}
}

// Handlers is what a session with the host is for.
func (s *Server) Handlers() yamux.Handlers {
	streams := make(streams)
	go s.Serve(streams)
	return yamux.Handlers{Serve: streams.take, Renew: s.Renew}
}

// streams is a listener of all sessions' streams: one HTTP server for all, since the end of a server is much for a fork to run.
type streams chan net.Conn

// take passes the streams of one session on, until it ends.
func (s streams) take(session *yamux.Session) {
	for {
		stream, err := session.Accept()
		if err != nil {
			return
		}
		oneMoreProcessor()
		s <- stream
	}
}

func (s streams) Accept() (net.Conn, error) { return <-s, nil }
func (s streams) Close() error              { return nil }
func (s streams) Addr() net.Addr            { return &net.UnixAddr{Net: "unix"} }

// Serve answers requests until the listener is closed.
func (s *Server) Serve(listener net.Listener) {
	server := &http.Server{Handler: s.handler(), ErrorLog: log.New(os.Stderr, "agent: ", 0)}
	_ = server.Serve(listener) // says nothing but that the listener was closed
}

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	route := func(method, path string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(path, func(plain http.ResponseWriter, r *http.Request) {
			w := &answer{ResponseWriter: plain}
			defer func() {
				cause := recover()
				if cause == nil {
					return
				}
				if cause != http.ErrAbortHandler {
					fmt.Fprintf(os.Stderr, "agent: %s %s: %v\n%s", r.Method, r.URL.Path, cause, debug.Stack())
				}
				if w.begun || cause == http.ErrAbortHandler {
					panic(http.ErrAbortHandler) // an answer that has begun can only be broken off
				}
				writeError(w, &Error{http.StatusInternalServerError, "internal", "the agent failed; its console log has the details"})
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
	route("POST", "/v1/exec", s.exec)
	route("GET", "/v1/stat", s.stat)
	route("PUT", "/v1/file", s.putFile)
	route("PUT", "/v1/directory", s.putDirectory)
	route("GET|PUT", "/v1/archive", s.archive)
	route("GET", "/v1/stats", s.stats)
	route("POST", "/v1/probe", s.probe)
	route("POST", "/v1/shutdown", s.shutdown)
	route("POST", "/v1/sync", s.sync)
	route("POST", "/v1/grow", s.grow)
	return mux
}

// answer knows whether it has begun.
type answer struct {
	http.ResponseWriter
	begun bool
}

func (a *answer) WriteHeader(status int) {
	a.begun = true
	a.ResponseWriter.WriteHeader(status)
}

func (a *answer) Write(p []byte) (int, error) {
	a.begun = true
	return a.ResponseWriter.Write(p)
}

// Hijack hands the connection over; from then on it is no longer HTTP's.
func (a *answer) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	hijacker, ok := a.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, errors.New("the connection can't be handed over")
	}
	a.begun = true
	return hijacker.Hijack()
}

func (a *answer) Flush() {
	if flusher, ok := a.ResponseWriter.(http.Flusher); ok {
		flusher.Flush()
	}
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
	if err := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxJSON)).Decode(into); err != nil && err != io.EOF { // no body: all defaults
		return &Error{http.StatusBadRequest, "bad_request", "the body is not the JSON expected: " + err.Error()}
	}
	return nil
}

type healthAnswer struct {
	Version    string          `json:"version"`
	Protocol   int             `json:"protocol"`
	BootID     string          `json:"boot_id"`
	Generation int64           `json:"generation"`
	UptimeMs   int64           `json:"uptime_ms"`
	Workload   workload.Status `json:"workload"`
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) error {
	bootID, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, healthAnswer{
		Version: Version, Protocol: 1, BootID: strings.TrimSpace(string(bootID)), Generation: s.identity.generation.Load(),
		UptimeMs: time.Since(s.started).Milliseconds(), Workload: s.Workload.Status(),
	})
	return nil
}

func (s *Server) sync(w http.ResponseWriter, _ *http.Request) error {
	syncAll()
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

// grow takes into use what the VMM has added to this VM.
func (s *Server) grow(w http.ResponseWriter, r *http.Request) error {
	request := struct {
		Growth
		TimeoutMs int64 `json:"timeout_ms"`
	}{TimeoutMs: defaultGrowMs}
	if err := readJSON(r, &request); err != nil {
		return err
	}
	found, err := s.Guest.Grow(request.Growth, time.Duration(request.TimeoutMs)*time.Millisecond)
	if err != nil {
		return &Error{http.StatusConflict, "not_grown", err.Error()}
	}
	writeJSON(w, http.StatusOK, found)
	return nil
}

func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	request := struct {
		Signal  string `json:"signal"`
		GraceMs int64  `json:"grace_ms"`
	}{GraceMs: defaultGraceMs}
	if err := readJSON(r, &request); err != nil {
		return err
	}
	writeJSON(w, http.StatusAccepted, struct{}{})
	if flusher, ok := w.(http.Flusher); ok {
		flusher.Flush() // the host is told before there is nobody left to tell it
	}
	go func() {
		s.Workload.Stop(request.Signal, time.Duration(request.GraceMs)*time.Millisecond)
		s.Guest.PowerOff()
	}()
	return nil
}
