package main

import (
	"os"
	"path/filepath"
	"syscall"
	"unsafe"
)

// terminalOf is the path of the terminal with that name.
func terminalOf(name string) string { return filepath.Join("/dev", filepath.Base(name)) }

// openTerminal waits for a terminal's driver, and opens it so that what is written arrives as it is.
func openTerminal(device string) (*os.File, error) {
	var fd int
	var err error
	if !await(func() bool {
		fd, err = syscall.Open(device, os.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
		return err == nil
	}) {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	return os.NewFile(uintptr(fd), device), withoutProcessing(fd)
}

// withoutProcessing switches off what a terminal does to output, such as a carriage return before each line feed: termios(3).
func withoutProcessing(fd int) error {
	var settings syscall.Termios
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TCGETS, uintptr(unsafe.Pointer(&settings))); errno != 0 {
		return os.NewSyscallError("TCGETS", errno)
	}
	settings.Oflag &^= syscall.OPOST
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.TCSETS, uintptr(unsafe.Pointer(&settings))); errno != 0 {
		return os.NewSyscallError("TCSETS", errno)
	}
	return nil
}
