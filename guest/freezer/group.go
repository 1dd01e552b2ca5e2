package freezer

import (
	"errors"
	"os"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// group is a control group whose files are open. The kernel gives no two groups the same id.
type group struct {
	freeze, events int
	id             uint64
}

// isGone tells whether what a program has made it has removed meanwhile.
func isGone(err error) bool { return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) }

func openGroup(directory string) (group, error) {
	freeze, err := open(directory+"/cgroup.freeze", syscall.O_RDWR)
	if err != nil {
		return group{}, err
	}
	events, err := open(directory+"/cgroup.events", syscall.O_RDONLY)
	if err == nil {
		var found syscall.Stat_t
		if err = syscall.Fstat(events, &found); err == nil {
			return group{freeze, events, found.Ino}, nil
		}
		syscall.Close(events)
	}
	syscall.Close(freeze)
	return group{}, err
}

func (g group) close() {
	syscall.Close(g.freeze)
	syscall.Close(g.events)
}

// isStill tells whether all of the group stand still. In one that is gone there is nobody.
func (g group) isStill() bool {
	var content [256]byte
	n, err := syscall.Pread(g.events, content[:], 0)
	return err == syscall.ENODEV || (err == nil && strings.Contains("\n"+string(content[:n]), "\nfrozen 1\n"))
}

// awaitStill waits until all of the group stand still, or the time is over.
func (g group) awaitStill(deadline time.Time) error {
	const priority, failed = 0x2, 0x8 // poll(2): POLLPRI, POLLERR
	for !g.isStill() {
		left := time.Until(deadline)
		if left <= 0 {
			return nil // see standStillLimit
		}
		request := struct {
			fd              int32
			events, results int16
		}{int32(g.events), priority | failed, 0}
		limit := syscall.NsecToTimespec(left.Nanoseconds())
		_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&request)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
		if errno != 0 && errno != syscall.EINTR {
			return os.NewSyscallError("ppoll", errno)
		}
	}
	return nil
}

func open(path string, flags int) (int, error) {
	file, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return file, nil
}
