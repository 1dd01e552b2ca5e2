package main

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
	"unsafe"
)

// logArgument is the kernel argument that names the terminal which takes the program's output to the host's log: hypeman.log=hvc0.
const logArgument = "hypeman.log="

// logDevice is the path of the terminal that the kernel's command line names; empty if it names none.
func logDevice(cmdline string) string {
	for _, argument := range strings.Fields(cmdline) {
		if name := strings.TrimPrefix(argument, logArgument); name != argument && name != "" {
			return filepath.Join("/dev", filepath.Base(name))
		}
	}
	return ""
}

// openTerminal waits for a terminal's driver, and opens it so that what is written arrives as it is.
func openTerminal(device string) (*os.File, error) {
	for deadline := time.Now().Add(devicesWait); ; time.Sleep(2 * time.Millisecond) {
		fd, err := syscall.Open(device, os.O_WRONLY|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), device), withoutProcessing(fd)
		}
		if time.Now().After(deadline) {
			return nil, &os.PathError{Op: "open", Path: device, Err: err}
		}
	}
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
