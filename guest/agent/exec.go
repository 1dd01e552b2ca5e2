package agent

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
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
	execHeader   = 5
	maxExecFrame = 65536
	// hangUpGrace is what a program gets between SIGHUP and SIGKILL.
	hangUpGrace = 2 * time.Second
)

type execStart struct {
	Argv      []string          `json:"argv"`
	TTY       bool              `json:"tty"`
	Env       map[string]string `json:"env"`
	Cwd       string            `json:"cwd"`
	User      string            `json:"user"`
	TimeoutMs int64             `json:"timeout_ms"`
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

// execSession is one exec request after its upgrade.
type execSession struct {
	server *Server
	conn   net.Conn
	in     *bufio.Reader

	write    sync.Mutex // held while a frame is sent; also guards outgoing
	outgoing []byte
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
	inputEnded := make(chan struct{})
	go e.readInput(running, inputEnded)
	e.finish(wait(running, start.TimeoutMs, e.hungUp(inputEnded)))
	running.input.Close() // frees a readInput that waits for a program that no longer reads, and hangs up a terminal
}

// tellsItsEnd is a connection that tells when the host has ended it.
type tellsItsEnd interface{ Done() <-chan struct{} }

// hungUp tells that the host has ended the stream, also while input waits for the program. Connections that can't tell are noticed by reading.
func (e *execSession) hungUp(inputEnded <-chan struct{}) <-chan struct{} {
	if stream, ok := e.conn.(tellsItsEnd); ok {
		return stream.Done()
	}
	return inputEnded
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
					r.signal(signal)
				}
			}
		}
	}
}

// wait returns how the program ended, after all of its output was sent.
func wait(r *running, timeoutMs int64, hungUp <-chan struct{}) execExit {
	var timeout, kill <-chan time.Time
	if timeoutMs > 0 {
		timer := time.NewTimer(time.Duration(timeoutMs) * time.Millisecond)
		defer timer.Stop()
		timeout = timer.C
	}
	result, ended, sent := execExit{}, r.ended, (<-chan struct{})(nil)
	for {
		select {
		case exit := <-ended:
			ended, sent = nil, r.lastOutput()
			result.ExitCode = exit.Code
			if exit.Signal != 0 {
				result.Signal = workload.SignalName(exit.Signal)
			}
		case <-sent:
			if result.TimedOut {
				result.ExitCode = 124
			}
			return result
		case <-timeout:
			timeout = nil
			// A program that ended in time may still have output on its way.
			if ended != nil || r.groupIsAlive() {
				result.TimedOut = true
				r.signal(syscall.SIGKILL)
			}
		case <-hungUp:
			hungUp = nil
			r.signal(syscall.SIGHUP)
			timer := time.NewTimer(hangUpGrace)
			defer timer.Stop()
			kill = timer.C
		case <-kill:
			kill = nil
			r.signal(syscall.SIGKILL)
		}
	}
}

func (e *execSession) finish(exit execExit) {
	payload, err := json.Marshal(exit)
	if err != nil {
		payload = []byte(`{"exit_code":127,"error":"the exit could not be encoded"}`)
	}
	_ = e.send(frameExit, payload) // a host that has gone is not told
}

func (e *execSession) send(kind byte, payload []byte) error {
	e.write.Lock()
	defer e.write.Unlock()
	var header [execHeader]byte
	header[0] = kind
	binary.BigEndian.PutUint32(header[1:], uint32(len(payload)))
	e.outgoing = append(append(e.outgoing[:0], header[:]...), payload...)
	_, err := e.conn.Write(e.outgoing)
	return err
}

func (e *execSession) read() (byte, []byte, error) {
	var header [execHeader]byte
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

func first(argv []string) string {
	if len(argv) == 0 {
		return "/bin/sh"
	}
	return argv[0]
}
