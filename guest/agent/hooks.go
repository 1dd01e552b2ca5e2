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
	// hooksDirectory holds programs of the image that run, in the order of their names, when the guest has become a fork.
	hooksDirectory = "/etc/hypeman/fork.d"
	// hooksLimit is what all of them together get.
	hooksLimit = 10 * time.Second
	// longestWords is how much of a failed hook's output is told, in bytes.
	longestWords = 500
)

// lookForHooks has the kernel remember whether there are any: forks are to find that in memory, not on the disk.
func (s *Server) lookForHooks() bool {
	var found syscall.Stat_t
	err := syscall.Stat(s.Root+hooksDirectory, &found)
	return err != syscall.ENOENT && err != syscall.ENOTDIR
}

// runHooks runs all hooks, whatever fails; the error names those that failed.
func (s *Server) runHooks(request Identity, limit time.Duration) error {
	if !s.lookForHooks() {
		return nil
	}
	entries, err := os.ReadDir(s.Root + hooksDirectory) // sorted by name
	if err != nil {
		return err
	}
	deadline := time.Now().Add(limit)
	var failures []string
	for _, entry := range entries {
		path := filepath.Join(s.Root+hooksDirectory, entry.Name())
		info, err := os.Stat(path)
		if err != nil || !info.Mode().IsRegular() || info.Mode()&0o111 == 0 || strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		if err := s.runHook(path, request, time.Until(deadline)); err != nil {
			failures = append(failures, fmt.Sprintf("%s: %v", entry.Name(), err))
		}
	}
	if len(failures) > 0 {
		return errors.New(strings.Join(failures, "; "))
	}
	return nil
}

func (s *Server) runHook(path string, request Identity, limit time.Duration) error {
	if limit <= 0 {
		return errors.New("not run, since the hooks before it took all of the time")
	}
	env := s.Workload.Environment(map[string]string{
		"HYPEMAN_REASON": request.Reason, "HYPEMAN_INSTANCE_ID": request.InstanceID, "HYPEMAN_GENERATION": strconv.Itoa(request.Generation),
	})
	resolved, err := process.Resolve(process.Command{Argv: []string{path}, Env: env})
	if err != nil {
		return err
	}
	output, err := os.CreateTemp("", "hypeman-hook-") // a file, so that nothing a hook leaves in the background is waited for
	if err != nil {
		return err
	}
	defer output.Close()
	if err := os.Remove(output.Name()); err != nil {
		return err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	pid, ended, err := s.Reaper.Start(resolved.Path, resolved.Argv, &syscall.ProcAttr{
		Dir: resolved.Dir, Env: resolved.Env, Files: []uintptr{null.Fd(), output.Fd(), output.Fd()}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return process.AsStartError(path, err)
	}
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case exit := <-ended:
		if exit.Code == 0 {
			return nil
		}
		return fmt.Errorf("ended with code %d%s", exit.Code, words(output))
	case <-timer.C:
		_ = syscall.Kill(-pid, syscall.SIGKILL) // it may just have ended
		<-ended
		return fmt.Errorf("killed, since the time was up%s", words(output))
	}
}

// words is the end of a hook's output.
func words(output *os.File) string {
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
	return ": " + strings.ToValidUTF8(strings.TrimSpace(string(text)), "?")
}
