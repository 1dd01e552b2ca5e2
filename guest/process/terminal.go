package process

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// OpenTerminal makes a pseudo terminal of the guest's own devpts: the controlling side and the program's.
func OpenTerminal(rows, cols uint16) (control, program *os.File, err error) {
	// Not blocking, so that closing it ends reads and writes that wait.
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	control = os.NewFile(uintptr(fd), "/dev/ptmx")
	var number, unlock uint32
	if err = ioctl(control, syscall.TIOCGPTN, unsafe.Pointer(&number)); err == nil {
		err = ioctl(control, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	}
	if err == nil {
		program, err = os.OpenFile("/dev/pts/"+strconv.Itoa(int(number)), os.O_RDWR|syscall.O_NOCTTY, 0)
	}
	if err == nil {
		if err = Resize(control, rows, cols); err != nil {
			program.Close()
		}
	}
	if err != nil {
		control.Close()
		return nil, nil, err
	}
	return control, program, nil
}

// Resize tells a terminal its size; 0 leaves it as it is.
func Resize(terminal *os.File, rows, cols uint16) error {
	if rows == 0 || cols == 0 {
		return nil
	}
	size := [4]uint16{rows, cols}
	return ioctl(terminal, syscall.TIOCSWINSZ, unsafe.Pointer(&size))
}

func ioctl(file *os.File, request uintptr, argument unsafe.Pointer) error {
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var errno syscall.Errno
	if err := raw.Control(func(fd uintptr) {
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(argument))
	}); err != nil {
		return err
	}
	if errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
