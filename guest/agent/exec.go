package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"hypeman/guest/process"
	"hypeman/guest/workload"
)

const (
	frameStart = iota
	frameStdin
	frameStdinEnd
	frameResize
	frameSignal
	frameStdout
	frameStderr
	frameExit
)

const (
	maxExecFrame = 65536
	outputChunk  = 32768
	// hangUpGrace is what a program gets between SIGHUP and SIGKILL.
	hangUpGrace = 2 * time.Second
)

type execStart struct {
	Argv      []string          `json:"argv"`
	TTY       bool              `json:"tty"`
	Env       map[string]string `json:"env"`
	Cwd       string            `json:"cwd"`
	User      string            `json:"user"`
	TimeoutMs int               `json:"timeout_ms"`
	Rows      uint16            `json:"rows"`
	Cols      uint16            `json:"cols"`
}

type execExit struct {
	ExitCode int    `json:"exit_code"`
	Signal   string `json:"signal,omitempty"`
	TimedOut bool   `json:"timed_out,omitempty"`
	Error    string `json:"error,omitempty"`
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	if r.Header.Get("Upgrade") != "hypeman-exec/1" {
		return &Error{http.StatusUpgradeRequired, "upgrade", "exec needs Upgrade: hypeman-exec/1"}
	}
	hijacker, ok := w.(http.Hijacker)
	if !ok {
		return errors.New("the connection can't be upgraded")
	}
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n"); err != nil {
		return nil // the host has gone, and the connection is no longer HTTP's
	}
	session := &execSession{server: s, conn: conn, in: buffered.Reader}
	session.run()
	return nil
}

type execSession struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader
	write  sync.Mutex
	pid    int
}

func (e *execSession) run() {
	kind, payload, err := e.read()
	var start execStart
	if err != nil || kind != frameStart || json.Unmarshal(payload, &start) != nil {
		e.finish(execExit{ExitCode: 127, Error: "the first frame is not a start"})
		return
	}
	running, err := e.start(start)
	if err != nil {
		failed := process.AsStartError(first(start.Argv), err)
		e.finish(execExit{ExitCode: failed.Code, Error: failed.Message})
		return
	}
	e.pid = running.pid
	inputEnded := make(chan struct{})
	go e.readInput(running, inputEnded)
	hungUp := e.hungUp(inputEnded)
	exit := e.wait(running, start, hungUp)
	e.finish(exit)
	running.input.Close() // frees a readInput that waits for a program that no longer reads
}

// hungUp tells that the host has ended the stream, also while input waits for the program. Connections that can't tell are noticed by reading.
func (e *execSession) hungUp(inputEnded <-chan struct{}) <-chan struct{} {
	if stream, ok := e.conn.(interface{ Done() <-chan struct{} }); ok {
		return stream.Done()
	}
	return inputEnded
}

// running is a started program: its output ends when outputs is done, its life when ended tells.
type running struct {
	pid      int
	ended    <-chan process.Exit
	input    *os.File
	terminal *os.File
	outputs  sync.WaitGroup
	readers  []*os.File
}

func (e *execSession) start(start execStart) (*running, error) {
	command := process.Command{Argv: start.Argv, Env: e.server.Workload.Environment(start.Env), Cwd: start.Cwd, User: start.User}
	if len(command.Argv) == 0 {
		command.Argv = []string{"/bin/sh"}
	}
	if command.Cwd == "" {
		command.Cwd = e.server.Workload.Cwd()
	}
	if command.User == "" {
		command.User = e.server.Workload.User()
	}
	if start.TTY && command.Env["TERM"] == "" {
		command.Env["TERM"] = "xterm-256color"
	}
	resolved, err := process.Resolve(command)
	if err != nil {
		return nil, err
	}
	if start.TTY {
		return e.startOnTerminal(resolved, start)
	}
	return e.startOnPipes(resolved)
}

func (e *execSession) startOnTerminal(resolved *process.Resolved, start execStart) (*running, error) {
	control, program, err := process.OpenTerminal(start.Rows, start.Cols)
	if err != nil {
		return nil, err
	}
	defer program.Close()
	_ = program.Chown(int(resolved.Credential.Uid), -1) // a program that reopens its terminal by name; not fatal
	fd := program.Fd()
	r := &running{terminal: control, input: control, readers: []*os.File{control}}
	r.pid, r.ended, err = e.server.Reaper.Start(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{fd, fd, fd},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Credential: resolved.Credential},
	})
	if err != nil {
		control.Close()
		return nil, err
	}
	r.outputs.Add(1)
	go e.copyOutput(r, control, frameStdout)
	return r, nil
}

func (e *execSession) startOnPipes(resolved *process.Resolved) (*running, error) {
	var files []*os.File
	pipe := func() (*os.File, *os.File, error) {
		read, write, err := os.Pipe()
		if err == nil {
			files = append(files, read, write)
		}
		return read, write, err
	}
	stdinRead, stdinWrite, err1 := pipe()
	stdoutRead, stdoutWrite, err2 := pipe()
	stderrRead, stderrWrite, err3 := pipe()
	for _, err := range []error{err1, err2, err3} {
		if err != nil {
			closeAll(files)
			return nil, err
		}
	}
	r := &running{input: stdinWrite, readers: []*os.File{stdoutRead, stderrRead}}
	var err error
	r.pid, r.ended, err = e.server.Reaper.Start(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{stdinRead.Fd(), stdoutWrite.Fd(), stderrWrite.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: resolved.Credential},
	})
	if err != nil {
		closeAll(files)
		return nil, err
	}
	closeAll([]*os.File{stdinRead, stdoutWrite, stderrWrite})
	r.outputs.Add(2)
	go e.copyOutput(r, stdoutRead, frameStdout)
	go e.copyOutput(r, stderrRead, frameStderr)
	return r, nil
}

// copyOutput sends until the last writer is gone. When the host is gone it goes on reading, so that the program does not hang on a full pipe before it is killed.
func (e *execSession) copyOutput(r *running, from *os.File, kind byte) {
	defer r.outputs.Done()
	defer from.Close()
	buffer := make([]byte, outputChunk)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			_ = e.send(kind, buffer[:n])
		}
		if err != nil {
			return // EOF, or EIO from a terminal whose last program has gone
		}
	}
}

// readInput handles the host's frames until the stream ends, which it tells by closing ended.
func (e *execSession) readInput(r *running, ended chan<- struct{}) {
	defer close(ended)
	inputOpen := true
	for {
		kind, payload, err := e.read()
		if err != nil {
			return
		}
		switch kind {
		case frameStdin:
			if inputOpen {
				if _, err := r.input.Write(payload); err != nil {
					inputOpen = false // the program reads no more; what comes is dropped
				}
			}
		case frameStdinEnd:
			if inputOpen && r.terminal == nil {
				r.input.Close()
			} else if inputOpen {
				_, _ = r.input.Write([]byte{4}) // end of transmission: what a terminal's user would type
			}
			inputOpen = false
		case frameResize:
			var size struct{ Rows, Cols uint16 }
			if r.terminal != nil && json.Unmarshal(payload, &size) == nil {
				_ = process.Resize(r.terminal, size.Rows, size.Cols) // a terminal that has gone has no size
			}
		case frameSignal:
			var wanted struct{ Signal string }
			if json.Unmarshal(payload, &wanted) == nil {
				if signal, ok := workload.SignalNumber(wanted.Signal); ok {
					_ = syscall.Kill(-e.pid, signal) // the group may have ended meanwhile
				}
			}
		}
	}
}

// wait returns how the program ended, after all of its output was sent.
func (e *execSession) wait(r *running, start execStart, hungUp <-chan struct{}) execExit {
	var timeout <-chan time.Time
	if start.TimeoutMs > 0 {
		timer := time.NewTimer(time.Duration(start.TimeoutMs) * time.Millisecond)
		defer timer.Stop()
		timeout = timer.C
	}
	var exit process.Exit
	timedOut := false
	select {
	case exit = <-r.ended:
	case <-timeout:
		timedOut = true
		_ = syscall.Kill(-e.pid, syscall.SIGKILL)
		exit = <-r.ended
	case <-hungUp:
		exit = e.hangUp(r)
	}
	e.drain(r, hungUp)
	result := execExit{ExitCode: exit.Code}
	if exit.Signal != 0 {
		result.Signal = workload.SignalName(exit.Signal)
	}
	if timedOut {
		result.ExitCode, result.TimedOut = 124, true
	}
	return result
}

func (e *execSession) hangUp(r *running) process.Exit {
	_ = syscall.Kill(-e.pid, syscall.SIGHUP)
	timer := time.NewTimer(hangUpGrace)
	defer timer.Stop()
	select {
	case exit := <-r.ended:
		return exit
	case <-timer.C:
		_ = syscall.Kill(-e.pid, syscall.SIGKILL)
		return <-r.ended
	}
}

// drain waits for the end of the output. A process left in the background may hold the pipes open for good; it keeps running, but its output is not waited for.
func (e *execSession) drain(r *running, hungUp <-chan struct{}) {
	done := make(chan struct{})
	go func() {
		r.outputs.Wait()
		close(done)
	}()
	idle := time.NewTimer(500 * time.Millisecond)
	defer idle.Stop()
	select {
	case <-done:
	case <-idle.C:
		if groupIsAlive(e.pid) {
			return
		}
		select {
		case <-done:
		case <-hungUp:
		}
	}
}

func groupIsAlive(pid int) bool { return syscall.Kill(-pid, 0) == nil }

func (e *execSession) finish(exit execExit) {
	payload, err := json.Marshal(exit)
	if err != nil {
		payload = []byte(`{"exit_code":127,"error":"the exit could not be encoded"}`)
	}
	_ = e.send(frameExit, payload)
}

func (e *execSession) send(kind byte, payload []byte) error {
	e.write.Lock()
	defer e.write.Unlock()
	frame := make([]byte, 5, 5+len(payload))
	frame[0] = kind
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	_, err := e.conn.Write(append(frame, payload...))
	return err
}

func (e *execSession) read() (byte, []byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(e.in, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length > maxExecFrame {
		return 0, nil, errors.New("the frame is too long")
	}
	payload := make([]byte, length)
	_, err := io.ReadFull(e.in, payload)
	return header[0], payload, err
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}

func first(argv []string) string {
	if len(argv) == 0 {
		return "/bin/sh"
	}
	return argv[0]
}
