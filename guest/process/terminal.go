package process

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// OpenTerminal makes a pseudo terminal of the guest's own devpts: the controlling side and the program's.
func OpenTerminal(rows, cols uint16) (control, program *os.File, err error) {
	fd, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, nil, &os.PathError{Op: "open", Path: "/dev/ptmx", Err: err}
	}
	var number, unlock uint32
	if err = ioctl(fd, syscall.TIOCGPTN, unsafe.Pointer(&number)); err == nil {
		err = ioctl(fd, syscall.TIOCSPTLCK, unsafe.Pointer(&unlock))
	}
	if err != nil {
		syscall.Close(fd)
		return nil, nil, err
	}
	name := "/dev/pts/" + strconv.Itoa(int(number))
	other, err := syscall.Open(name, syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		syscall.Close(fd)
		return nil, nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	control, program = os.NewFile(uintptr(fd), "/dev/ptmx"), os.NewFile(uintptr(other), name)
	return control, program, Resize(control, rows, cols)
}

// Resize tells a terminal its size; 0 leaves it as it is.
func Resize(terminal *os.File, rows, cols uint16) error {
	if rows == 0 || cols == 0 {
		return nil
	}
	size := [4]uint16{rows, cols}
	return ioctl(int(terminal.Fd()), syscall.TIOCSWINSZ, unsafe.Pointer(&size))
}

func ioctl(fd int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(argument)); errno != 0 {
		return os.NewSyscallError("ioctl", errno)
	}
	return nil
}
