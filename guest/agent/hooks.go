package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hypeman/guest/process"
)

const (
	// hooksLimit is what all hooks together get.
	hooksLimit = 10 * time.Second
	// longestWords is how much of a hook's output is told, in bytes, and longestReport of all of them together: an answer to the host is bounded.
	longestWords  = 500
	longestReport = 16384
	// outputs is where what programs of the image say is kept while they run.
	outputs = "/run/hypeman"
	// hookFailures is a variable of the program's environment; warn: a hook that fails does not make the restore or fork fail.
	hookFailures = "HYPEMAN_HOOK_FAILURE"
)

// hooksOf names the directory of the image's programs that run, in the order of their names, when the guest has become a fork or was restored.
func hooksOf(reason string) string { return "/etc/hypeman/" + reason + ".d" }

// lookAhead has the kernel remember what forks and restores look for: they are to find that in memory, not on the disk.
func (s *Server) lookAhead() {
	for _, path := range []string{hooksOf("fork"), hooksOf("restore"), hostKeys} {
		s.isThere(path)
	}
}

// isThere tells whether there is anything at a path, with a single look.
func (s *Server) isThere(path string) bool {
	var found syscall.Stat_t
	err := syscall.Stat(s.Root+path, &found)
	return err != syscall.ENOENT && err != syscall.ENOTDIR
}

// runHooks runs all hooks, whatever fails, while the programs stand still. The error names those that failed; if none has, it is a note of what they said.
func (s *Server) runHooks(request *Identity, limit time.Duration) error {
	directory := hooksOf(request.Reason)
	if !s.isThere(directory) {
		return nil
	}
	entries, err := os.ReadDir(s.Root + directory) // sorted by name
	if err != nil {
		return err
	}
	env := map[string]string{
		"HYPEMAN_REASON": request.Reason, "HYPEMAN_INSTANCE_ID": request.InstanceID, "HYPEMAN_GENERATION": strconv.Itoa(request.Generation),
		"HYPEMAN_TIME_JUMP_NS": strconv.FormatInt(s.identity.jump, 10),
	}
	deadline := time.Now().Add(limit)
	var failures, words []string
	for _, entry := range entries {
		path := filepath.Join(s.Root+directory, entry.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		said, err := s.runProgram([]string{path}, env, time.Until(deadline))
		switch {
		case err != nil:
			failures = append(failures, entry.Name()+": "+err.Error()+after(": ", said))
		case said != "":
			words = append(words, entry.Name()+": "+said)
		}
	}
	if err := s.Programs.HooksEnded(); err != nil {
		failures = append(failures, err.Error())
	}
	report := shortened(strings.Join(append(failures, words...), "; "), longestReport)
	switch {
	case len(failures) > 0 && s.Workload.Environment(nil)[hookFailures] == "warn":
		return warning(report)
	case len(failures) > 0:
		return errors.New(report)
	case report != "":
		return note(report)
	}
	return nil
}

// runProgram runs a program of the image as root, with the workload's environment and changes to it, while the programs stand still. It returns the end of what it said.
func (s *Server) runProgram(argv []string, changes map[string]string, limit time.Duration) (string, error) {
	if limit <= 0 {
		return "", errors.New("not run, since those before it took all of the time")
	}
	resolved, err := process.Resolve(process.Command{Argv: argv, Env: s.Workload.Environment(changes)})
	if err != nil {
		return "", err
	}
	// A file, so that nothing it leaves in the background is waited for; in memory, as the root may be read-only.
	if err := os.MkdirAll(s.Root+outputs, 0o755); err != nil {
		return "", err
	}
	output, err := os.CreateTemp(s.Root+outputs, "hypeman-hook-")
	if err != nil {
		return "", err
	}
	defer output.Close()
	if err := os.Remove(output.Name()); err != nil {
		return "", err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return "", err
	}
	defer null.Close()
	var pid int
	var ended <-chan process.Exit
	err = s.Programs.StartHook(func() (int, error) {
		pid, ended, err = s.Reaper.Start(resolved.Path, resolved.Argv, &syscall.ProcAttr{
			Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{null.Fd(), output.Fd(), output.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
		})
		return pid, err
	})
	if err != nil {
		return "", process.AsStartError(argv[0], err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case exit := <-ended:
		if exit.Code == 0 {
			return wordsOf(output), nil
		}
		return wordsOf(output), fmt.Errorf("ended with code %d", exit.Code)
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // it may just have ended
		<-ended
		return wordsOf(output), errors.New("killed, since the time was up")
	}
}

// wordsOf is the end of a program's output, on one line.
func wordsOf(output *os.File) string {
	size, err := output.Seek(0, io.SeekEnd)
	if err != nil || size == 0 {
		return ""
	}
	from := size - longestWords
	if from < 0 {
		from = 0
	}
	text := make([]byte, size-from)
	if _, err := output.ReadAt(text, from); err != nil && err != io.EOF {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")
}

func after(separator, text string) string {
	if text == "" {
		return ""
	}
	return separator + text
}

func shortened(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	return strings.ToValidUTF8(text[:limit], "?") + " …"
}
