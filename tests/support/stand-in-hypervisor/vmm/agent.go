package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"hypeman/guest/agent"
)

// What guest/protocol.md names in its sections 3 and "exec".
const (
	frameStart   = 0
	frameStdout  = 5
	frameExit    = 7
	frameHeader  = 5
	longestFrame = 65536
)

// oldAgent is a variable of a fork whose agent shall be as those of before forks were given variables and secret files.
const oldAgent = "OLD_AGENT"

var started = time.Now()

// newAgent answers what the server asks of a guest to start, restore, fork and stop it; of what users ask it knows exec, with programs of its own.
func newAgent(guest *guest) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("/v1/health", func(w http.ResponseWriter, _ *http.Request) {
		guest.run(func() { answer(w, http.StatusOK, healthOf(guest)) })
	})
	mux.HandleFunc("/v1/sync", func(w http.ResponseWriter, _ *http.Request) {
		var err error
		guest.run(func() { err = guest.disk.Sync() })
		if err != nil {
			refuse(w, http.StatusInternalServerError, "sync", err.Error())
			return
		}
		answer(w, http.StatusOK, struct{}{})
	})
	mux.HandleFunc("/v1/grow", func(w http.ResponseWriter, r *http.Request) {
		guest.run(func() {
			given := guest.memory.Size
			answer(w, http.StatusOK, agent.Growth{Processors: given.Vcpus, MemoryBytes: given.Memory << 20})
		})
	})
	mux.HandleFunc("/v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusAccepted, struct{}{})
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		go guest.run(func() { guest.powerOff(0) })
	})
	mux.HandleFunc("/v1/exec", func(w http.ResponseWriter, r *http.Request) { exec(guest, w) })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		refuse(w, http.StatusNotFound, "not_here", "the stand-in guest does not know "+r.URL.Path)
	})
	return &http.Server{Handler: mux}
}

func healthOf(guest *guest) map[string]any {
	workload := map[string]any{"state": "waiting"}
	if guest.memory.InstanceID != "" {
		workload = map[string]any{"state": "running", "pid": 2}
	}
	return map[string]any{
		"version": "stand-in", "protocol": 1, "boot_id": guest.memory.BootID, "generation": guest.memory.Generation,
		"uptime_ms": time.Since(started).Milliseconds(), "workload": workload,
	}
}

// renew takes a renewal (protocol.md, section 3).
func renew(guest *guest, message []byte) []byte {
	request, err := agent.ParseRenewal(string(message))
	if err != nil {
		return []byte("refused " + err.Error() + "\n")
	}
	said := ""
	for _, name := range stepsOf(request.Reason) {
		said += "step " + name + " 0 ok\n"
	}
	guest.run(func() {
		switch configured := guest.memory.InstanceID; {
		case request.Reason == "clock" || request.Reason == "freeze" || request.Reason == "thaw":
		case request.Reason != "boot":
			guest.identify(*request)
			if _, isOld := request.Program.Env[oldAgent]; !isOld {
				said += givenTo(*request)
			}
			said += "programs frozen\n"
		case configured == "":
			guest.identify(*request)
			if len(request.SecretFiles) > 0 {
				said += "step secrets 0 ok\n"
			}
			said += "workload running\n"
		case configured == request.InstanceID:
			said = "workload running\n"
		default:
			said = "refused this guest is the instance " + configured + " already\n"
		}
	})
	if strings.HasPrefix(said, "refused ") {
		return []byte(said)
	}
	return []byte(fmt.Sprintf("%stime %d\n", said, time.Now().UnixNano()))
}

// stepsOf are the steps that are taken whatever else a guest is told.
func stepsOf(reason string) []string {
	switch reason {
	case "clock", "freeze":
		return []string{reason}
	case "thaw":
		return []string{"clock", "thaw"}
	}
	return []string{"entropy", "clock", "machine-id", "boot-id", "hostname", "ssh-keys", "network", "connections", "generation", "hooks"}
}

// givenTo are the steps of what a fork was given.
func givenTo(request agent.Identity) string {
	steps := ""
	if len(request.Program.Env) > 0 {
		steps += "step environment 0 ok\n"
	}
	if len(request.SecretFiles) > 0 {
		steps += "step secrets 0 ok\n"
	}
	return steps
}

// exec runs one of the guest's own programs: its command is in the first frame, its output and end are in the answer's.
func exec(guest *guest, w http.ResponseWriter) {
	connection, buffered, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	// From here on the host may go at any time, which is no failure.
	_, _ = io.WriteString(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n")
	argv, err := readStart(buffered.Reader)
	if err != nil {
		return
	}
	var output string
	guest.run(func() { output, err = program(guest, argv) })
	if err != nil {
		sendFrame(connection, frameExit, map[string]any{"exit_code": 127, "error": err.Error()})
		return
	}
	if output != "" {
		sendBytes(connection, frameStdout, []byte(output))
	}
	sendFrame(connection, frameExit, map[string]any{"exit_code": 0})
}

// program is what a stand-in guest can run. A write answers with what was there before.
func program(guest *guest, argv []string) (string, error) {
	switch {
	case len(argv) == 1 && argv[0] == "memory":
		return guest.memory.Content, nil
	case len(argv) == 2 && argv[0] == "memory":
		return guest.setMemory(argv[1]), nil
	case len(argv) == 1 && argv[0] == "disk":
		return guest.readDisk()
	case len(argv) == 2 && argv[0] == "disk":
		return guest.writeDisk(argv[1])
	case len(argv) == 1 && argv[0] == "sync":
		return "", guest.disk.Sync()
	case len(argv) == 1 && argv[0] == "all":
		disk, err := guest.readDisk()
		if err != nil {
			return "", err
		}
		text, err := json.Marshal(map[string]any{"memory": guest.memory, "disk": disk})
		return string(text), err
	case len(argv) == 2 && argv[0] == "exit":
		code, err := strconv.Atoi(argv[1])
		if err != nil {
			return "", err
		}
		guest.powerOff(code)
	}
	return "", fmt.Errorf("the stand-in guest has no program %q", argv)
}

func readStart(reader *bufio.Reader) ([]string, error) {
	header := make([]byte, frameHeader)
	if _, err := io.ReadFull(reader, header); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if header[0] != frameStart || length > longestFrame {
		return nil, fmt.Errorf("the first frame is of type %d with %d bytes", header[0], length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(reader, payload); err != nil {
		return nil, err
	}
	var start struct {
		Argv []string `json:"argv"`
	}
	return start.Argv, json.Unmarshal(payload, &start)
}

func sendFrame(connection net.Conn, kind byte, value any) {
	payload, err := json.Marshal(value)
	if err != nil {
		panic(err) // maps of strings and numbers can be written
	}
	sendBytes(connection, kind, payload)
}

func sendBytes(connection net.Conn, kind byte, payload []byte) {
	header := make([]byte, frameHeader, frameHeader+len(payload))
	header[0] = kind
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	_, _ = connection.Write(append(header, payload...)) // the host has gone: nobody is left to be told
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	answer(w, status, map[string]string{"code": code, "message": message})
}

func answer(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // the host has gone: nobody is left to be told
}
