package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// The files of a guest's identity, by plain system calls: a fork waits for them.

func (s *Server) writeGeneration(request Identity) error {
	content := `{"generation":` + strconv.Itoa(request.Generation) + `,"instance_id":` + strconv.Quote(request.InstanceID) +
		`,"reason":"` + request.Reason + `","time_unix_ns":` + strconv.Quote(request.TimeUnixNs) + "}\n"
	return s.replaceFile("/run/hypeman/generation", content, 0o644)
}

// replaceIdentityFile gives /etc/<name> new content. The content lies in memory, below /run, and /etc has a link to it: so a fork writes
// nothing to its disk, which would cost more than all the rest of its identity. Where a program has put a file of its own in the link's place, the link is put back.
func (s *Server) replaceIdentityFile(name, content string, mode uint32) error {
	if s.identity.kept[name] != content {
		if err := s.replaceFile("/run/hypeman/etc/"+name, content, mode); err != nil {
			return err
		}
		if s.identity.kept == nil {
			s.identity.kept = map[string]string{}
		}
		s.identity.kept[name] = content
	}
	at, target := s.Root+"/etc/"+name, "../run/hypeman/etc/"+name
	var present [64]byte
	if n, err := syscall.Readlink(at, present[:]); err == nil && string(present[:n]) == target {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	beside := at + ".hypeman"
	if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(target, beside); err != nil {
		return err
	}
	return os.Rename(beside, at)
}

// replaceFile writes beside and renames, so that a reader sees the old or the new content whole. A link at the name is replaced, not followed.
// An image may have no /etc. Plain system calls, since this is most of what a fork waits for; the caller lets one at a time in.
func (s *Server) replaceFile(name, content string, mode uint32) error {
	name = s.Root + name
	beside := name + ".hypeman"
	file, err := syscall.Open(beside, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, mode)
	if err != nil {
		// The directory is not there yet, or an earlier one of us was cut off.
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
			return err
		}
		if file, err = syscall.Open(beside, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL|syscall.O_CLOEXEC, mode); err != nil {
			return &os.PathError{Op: "open", Path: beside, Err: err}
		}
	}
	written, err := syscall.Write(file, []byte(content))
	if closeErr := syscall.Close(file); err == nil {
		err = closeErr
	}
	if err == nil && written != len(content) {
		err = syscall.ENOSPC
	}
	if err == nil {
		err = syscall.Rename(beside, name)
	}
	if err != nil {
		syscall.Unlink(beside)
		return &os.PathError{Op: "replace", Path: name, Err: err}
	}
	return nil
}

// readFile is os.ReadFile without what that keeps for files that can be waited for.
func readFile(name string) (string, error) {
	file, err := syscall.Open(name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return "", &os.PathError{Op: "open", Path: name, Err: err}
	}
	defer syscall.Close(file)
	content := make([]byte, 0, 1024)
	for {
		if len(content) == cap(content) {
			content = append(content, 0)[:len(content)]
		}
		n, err := syscall.Read(file, content[len(content):cap(content)])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return "", &os.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return string(content), nil
		}
		content = content[:len(content)+n]
	}
}
