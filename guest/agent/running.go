package agent

import (
	"errors"
	"os"
	"sync"
	"syscall"
	"time"

	"hypeman/guest/process"
	"hypeman/guest/yamux"
)

const (
	// outputChunk fills one frame of the multiplexer.
	outputChunk = yamux.MaxFrame - execHeader
	// outputIdle is how long a program that has ended may have its output held open, silently, by what it left behind.
	outputIdle = 300 * time.Millisecond
	// terminalPoll is how often a terminal that no program has open is asked again.
	terminalPoll = 20 * time.Millisecond
)

// running is a program that exec has started, in a session and process group of its own.
type running struct {
	pid      int
	ended    <-chan process.Exit
	input    *os.File
	terminal *os.File // nil with pipes
	readers  []*os.File
	outputs  sync.WaitGroup
	over     chan struct{} // closed when the program has ended
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
	_ = program.Chown(int(resolved.Credential.Uid), -1) // for a program that reopens its terminal by name; not fatal
	fd := program.Fd()
	r := &running{terminal: control, input: control, readers: []*os.File{control}, over: make(chan struct{})}
	r.pid, r.ended, err = e.startProgram(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{fd, fd, fd},
		Sys: &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0, Credential: resolved.Credential},
	})
	if err != nil {
		control.Close()
		return nil, err
	}
	e.copy(r, frameStdout)
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
	for _, file := range []*os.File{stdinRead, stdoutWrite, stderrWrite} {
		_ = file.Chown(int(resolved.Credential.Uid), int(resolved.Credential.Gid)) // for a program that reopens /dev/stdout by name; not fatal
	}
	r := &running{input: stdinWrite, readers: []*os.File{stdoutRead, stderrRead}, over: make(chan struct{})}
	var err error
	r.pid, r.ended, err = e.startProgram(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{stdinRead.Fd(), stdoutWrite.Fd(), stderrWrite.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: resolved.Credential},
	})
	if err != nil {
		closeAll(files)
		return nil, err
	}
	closeAll([]*os.File{stdinRead, stdoutWrite, stderrWrite})
	e.copy(r, frameStdout, frameStderr)
	return r, nil
}

var errHungUp = errors.New("the host hung up before the program was started")

// startProgram starts a program where it stands still with the others. It may wait until they go on, which may be in a fork: the host that asked for it has hung up there.
func (e *execSession) startProgram(path string, argv []string, attr *syscall.ProcAttr) (pid int, ended <-chan process.Exit, err error) {
	err = e.server.Programs.Start(func() (int, error) {
		if stream, ok := e.conn.(tellsItsEnd); ok && isClosed(stream.Done()) {
			return 0, errHungUp
		}
		pid, ended, err = e.server.Reaper.Start(path, argv, attr)
		return pid, err
	})
	return pid, ended, err
}

func (r *running) signal(signal syscall.Signal) {
	_ = syscall.Kill(-r.pid, signal) // the group may have ended meanwhile
}

func (r *running) groupIsAlive() bool { return syscall.Kill(-r.pid, 0) == nil }

// lastOutput is called once, when the program has ended. What it returns is closed when all of its output was sent.
func (r *running) lastOutput() <-chan struct{} {
	close(r.over)
	for _, reader := range r.readers {
		_ = reader.SetReadDeadline(time.Now()) // wakes who waits for more; one that is closed needs no waking
	}
	sent := make(chan struct{})
	go func() {
		r.outputs.Wait()
		close(sent)
	}()
	return sent
}

// copy sends what the program writes, its readers as frames of these kinds.
func (e *execSession) copy(r *running, kinds ...byte) {
	r.outputs.Add(len(kinds))
	for i, kind := range kinds {
		go e.copyOutput(r, r.readers[i], kind)
	}
}

// copyOutput sends until the last writer is gone. A process left in the background, in a group of its own, may hold the output open for
// good: then it is read on, so that the process does not break, but not waited for. When the host is gone it is read on as well.
func (e *execSession) copyOutput(r *running, from *os.File, kind byte) {
	var once sync.Once
	done := func() { once.Do(r.outputs.Done) }
	defer done()
	if from != r.terminal {
		defer from.Close()
	}
	buffer := make([]byte, outputChunk)
	left := false
	for {
		timed := !left && isClosed(r.over)
		if timed {
			_ = from.SetReadDeadline(time.Now().Add(outputIdle)) // a file that can't have one ends by itself
		}
		n, err := from.Read(buffer)
		if n > 0 {
			_ = e.send(kind, buffer[:n]) // the host has gone: see above
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			if timed && n == 0 && !r.groupIsAlive() {
				left = true
				_ = from.SetReadDeadline(time.Time{})
				done()
			}
			continue
		}
		if err == nil {
			continue
		}
		if from != r.terminal || isClosed(r.over) {
			return // the last writer has gone
		}
		// EIO: no program has the terminal open. The one that runs may be about to end, or to open it again; closing this side now would
		// kill it with SIGHUP.
		select {
		case <-r.over:
		case <-time.After(terminalPoll):
		}
	}
}

func isClosed(channel <-chan struct{}) bool {
	select {
	case <-channel:
		return true
	default:
		return false
	}
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
