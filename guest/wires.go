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
	cmdline, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return wires{}, err
	}
	device := logDevice(string(cmdline))
	if device == "" || boot.HasArgument(logPortArgument) {
		return findChannel(nil)
	}
	terminal, err := openTerminal(device)
	if err != nil {
		return wires{}, err
	}
	return findChannel(terminal)
}

// findChannel finds the rest; with a terminal the log needs nothing else.
func findChannel(terminal *os.File) (wires, error) {
	for deadline := time.Now().Add(devicesWait); ; time.Sleep(2 * time.Millisecond) {
		if device, err := channel.FindPort(agentPort); err == nil {
			return portWires(device, terminal)
		}
		if channel.HasVsock() {
			return vsockWires(terminal)
		}
		if time.Now().After(deadline) {
			return wires{}, errors.New("there is neither a virtio-serial port " + agentPort + " nor a vsock device")
		}
	}
}

func portWires(device string, terminal *os.File) (wires, error) {
	port, err := openDevice(device, os.O_RDWR)
	if err != nil {
		return wires{}, err
	}
	found := wires{
		flush: func() {},
		serve: func(handlers yamux.Handlers) error {
			return channel.RunPort(port, channel.New(port, handlers))
		},
	}
	if terminal != nil {
		found.log = terminal
		return found, nil
	}
	for deadline := time.Now().Add(devicesWait); ; time.Sleep(2 * time.Millisecond) {
		if device, err := channel.FindPort(logPort); err == nil {
			found.log, err = openDevice(device, os.O_WRONLY)
			return found, err
		}
		if device, err := channel.FindPort(askedLogPort); err == nil {
			asked, err := openDevice(device, os.O_RDWR)
			if err != nil {
				return wires{}, err
			}
			log := output.New()
			found.log, found.flush = log, flushOf(log)
			go func() {
				for errors.Is(log.Serve(asked), io.EOF) { // a port whose host has gone: it may come back
					time.Sleep(20 * time.Millisecond)
				}
			}()
			return found, nil
		}
		if time.Now().After(deadline) {
			fmt.Fprintln(os.Stderr, "agent: there is no log port, the console is used")
			found.log = os.Stderr
			return found, nil
		}
	}
}

func vsockWires(terminal *os.File) (wires, error) {
	agents, err := channel.ListenVsock(agentVsock)
	if err != nil {
		return wires{}, err
	}
	serve := func(handlers yamux.Handlers) error { return channel.ServeChannels(agents, handlers) }
	if terminal != nil {
		return wires{log: terminal, flush: func() {}, serve: serve}, nil
	}
	if boot.HasArgument(logPortArgument) {
		log, err := waitForLogPort()
		return wires{log: log, flush: func() {}, serve: serve}, err
	}
	logs, err := channel.ListenVsock(logVsock)
	if err != nil {
		return wires{}, err
	}
	log := output.New()
	go func() {
		err := channel.ServeEach(logs, func(stream io.ReadWriter, _ int) {
			_ = log.Serve(stream) // the host has gone: it may come back
		})
		fmt.Fprintf(os.Stderr, "agent: the log can't be asked for any more: %v\n", err)
	}()
	return wires{log: log, flush: flushOf(log), serve: serve}, nil
}

// waitForLogPort opens the port by which the VMM takes the log to the host by itself. Its driver may still be about to name it.
func waitForLogPort() (io.Writer, error) {
	for deadline := time.Now().Add(devicesWait); ; time.Sleep(2 * time.Millisecond) {
		if device, err := channel.FindPort(logPort); err == nil {
			return openDevice(device, os.O_WRONLY)
		}
		if time.Now().After(deadline) {
			return nil, errors.New("there is no virtio-serial port " + logPort)
		}
	}
}

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
