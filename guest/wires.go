package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"hypeman/guest/boot"
	"hypeman/guest/channel"
	"hypeman/guest/output"
	"hypeman/guest/yamux"
)

// wires are how this guest and its host speak: virtio-serial ports where there are any, else vsock.
type wires struct {
	// log takes what the program writes; flush waits until the host has it.
	log   io.Writer
	flush func()
	// serve answers the host for good.
	serve func(yamux.Handlers) error
}

// findWires waits for the devices; their drivers may still be about to name them.
func findWires() (wires, error) {
	serve, hasPorts, err := findChannel()
	if err != nil {
		return wires{}, err
	}
	log, flush, err := findLog(hasPorts)
	return wires{log, flush, serve}, err
}

// await tries until it works; false: it has not within devicesWait.
func await(try func() bool) bool {
	for deadline := time.Now().Add(devicesWait); !try(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// findChannel finds what the host is answered by. With ports the log has one, too.
func findChannel() (serve func(yamux.Handlers) error, hasPorts bool, err error) {
	device := ""
	if !await(func() bool {
		device, err = channel.FindPort(agentPort)
		return err == nil || channel.HasVsock()
	}) {
		return nil, false, errors.New("there is neither a virtio-serial port " + agentPort + " nor a vsock device")
	}
	if device == "" {
		agents, err := channel.ListenVsock(agentVsock)
		return func(handlers yamux.Handlers) error { return channel.ServeChannels(agents, handlers) }, false, err
	}
	port, err := openDevice(device, os.O_RDWR)
	return func(handlers yamux.Handlers) error { return channel.RunPort(port, channel.New(port, handlers)) }, true, err
}

// findLog finds what the program's output goes to: what the kernel's argument names, else a port where there are any, else whoever asks on vsock.
func findLog(hasPorts bool) (log io.Writer, flush func(), err error) {
	switch name := boot.Argument(logArgument); {
	case name == logIsPort || (name == "" && hasPorts):
		return findLogPort()
	case name != "":
		log, err = openTerminal(terminalOf(name))
		return log, nothing, err
	}
	logs, err := channel.ListenVsock(logVsock)
	if err != nil {
		return nil, nil, err
	}
	asked := output.New()
	go func() {
		err := channel.ServeEach(logs, func(stream io.ReadWriter, _ int) {
			_ = asked.Serve(stream) // the host has gone: it may come back
		})
		fmt.Fprintf(os.Stderr, "agent: the log can't be asked for any more: %v\n", err)
	}()
	return asked, flushOf(asked), nil
}

// findLogPort opens the port by which the VMM takes the log to the host by itself, or the one by which a host asks for it.
func findLogPort() (log io.Writer, flush func(), err error) {
	device, askedDevice := "", ""
	if !await(func() bool {
		device, _ = channel.FindPort(logPort)
		askedDevice, _ = channel.FindPort(askedLogPort)
		return device != "" || askedDevice != ""
	}) {
		fmt.Fprintln(os.Stderr, "agent: there is no log port, the console is used")
		return os.Stderr, nothing, nil
	}
	if device != "" {
		log, err = openDevice(device, os.O_WRONLY)
		return log, nothing, err
	}
	port, err := openDevice(askedDevice, os.O_RDWR)
	if err != nil {
		return nil, nil, err
	}
	asked := output.New()
	go func() {
		for errors.Is(asked.Serve(port), io.EOF) { // a port whose host has gone: it may come back
			time.Sleep(20 * time.Millisecond)
		}
	}()
	return asked, flushOf(asked), nil
}

// nothing is the flush of a log that is with the host as soon as it is written.
func nothing() {}

func flushOf(log *output.Log) func() {
	return func() { log.Flush(logWait) }
}

// openDevice opens a virtio-serial port for blocking reads and writes.
func openDevice(device string, flags int) (*os.File, error) {
	fd, err := syscall.Open(device, flags|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: device, Err: err}
	}
	return os.NewFile(uintptr(fd), device), nil
}
