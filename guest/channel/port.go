package channel

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// FindPort returns the device of a named virtio-serial port, or an error that wraps os.ErrNotExist.
func FindPort(name string) (string, error) {
	files, err := filepath.Glob("/sys/class/virtio-ports/*/name")
	if err != nil {
		return "", err
	}
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err == nil && strings.TrimSpace(string(content)) == name {
			return "/dev/" + filepath.Base(filepath.Dir(file)), nil
		}
	}
	return "", &os.PathError{Op: "find", Path: "virtio port " + name, Err: os.ErrNotExist}
}

// RunPort serves a virtio-serial port for good. A read returns EOF while the host side is closed; the kernel has no way to wait for
// its return, so the port is asked again after a moment that grows to idlePoll.
func RunPort(port *os.File, channel *Channel) error {
	const idlePoll = 20 * time.Millisecond
	wait := time.Millisecond
	for {
		before := time.Now()
		err := channel.Run(port)
		if !errors.Is(err, io.EOF) {
			return err
		}
		if time.Since(before) > idlePoll {
			wait = time.Millisecond
		}
		time.Sleep(wait)
		if wait *= 2; wait > idlePoll {
			wait = idlePoll
		}
	}
}
