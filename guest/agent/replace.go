package agent

import (
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"unsafe"
)

// The files of a guest's identity, by plain system calls: a fork waits for them.

func (s *Server) writeGeneration(request *Identity) error {
	content := `{"generation":` + strconv.Itoa(request.Generation) + `,"instance_id":` + strconv.Quote(request.InstanceID) +
		`,"reason":"` + request.Reason + `","time_unix_ns":` + strconv.Quote(request.TimeUnixNs) +
		`,"time_jump_ns":"` + strconv.FormatInt(s.identity.jump, 10) + "\"}\n"
	return s.replaceFile("/run/hypeman/generation", content, 0o644)
}

// keptBelow is where the content of the files of /etc is that the agent writes.
const keptBelow = "/run/hypeman/etc/"

// replaceIdentityFile gives /etc/<name> new content. The content lies in memory, below /run, and /etc has a link to it: so a fork writes
// nothing to its disk, which would cost more than all the rest of its identity. Where a program has put a file of its own in the link's place, the link is put back.
func (s *Server) replaceIdentityFile(name, content string, mode uint32) error {
	if s.identity.kept[name] != content {
		if err := s.replaceFile(keptBelow+name, content, mode); err != nil {
			return err
		}
		if s.identity.kept == nil {
			s.identity.kept = map[string]string{}
		}
		s.identity.kept[name] = content
	}
	if s.isLinked(name) {
		return nil
	}
	at := s.Root + "/etc/" + name
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	beside := at + spareSuffix
	if err := os.Remove(beside); err != nil && !os.IsNotExist(err) {
		return err
	}
	if err := os.Symlink(linkTo(name), beside); err != nil {
		return err
	}
	return os.Rename(beside, at)
}

// twins are the two files that take turns under one name: the one that is seen, and the one that the next content is written into. Both stay open, and
// neither is made or removed again: making, removing and closing files is most of what new content costs a fork, whose emulator has run none of that code.
type twins struct{ seen, spare int }

// replaceFile gives a file new content, so that a reader sees the old or the new whole. A link at the name is replaced, not followed.
// The caller lets one at a time in.
func (s *Server) replaceFile(name, content string, mode uint32) error {
	name = s.Root + name
	if pair, ok := s.identity.files[name]; ok {
		if err := fill(pair.spare, content); err == nil && exchange(name+spareSuffix, name) == nil {
			s.identity.files[name] = twins{seen: pair.spare, spare: pair.seen}
			return nil
		}
		// A program has moved or removed one of the two, or there is no space: it is made anew, or what is wrong is said.
		syscall.Close(pair.seen)
		syscall.Close(pair.spare)
		delete(s.identity.files, name)
	}
	seen, err := s.createFile(name, content, mode)
	if err != nil {
		return err
	}
	spare, err := create(name+spareSuffix, mode)
	if err != nil {
		syscall.Close(seen) // the content is in place; the next one is written the same long way
		return nil
	}
	if s.identity.files == nil {
		s.identity.files = map[string]twins{}
	}
	s.identity.files[name] = twins{seen, spare}
	return nil
}

const spareSuffix = ".hypeman"

// fill gives an open file new content; an error if nobody would see it, since the file was removed.
func fill(file int, content string) error {
	var found syscall.Stat_t
	if err := syscall.Fstat(file, &found); err != nil {
		return err
	}
	if found.Nlink == 0 {
		return syscall.ENOENT
	}
	written, err := syscall.Pwrite(file, []byte(content), 0)
	if err == nil && written != len(content) {
		err = syscall.ENOSPC
	}
	if err == nil && found.Size > int64(len(content)) {
		err = syscall.Ftruncate(file, int64(len(content)))
	}
	return err
}

// exchange gives each of two files the name of the other, at once (renameat2(2), RENAME_EXCHANGE).
func exchange(one, other string) error {
	const exchangeNames = 1 << 1
	first, err := syscall.BytePtrFromString(one)
	if err != nil {
		return err
	}
	second, err := syscall.BytePtrFromString(other)
	if err != nil {
		return err
	}
	here := atCurrentDirectory
	_, _, errno := syscall.Syscall6(sysRenameat2, uintptr(here), uintptr(unsafe.Pointer(first)), uintptr(here), uintptr(unsafe.Pointer(second)), exchangeNames, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

const atCurrentDirectory = -100

// createFile writes beside and renames, and returns the open file. An image may have no /etc.
func (s *Server) createFile(name, content string, mode uint32) (int, error) {
	return replaceBy(name+spareSuffix, name, content, mode)
}

// replaceBy writes a file whole under another name and renames it, so that a reader sees the old or the new, and returns it open. A link at the name is replaced, not followed.
func replaceBy(beside, name, content string, mode uint32) (int, error) {
	file, err := create(beside, mode)
	if err != nil {
		return 0, err
	}
	written, err := syscall.Write(file, []byte(content))
	if err == nil && written != len(content) {
		err = syscall.ENOSPC
	}
	if err == nil {
		err = syscall.Rename(beside, name)
	}
	if err != nil {
		syscall.Close(file)
		syscall.Unlink(beside)
		return 0, &os.PathError{Op: "replace", Path: name, Err: err}
	}
	return file, nil
}

// create opens a file of its own, and makes the directory that it is in.
func create(name string, mode uint32) (int, error) {
	const flags = syscall.O_RDWR | syscall.O_CREAT | syscall.O_EXCL | syscall.O_CLOEXEC
	if file, err := syscall.Open(name, flags, mode); err == nil {
		return file, nil
	}
	// The directory is not there yet, or an earlier file of that name.
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return 0, err
	}
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return 0, err
	}
	file, err := syscall.Open(name, flags, mode)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return file, nil
}

// identityFile is the content of /etc/<name>, with what programs have added to it.
func (s *Server) identityFile(name string) (string, error) {
	pair, ok := s.identity.files[s.Root+keptBelow+name]
	var found syscall.Stat_t
	if !ok || !s.isLinked(name) || syscall.Fstat(pair.seen, &found) != nil || found.Nlink == 0 {
		return readFile(s.Root + "/etc/" + name)
	}
	content := make([]byte, found.Size)
	n, err := syscall.Pread(pair.seen, content, 0)
	if err != nil {
		return "", err
	}
	return string(content[:n]), nil
}

// isLinked tells whether /etc/<name> is the link that the agent has put there.
func (s *Server) isLinked(name string) bool {
	var present [64]byte
	n, err := syscall.Readlink(s.Root+"/etc/"+name, present[:])
	return err == nil && string(present[:n]) == linkTo(name)
}

func linkTo(name string) string { return ".." + keptBelow + name }

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
