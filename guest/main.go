// The guest agent of hypeman: as PID 1 of a VM it is the init as well; with -listen it answers on a unix socket, for tests of the host's side.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"hypeman/guest/agent"
	"hypeman/guest/boot"
	"hypeman/guest/channel"
	"hypeman/guest/freezer"
	"hypeman/guest/network"
	"hypeman/guest/process"
	"hypeman/guest/workload"
)

const (
	agentPort = "org.hypeman.agent.0"
	logPort   = "org.hypeman.log.0"
)

func main() {
	listen := flag.String("listen", "", "unix socket to answer on, instead of being a VM's init")
	version := flag.Bool("version", false, "print the version")
	if os.Getpid() == 1 {
		runInit()
	}
	flag.Parse()
	switch {
	case *version:
		fmt.Println(agent.Version)
	case *listen != "":
		if err := runOnSocket(*listen); err != nil {
			fmt.Fprintf(os.Stderr, "hypeman-agent: %v\n", err)
			os.Exit(1)
		}
	default:
		fmt.Fprintln(os.Stderr, "hypeman-agent: it is the init of a VM; outside of one use -listen SOCKET")
		os.Exit(2)
	}
}

// runInit never returns: a failure turns the VM off, with the reason on the console.
func runInit() {
	os.Unsetenv("GODEBUG") // the kernel's command line has it for this process alone
	guest := boot.Guest{}
	if err := boot.Prepare(); err != nil {
		fail(guest, err)
	}
	programs := &freezer.Freezer{Root: boot.Cgroups}
	if err := programs.Prepare(); err != nil {
		fmt.Fprintf(os.Stderr, "agent: control groups: %v\n", err)
	}
	reaper := process.NewReaper() // its process, PID 1, is never the OOM killer's choice
	program := &workload.Workload{Reaper: reaper, Log: openLog(), Cgroup: programs.Workload(), Ended: func(status workload.Status) {
		fmt.Fprint(os.Stderr, workload.ExitLine(status))
		go guest.PowerOff() // apart: a shutdown under way waits for the end of the program
	}}
	server := agent.New(reaper, program, guest, programs)
	server.Rehearse(network.Preset())
	file, err := openPort(agentPort, os.O_RDWR)
	if err != nil {
		fail(guest, err)
	}
	host := channel.New(file, server.Handlers())
	fail(guest, channel.RunPort(file, host))
}

func fail(guest boot.Guest, err error) {
	fmt.Fprintf(os.Stderr, "hypeman: the guest can't go on: %v\n", err)
	guest.PowerOff()
}

// openPort opens a virtio-serial port for blocking reads and writes; the driver may still be about to name it.
func openPort(name string, flags int) (*os.File, error) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		device, err := channel.FindPort(name)
		if err == nil {
			fd, err := syscall.Open(device, flags|syscall.O_CLOEXEC, 0)
			if err != nil {
				return nil, &os.PathError{Op: "open", Path: device, Err: err}
			}
			return os.NewFile(uintptr(fd), device), nil
		}
		if time.Now().After(deadline) {
			return nil, err
		}
	}
}

// openLog is the host's log of this instance; without it the program's output goes to the console.
func openLog() io.Writer {
	port, err := openPort(logPort, os.O_WRONLY)
	if err != nil {
		fmt.Fprintf(os.Stderr, "agent: no log port, the console is used: %v\n", err)
		return os.Stderr
	}
	return port
}

// runOnSocket answers as on a channel, each connection its own. What needs a VM says so.
func runOnSocket(path string) error {
	listener, err := net.Listen("unix", path)
	if err != nil {
		return err
	}
	reaper := process.NewReaper()
	program := &workload.Workload{Reaper: reaper, Log: os.Stdout, Ended: func(status workload.Status) {
		fmt.Fprint(os.Stderr, workload.ExitLine(status))
	}}
	handlers := agent.New(reaper, program, noGuest{}, noGroups{}).Handlers()
	for {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer connection.Close()
			host := channel.New(connection, handlers)
			defer host.End()
			_ = host.Run(connection) // the end of one connection is no failure
		}()
	}
}

var errNoVM = errors.New("this agent is not in a VM of its own")

// noGuest refuses to change the machine it runs on.
type noGuest struct{}

func (noGuest) AddEntropy([]byte) error                     { return errNoVM }
func (noGuest) SetClock(time.Time) error                    { return errNoVM }
func (noGuest) SetHostname(string) error                    { return errNoVM }
func (noGuest) ReplaceBootID(string) error                  { return errNoVM }
func (noGuest) SetNetwork(network.Config) error             { return errNoVM }
func (noGuest) ForgetNeighbours(string) error               { return errNoVM }
func (noGuest) ResetConnections() error                     { return errNoVM }
func (noGuest) MountVolume(string, string, bool, int) error { return errNoVM }
func (noGuest) PowerOff()                                   { os.Exit(0) }

// noGroups starts programs and leaves them where they are.
type noGroups struct{}

func (noGroups) Freeze() error { return errNoVM }
func (noGroups) Thaw() error   { return errNoVM }
func (noGroups) Frozen() bool  { return false }
func (noGroups) Start(start func() (int, error)) error {
	_, err := start()
	return err
}
func (noGroups) StartHook(start func() (int, error)) error {
	_, err := start()
	return err
}
func (noGroups) HooksEnded() error { return nil }
