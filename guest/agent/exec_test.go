package agent

import (
	"bytes"
	"encoding/json"
	"io"
	"math/rand"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

func sh(script string) execStart { return execStart{Argv: []string{"sh", "-c", script}} }

func TestExecReportsOutputAndExitCode(t *testing.T) {
	stdout, stderr, exit := newRig(t).exec(sh("echo out; echo err >&2; exit 7")).end()
	if stdout != "out\n" || stderr != "err\n" || exit != (execExit{ExitCode: 7}) {
		t.Fatal(stdout, stderr, exit)
	}
}

func TestExecReportsTheSignalThatEndedTheProgram(t *testing.T) {
	_, _, exit := newRig(t).exec(sh("kill -SEGV $$")).end()
	if exit != (execExit{ExitCode: 139, Signal: "SIGSEGV"}) {
		t.Fatal(exit)
	}
}

func TestExecPassesEnvironmentDirectoryAndArguments(t *testing.T) {
	directory := t.TempDir()
	start := execStart{Argv: []string{"sh", "-c", `echo "$GREETING|$HOME|$PWD|$1"`, "x", "a b"}, Env: map[string]string{"GREETING": "hi there", "HOME": "/h"}, Cwd: directory}
	stdout, _, _ := newRig(t).exec(start).end()
	if stdout != "hi there|/h|"+directory+"|a b\n" {
		t.Fatal(stdout)
	}
}

func TestExecWithoutACommandIsAShell(t *testing.T) {
	p := newRig(t).exec(execStart{})
	p.send(frameStdin, []byte("echo from a shell\n"))
	p.send(frameStdinEnd, nil)
	if stdout, _, exit := p.end(); stdout != "from a shell\n" || exit.ExitCode != 0 {
		t.Fatal(stdout, exit)
	}
}

func TestWhatCannotBeStartedSaysWhy(t *testing.T) {
	directory := t.TempDir()
	plain := filepath.Join(directory, "plain")
	if err := os.WriteFile(plain, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, one := range map[string]struct {
		start execStart
		code  int
		words string
	}{
		"no such program":   {execStart{Argv: []string{"no-such-program"}}, 127, "command not found"},
		"no such path":      {execStart{Argv: []string{"/no/such"}}, 127, "command not found"},
		"not executable":    {execStart{Argv: []string{plain}}, 126, "not executable"},
		"a directory":       {execStart{Argv: []string{directory}}, 126, "is a directory"},
		"missing directory": {execStart{Argv: []string{"true"}, Cwd: "/no/such"}, 126, "/no/such"},
		"unknown user":      {execStart{Argv: []string{"true"}, User: "nobody-of-that-name"}, 126, "no user"},
		"unknown group":     {execStart{Argv: []string{"true"}, User: "0:no-such-group"}, 126, "no group"},
	} {
		_, _, exit := newRig(t).exec(one.start).end()
		if exit.ExitCode != one.code || !strings.Contains(exit.Error, one.words) {
			t.Errorf("%s: %+v", name, exit)
		}
	}
}

func TestExecTimesOutWith124AndEndsTheGroup(t *testing.T) {
	p := newRig(t).exec(execStart{Argv: []string{"sh", "-c", "sleep 1000 & echo $!; wait"}, TimeoutMs: 200})
	child := p.until("\n")
	_, _, exit := p.end()
	if exit.ExitCode != 124 || !exit.TimedOut || exit.Signal != "SIGKILL" {
		t.Fatal(exit)
	}
	waitUntil(t, "the child is gone", func() bool { return !processExists(child) })
}

func TestTheTimeoutCoversWhatTheProgramLeftInItsGroup(t *testing.T) {
	_, _, exit := newRig(t).exec(execStart{Argv: []string{"sh", "-c", "sleep 1000 &"}, TimeoutMs: 200}).end()
	if exit.ExitCode != 124 || !exit.TimedOut {
		t.Fatal(exit)
	}
}

func TestInputReachesTheProgramAndItsEndToo(t *testing.T) {
	p := newRig(t).exec(execStart{Argv: []string{"cat"}})
	want := make([]byte, 5<<20)
	rand.New(rand.NewSource(1)).Read(want)
	go func() {
		for at := 0; at < len(want); at += maxExecFrame {
			p.send(frameStdin, want[at:at+maxExecFrame])
		}
		p.send(frameStdinEnd, nil)
	}()
	if stdout, _, exit := p.end(); !bytes.Equal([]byte(stdout), want) || exit.ExitCode != 0 {
		t.Fatalf("%d bytes, %v", len(stdout), exit)
	}
}

func TestInputThatNobodyReadsDoesNotKeepAProgramFromEnding(t *testing.T) {
	p := newRig(t).exec(sh("exec <&-; sleep 0.2; echo done"))
	go func() {
		for i := 0; i < 20; i++ {
			_, _ = p.conn.Write(append([]byte{frameStdin, 0, 1, 0, 0}, make([]byte, maxExecFrame)...)) // fails when the program has ended
		}
	}()
	if stdout, _, exit := p.end(); stdout != "done\n" || exit.ExitCode != 0 {
		t.Fatal(stdout, exit)
	}
}

func TestAllOutputComesBeforeTheExitHoweverSlowlyItIsRead(t *testing.T) {
	p := newRig(t).exec(sh("head -c 3000000 /dev/zero; echo end >&2"))
	time.Sleep(2 * outputIdle) // the program waits for its reader
	total := 0
	for {
		kind, payload, err := p.next()
		if err != nil {
			t.Fatal(err)
		}
		if kind == frameStdout {
			total += len(payload)
		}
		if kind == frameExit {
			break
		}
		if total > 2900000 { // the program has ended, and what is left is in pipes and windows
			time.Sleep(5 * time.Millisecond)
		}
	}
	if total != 3000000 {
		t.Fatalf("%d bytes came", total)
	}
}

func TestAReaderWhoStopsHoldsTheProgramBack(t *testing.T) {
	directory := t.TempDir()
	p := newRig(t).exec(execStart{Argv: []string{"sh", "-c", "head -c 50000000 /dev/zero; touch finished"}, Cwd: directory})
	p.until("\x00")
	time.Sleep(100 * time.Millisecond)
	if _, err := os.Stat(filepath.Join(directory, "finished")); err == nil {
		t.Fatal("50 MB were taken without a reader")
	}
	if stdout, _, exit := p.end(); len(stdout) == 0 || exit.ExitCode != 0 {
		t.Fatal(len(stdout), exit)
	}
}

func TestASignalReachesTheGroup(t *testing.T) {
	p := newRig(t).exec(sh("trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.01; done"))
	p.until("ready\n")
	p.send(frameSignal, []byte(`{"signal":"SIGINT"}`))
	if stdout, _, exit := p.end(); !strings.Contains(stdout, "caught") || exit.ExitCode != 3 {
		t.Fatal(stdout, exit)
	}
}

func TestHangingUpEndsTheGroupWithSighup(t *testing.T) {
	p := newRig(t).exec(sh("sleep 1000 & echo $!; wait"))
	child := p.until("\n")
	p.conn.Close()
	waitUntil(t, "the child is gone", func() bool { return !processExists(child) })
}

func TestHangingUpKillsAGroupThatIgnoresSighup(t *testing.T) {
	p := newRig(t).exec(sh("trap '' HUP; echo $$; while :; do sleep 0.05; done"))
	pid := p.until("\n")
	p.conn.Close()
	began := time.Now()
	waitUntil(t, "the program is gone", func() bool { return !processExists(pid) })
	if time.Since(began) < hangUpGrace/2 {
		t.Fatal("it was not given its time")
	}
}

func TestHangingUpEndsAProgramWhoseOutputNobodyReads(t *testing.T) {
	p := newRig(t).exec(sh("echo $$; exec cat /dev/zero"))
	pid := strings.SplitN(p.until("\n"), "\n", 2)[0]
	p.conn.Close()
	waitUntil(t, "the program is gone", func() bool { return !processExists(pid) })
}

func TestAProcessThatLeftTheGroupIsNotWaitedForAndNotBroken(t *testing.T) {
	directory := t.TempDir()
	start := execStart{Argv: []string{"sh", "-c", "setsid sh -c 'echo $$ >pid; sleep 1; echo still here; echo alive >alive' & while [ ! -s pid ]; do sleep 0.01; done; echo started"}, Cwd: directory}
	began := time.Now()
	stdout, _, exit := newRig(t).exec(start).end()
	if stdout != "started\n" || exit.ExitCode != 0 || time.Since(began) > 900*time.Millisecond {
		t.Fatal(stdout, exit, time.Since(began))
	}
	waitUntil(t, "it wrote after its output was gone", func() bool {
		_, err := os.Stat(filepath.Join(directory, "alive"))
		return err == nil
	})
	pid, err := os.ReadFile(filepath.Join(directory, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "it is gone", func() bool { return !processExists(string(pid)) })
}

func TestATerminalHasItsSizeAndIsResized(t *testing.T) {
	start := execStart{Argv: []string{"sh", "-c", "stty size; trap 'stty size' WINCH; echo ready; until read line; do :; done; echo got $line; tty >/dev/null && echo $TERM"}, TTY: true, Rows: 33, Cols: 101}
	p := newRig(t).exec(start)
	if first := p.until("ready"); !strings.Contains(first, "33 101") {
		t.Fatalf("%q", first)
	}
	p.send(frameResize, []byte(`{"rows":44,"cols":55}`))
	p.until("44 55") // the kernel tells the program with SIGWINCH
	p.send(frameStdin, []byte("hello\n"))
	stdout, stderr, exit := p.end()
	if !strings.Contains(stdout, "got hello") || !strings.Contains(stdout, "xterm-256color") || stderr != "" || exit.ExitCode != 0 {
		t.Fatalf("%q %q %v", stdout, stderr, exit)
	}
}

func TestControlCOnATerminalInterrupts(t *testing.T) {
	p := newRig(t).exec(execStart{Argv: []string{"cat"}, TTY: true, Rows: 24, Cols: 80})
	p.send(frameStdin, []byte("line\n"))
	p.until("line\r\nline") // a shell could still be about to start its program, and lose the signal
	p.send(frameStdin, []byte{3})
	if _, _, exit := p.end(); exit.Signal != "SIGINT" || exit.ExitCode != 130 {
		t.Fatal(exit)
	}
}

func TestTheEndOfInputOnATerminalIsControlD(t *testing.T) {
	p := newRig(t).exec(execStart{Argv: []string{"cat"}, TTY: true, Rows: 24, Cols: 80})
	p.send(frameStdin, []byte("line\n"))
	p.until("line\r\nline")
	p.send(frameStdinEnd, nil)
	if _, _, exit := p.end(); exit.ExitCode != 0 {
		t.Fatal(exit)
	}
}

func TestHangingUpATerminalEndsJobsInGroupsOfTheirOwn(t *testing.T) {
	p := newRig(t).exec(execStart{Argv: []string{"sh", "-c", `set -m; sh -c "echo pid \$\$ .; exec sleep 1000"; true`}, TTY: true, Rows: 24, Cols: 80})
	child := strings.Fields(strings.SplitN(p.until(" ."), "pid", 2)[1])[0]
	p.conn.Close()
	waitUntil(t, "the job is gone", func() bool { return !processExists(child) })
}

func TestAProgramRunsAsItsUser(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can start programs as others")
	}
	stdout, _, exit := newRig(t).exec(execStart{Argv: []string{"id", "-u"}, User: "65534:65534"}).end()
	if stdout != "65534\n" {
		t.Fatal(stdout, exit)
	}
	stdout, _, exit = newRig(t).exec(execStart{Argv: []string{"sh", "-c", "echo by name >/dev/stdout"}, User: "65534:65534"}).end()
	if stdout != "by name\n" {
		t.Fatal(stdout, exit)
	}
}

func TestAStartThatIsNoneIsRefusedAndTheAgentGoesOn(t *testing.T) {
	r := newRig(t)
	for _, wire := range [][]byte{
		{frameStdin, 0, 0, 0, 0},
		{frameStart, 0, 0, 0, 2, '{', '['},
		{frameStart, 0xff, 0xff, 0xff, 0xff},
		{0xff},
	} {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, "POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n")
		_, _ = conn.Write(wire)
		_ = conn.(*net.UnixConn).CloseWrite()
		answer, _ := io.ReadAll(conn)
		if !strings.Contains(string(answer), "not a start") {
			t.Errorf("%x: %q", wire, answer)
		}
		conn.Close()
	}
	r.ask(426, "POST", "/v1/exec", nil)
	if stdout, _, _ := r.exec(sh("echo on")).end(); stdout != "on\n" {
		t.Fatal(stdout)
	}
}

func TestBrokenFramesAfterTheStartHangUp(t *testing.T) {
	p := newRig(t).exec(sh("echo $$; sleep 1000"))
	pid := p.until("\n")
	_, _ = p.conn.Write([]byte{frameStdin, 0x7f, 0, 0, 0})
	if _, _, exit := p.end(); exit.Signal != "SIGHUP" {
		t.Fatal(exit)
	}
	waitUntil(t, "the program is gone", func() bool { return !processExists(pid) })
}

func TestManyProgramsAtOnceAllReport(t *testing.T) {
	r := newRig(t)
	programs := make([]*program, 60)
	for i := range programs {
		programs[i] = r.exec(execStart{Argv: []string{"sh", "-c", `cat >/dev/null; exit $CODE`}, Env: map[string]string{"CODE": string(rune('0' + i%10))}})
	}
	for i, p := range programs {
		p.send(frameStdinEnd, nil)
		if _, _, exit := p.end(); exit.ExitCode != i%10 {
			t.Errorf("program %d: %+v", i, exit)
		}
	}
}

func TestNothingIsLeftOfProgramsThatEnded(t *testing.T) {
	r := newRig(t)
	run := func() {
		for i := 0; i < 10; i++ {
			r.exec(sh("echo x")).end()
			r.exec(execStart{Argv: []string{"sh", "-c", "echo x"}, TTY: true, Rows: 1, Cols: 1}).end()
			r.exec(execStart{Argv: []string{"/no/such"}}).end()
		}
	}
	files := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	run()
	before, goroutines := files(), runtime.NumGoroutine()
	run()
	// The test's own 30 connections stay open until it ends.
	waitUntil(t, "files and goroutines are given back", func() bool { return files() <= before+32 && runtime.NumGoroutine() <= goroutines+2 })
}

func TestTheExitFrameHasTheFieldsOfTheProtocol(t *testing.T) {
	encoded, err := json.Marshal(execExit{ExitCode: 137, Signal: "SIGKILL", TimedOut: true, Error: "x"})
	if err != nil || string(encoded) != `{"exit_code":137,"signal":"SIGKILL","timed_out":true,"error":"x"}` {
		t.Fatal(string(encoded), err)
	}
}
