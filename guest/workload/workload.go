// Package workload runs the image's program: once per boot, in a control group of its own, with its output in the host's log.
package workload

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"hypeman/guest/process"
)

// Status is the program's state as protocol.md gives it.
type Status struct {
	State     string `json:"state"` // waiting, running or exited
	PID       int    `json:"pid,omitempty"`
	ExitCode  *int   `json:"exit_code,omitempty"`
	Signal    string `json:"signal,omitempty"`
	OOM       bool   `json:"oom,omitempty"`
	Message   string `json:"message,omitempty"`
	StartedAt string `json:"started_at,omitempty"`
	ExitedAt  string `json:"exited_at,omitempty"`
}

// Workload is the one program of this guest.
type Workload struct {
	Reaper *process.Reaper
	// Log takes stdout and stderr.
	Log io.Writer
	// Cgroup is the directory of the program's control group; empty: none.
	Cgroup string
	// Ended is called once, after everything that the program wrote is in the log, and before Stop returns.
	Ended func(Status)

	mu         sync.Mutex
	status     Status
	command    process.Command
	stopSignal syscall.Signal
	ended      chan struct{}
}

// Status tells the present state.
func (w *Workload) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.status.State == "" {
		return Status{State: "waiting"}
	}
	return w.status
}

// Environment is the program's own with changes; what exec runs starts from it.
func (w *Workload) Environment(changes map[string]string) map[string]string {
	w.mu.Lock()
	defer w.mu.Unlock()
	env := map[string]string{}
	for key, value := range w.command.Env {
		env[key] = value
	}
	for key, value := range changes {
		env[key] = value
	}
	return env
}

// SetEnvironment replaces what Environment starts from. The program that runs keeps what it was started with.
func (w *Workload) SetEnvironment(variables map[string]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.command.Env = variables
}

// Cwd is the program's working directory.
func (w *Workload) Cwd() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.command.Cwd
}

// User is the program's user.
func (w *Workload) User() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.command.User
}

// Start runs the program. One that can't be started is an exited one, with code 126 or 127 and a message.
func (w *Workload) Start(command process.Command, stopSignal string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.command = command
	w.ended = make(chan struct{})
	w.stopSignal = syscall.SIGTERM
	if signal, ok := SignalNumber(stopSignal); ok {
		w.stopSignal = signal
	}
	ended, output, err := w.launch(command)
	if err != nil {
		program := ""
		if len(command.Argv) > 0 {
			program = command.Argv[0]
		}
		failed := process.AsStartError(program, err)
		w.status = Status{State: "exited", ExitCode: &failed.Code, Message: failed.Message, ExitedAt: now()}
		fmt.Fprintf(w.Log, "hypeman: %s\n", failed.Message)
		go w.finish(w.status)
		return
	}
	go w.watch(ended, output)
}

func (w *Workload) launch(command process.Command) (<-chan process.Exit, <-chan struct{}, error) {
	resolved, err := process.Resolve(command)
	if err != nil {
		return nil, nil, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, nil, err
	}
	defer null.Close()
	read, write, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer write.Close()
	// A program that runs as a user of its own may reopen /dev/stdout by name.
	if err = write.Chown(int(resolved.Credential.Uid), int(resolved.Credential.Gid)); err != nil {
		read.Close()
		return nil, nil, err
	}
	pid, ended, err := w.Reaper.Start(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{null.Fd(), write.Fd(), write.Fd()},
		Sys: &syscall.SysProcAttr{Setsid: true, Credential: resolved.Credential},
	})
	if err != nil {
		read.Close()
		return nil, nil, err
	}
	if w.Cgroup != "" {
		if err := os.WriteFile(w.Cgroup+"/cgroup.procs", []byte(fmt.Sprint(pid)), 0); err != nil {
			fmt.Fprintf(os.Stderr, "agent: the program could not be put in its control group: %v\n", err)
		}
	}
	w.status = Status{State: "running", PID: pid, StartedAt: now()}
	output := make(chan struct{})
	go func() {
		defer close(output)
		defer read.Close()
		buffer := make([]byte, 32768)
		for {
			n, err := read.Read(buffer)
			if n > 0 {
				_, _ = w.Log.Write(buffer[:n]) // a log that fails must not break the program's output
			}
			if err != nil {
				return
			}
		}
	}()
	return ended, output, nil
}

func (w *Workload) watch(ended <-chan process.Exit, output <-chan struct{}) {
	exit := <-ended
	select {
	case <-output:
	case <-time.After(time.Second): // a process left behind holds the output open; the VM ends all the same
	}
	w.mu.Lock()
	code := exit.Code
	w.status.State, w.status.ExitCode, w.status.ExitedAt = "exited", &code, now()
	// A shell tells of a child that was killed by its own code.
	w.status.OOM = code == 128+int(syscall.SIGKILL) && w.killedByOOM()
	if exit.Signal != 0 {
		w.status.Signal = SignalName(exit.Signal)
		w.status.Message = fmt.Sprintf("killed by signal %d (%s)", int(exit.Signal), w.status.Signal)
	} else {
		w.status.Message = fmt.Sprintf("exited with code %d", code)
	}
	status := w.status
	w.mu.Unlock()
	w.finish(status)
}

func (w *Workload) finish(status Status) {
	w.Ended(status)
	close(w.ended)
}

func (w *Workload) killedByOOM() bool {
	if w.Cgroup == "" {
		return false
	}
	content, err := os.ReadFile(w.Cgroup + "/memory.events")
	if err != nil {
		return false // a kernel without the memory controller can't tell
	}
	for _, line := range strings.Split(string(content), "\n") {
		if strings.HasPrefix(line, "oom_kill ") {
			return line != "oom_kill 0"
		}
	}
	return false
}

// Stop asks the program to end and kills its group after the grace. It returns when the program has ended, or at once if none runs.
func (w *Workload) Stop(signalName string, grace time.Duration) {
	w.mu.Lock()
	signal, pid, running, ended := w.stopSignal, w.status.PID, w.status.State == "running", w.ended
	w.mu.Unlock()
	if !running {
		return
	}
	if wanted, ok := SignalNumber(signalName); ok {
		signal = wanted
	}
	_ = syscall.Kill(pid, signal) // it may have ended meanwhile
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL)
		select {
		case <-ended:
		case <-time.After(time.Second):
		}
	}
}

// ExitLine is what the console gets when the program has ended (protocol.md, section 4).
func ExitLine(status Status) string {
	line := struct {
		ExitCode *int   `json:"exit_code,omitempty"`
		Signal   string `json:"signal,omitempty"`
		OOM      bool   `json:"oom,omitempty"`
		Message  string `json:"message,omitempty"`
	}{status.ExitCode, status.Signal, status.OOM, status.Message}
	encoded, err := json.Marshal(line)
	if err != nil {
		return "HYPEMAN-EXIT {}\n"
	}
	return "HYPEMAN-EXIT " + string(encoded) + "\n"
}

func now() string { return time.Now().UTC().Format(time.RFC3339Nano) }
