package workload

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"hypeman/guest/process"
)

var reaper = process.NewReaper()

type log struct {
	mu      sync.Mutex
	content bytes.Buffer
	fail    bool
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fail {
		return 0, errors.New("the log is full")
	}
	return l.content.Write(p)
}

func (l *log) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.content.String()
}

func run(t *testing.T, cgroup string, argv ...string) (*Workload, *log, Status) {
	t.Helper()
	w, output, ended := begin(cgroup, argv...)
	select {
	case status := <-ended:
		return w, output, status
	case <-time.After(10 * time.Second):
		t.Fatal("the program did not end")
		panic("unreachable")
	}
}

func begin(cgroup string, argv ...string) (*Workload, *log, <-chan Status) {
	output, ended := &log{}, make(chan Status, 1)
	w := &Workload{Reaper: reaper, Log: output, Cgroup: cgroup, Ended: func(status Status) { ended <- status }}
	w.Start(process.Command{Argv: argv}, "TERM")
	return w, output, ended
}

func TestTheExitIsReportedAfterTheLastOutput(t *testing.T) {
	_, output, status := run(t, "", "sh", "-c", "head -c 200000 /dev/zero; echo err >&2; exit 9")
	if *status.ExitCode != 9 || status.State != "exited" || status.Message != "exited with code 9" || len(output.text()) != 200004 {
		t.Fatal(status, len(output.text()))
	}
	if ExitLine(status) != "HYPEMAN-EXIT {\"exit_code\":9,\"message\":\"exited with code 9\"}\n" {
		t.Fatal(ExitLine(status))
	}
}

func TestASignalIsReportedByName(t *testing.T) {
	_, _, status := run(t, "", "sh", "-c", "kill -ABRT $$")
	if *status.ExitCode != 134 || status.Signal != "SIGABRT" || status.OOM {
		t.Fatal(status)
	}
}

func TestTheOOMKillerIsReported(t *testing.T) {
	cgroup := t.TempDir() // a directory with the kernel's file names
	for events, oom := range map[string]bool{"low 0\noom_kill 0\n": false, "low 0\noom 1\noom_kill 1\noom_group_kill 0\n": true} {
		if err := os.WriteFile(filepath.Join(cgroup, "memory.events"), []byte(events), 0o644); err != nil {
			t.Fatal(err)
		}
		for script, killed := range map[string]bool{"kill -KILL $$": true, "exit 137": true, "kill -TERM $$": false, "exit 0": false} {
			if _, _, status := run(t, cgroup, "sh", "-c", script); status.OOM != (oom && killed) {
				t.Errorf("%q with %q: %v", script, events, status.OOM)
			}
		}
	}
	content, err := os.ReadFile(filepath.Join(cgroup, "cgroup.procs"))
	if err != nil || strings.TrimSpace(string(content)) == "" {
		t.Fatal("the program was not put in its group", err)
	}
}

func TestAProgramThatCannotBeStartedIsAnExitedOne(t *testing.T) {
	_, output, status := run(t, "", "/no/such", "with arguments")
	if *status.ExitCode != 127 || status.State != "exited" || status.Message != "/no/such: command not found" || !strings.Contains(output.text(), status.Message) {
		t.Fatal(status, output.text())
	}
	if _, _, status = run(t, ""); *status.ExitCode != 127 || !strings.Contains(status.Message, "no command") {
		t.Fatal(status)
	}
}

func TestALogThatFailsDoesNotEndTheProgram(t *testing.T) {
	output, ended := &log{fail: true}, make(chan Status, 1)
	w := &Workload{Reaper: reaper, Log: output, Ended: func(status Status) { ended <- status }}
	w.Start(process.Command{Argv: []string{"sh", "-c", "head -c 500000 /dev/zero && exit 4"}}, "")
	if status := <-ended; *status.ExitCode != 4 {
		t.Fatal(status)
	}
}

func TestAProcessLeftBehindDoesNotHoldTheEndUp(t *testing.T) {
	began := time.Now()
	directory := t.TempDir()
	_, _, status := run(t, "", "sh", "-c", "setsid sh -c 'echo $$ >"+directory+"/pid; exec sleep 1000' & while [ ! -s "+directory+"/pid ]; do sleep 0.01; done; exit 2")
	if *status.ExitCode != 2 || time.Since(began) > 5*time.Second {
		t.Fatal(status, time.Since(began))
	}
	content, err := os.ReadFile(directory + "/pid")
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(string(content), &pid); err != nil {
		t.Fatal(err)
	}
	_ = syscall.Kill(pid, syscall.SIGKILL)
}

func TestStopSendsTheSignalAndThenKills(t *testing.T) {
	w, output, ended := begin("", "sh", "-c", "trap 'echo asked; exit 6' TERM; echo ready; while :; do sleep 0.01; done")
	for !strings.Contains(output.text(), "ready") {
		time.Sleep(time.Millisecond)
	}
	w.Stop("", 5*time.Second)
	if status := <-ended; *status.ExitCode != 6 {
		t.Fatal(status)
	}
	w.Stop("", time.Hour) // ended already: returns at once
	w, output, ended = begin("", "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.01; done")
	for !strings.Contains(output.text(), "ready") {
		time.Sleep(time.Millisecond)
	}
	w.Stop("", 50*time.Millisecond)
	if status := <-ended; status.Signal != "SIGKILL" {
		t.Fatal(status)
	}
	(&Workload{}).Stop("", time.Hour) // never started
}

func TestStopReturnsAfterTheEndWasReported(t *testing.T) {
	reported := false
	w := &Workload{Reaper: reaper, Log: &log{}, Ended: func(Status) {
		time.Sleep(50 * time.Millisecond)
		reported = true
	}}
	w.Start(process.Command{Argv: []string{"sleep", "1000"}}, "KILL")
	w.Stop("", 10*time.Second)
	if !reported {
		t.Fatal("the exit line would come after the power is off")
	}
}

func TestTheStatusBeforeAndWhileItRuns(t *testing.T) {
	if status := (&Workload{}).Status(); status.State != "waiting" {
		t.Fatal(status)
	}
	w, _, ended := begin("", "sleep", "1000")
	status := w.Status()
	if status.State != "running" || status.PID <= 0 || status.ExitCode != nil || status.StartedAt == "" {
		t.Fatal(status)
	}
	w.Stop("SIGKILL", time.Second)
	<-ended
}

func TestSignalNames(t *testing.T) {
	for name, number := range map[string]syscall.Signal{"SIGTERM": 15, "term": 15, " 9 ": 9, "RTMIN+3": 37, "SIGRTMIN+0": 34, "WINCH": 28} {
		if got, ok := SignalNumber(name); !ok || got != number {
			t.Error(name, got, ok)
		}
	}
	for _, name := range []string{"", "0", "65", "-1", "NONE", "SIGRTMIN+99", "SIGRTMIN+x"} {
		if got, ok := SignalNumber(name); ok {
			t.Error(name, got)
		}
	}
	if SignalName(syscall.SIGKILL) != "SIGKILL" || SignalName(37) != "37" {
		t.Error(SignalName(syscall.SIGKILL), SignalName(37))
	}
}

func TestTheExitLineIsOneLineOfJSON(t *testing.T) {
	code := 137
	line := ExitLine(Status{ExitCode: &code, Signal: "SIGKILL", OOM: true, Message: "two\nlines"})
	var decoded map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(line, "HYPEMAN-EXIT ")), &decoded); err != nil || decoded["oom"] != true || strings.Count(line, "\n") != 1 {
		t.Fatal(line, err)
	}
}
