// The guest agent of hypeman: as PID 1 of a VM it is the init as well; with -listen it answers on a unix socket, for tests of the host's side.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
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
	// A host whose vsock is a serial port, as in tests, asks for the log on this one.
	askedLogPort = "org.hypeman.log.1"
	// logArgument is the kernel argument that names what the program's output goes to: a terminal, such as hvc0, or port, for a VMM with a vsock device that has the log's port beside it.
	logArgument = "hypeman.log="
	logIsPort   = "port"

	agentVsock = 1024
	logVsock   = 1025

	// devicesWait bounds how long the channel's device may take to appear, logWait how long the host may take to have the last of the log.
	devicesWait = 10 * time.Second
	logWait     = 2 * time.Second
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
	if err := calmMonitor(); err != nil { // a guest runs without it, only slower
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
	}
	programs := &freezer.Freezer{Root: boot.Cgroups}
	if err := programs.Prepare(); err != nil {
		fmt.Fprintf(os.Stderr, "agent: control groups: %v\n", err)
	}
	reaper := process.NewReaper() // its process, PID 1, is never the OOM killer's choice
	wires, err := findWires()
	if err != nil {
		fail(guest, err)
	}
	machine := vm{guest, wires}
	program := &workload.Workload{Reaper: reaper, Log: wires.log, Cgroup: programs.Workload(), Ended: func(status workload.Status) {
		fmt.Fprint(os.Stderr, workload.ExitLine(status))
		go machine.PowerOff() // apart: a shutdown under way waits for the end of the program
	}}
	server := agent.New(reaper, program, machine, programs)
	server.Rehearse(network.Preset())
	// What the start has left is free then, and its pages are there: what a fork allocates is in them, instead of in fresh ones that its kernel has to give it.
	runtime.GC()
	fail(guest, wires.serve(server.Handlers()))
}

// vm is this VM, whose log is with the host before it ends.
type vm struct {
	boot.Guest
	wires
}

func (v vm) PowerOff() {
	v.flush()
	v.Guest.PowerOff()
}

func fail(guest boot.Guest, err error) {
	fmt.Fprintf(os.Stderr, "hypeman: the guest can't go on: %v\n", err)
	guest.PowerOff()
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
	return channel.ServeChannels(unixListener{listener}, handlers)
}

type unixListener struct{ net.Listener }

func (l unixListener) Accept() (io.ReadWriteCloser, error) { return l.Listener.Accept() }

var errNoVM = errors.New("this agent is not in a VM of its own")

// noGuest refuses to change the machine it runs on.
type noGuest struct{}

func (noGuest) AddEntropy([]byte) error                     { return errNoVM }
func (noGuest) SetClock(time.Time) error                    { return errNoVM }
func (noGuest) SetHostname(string) error                    { return errNoVM }
func (noGuest) ReplaceBootID(string) error                  { return errNoVM }
func (noGuest) SetNetwork(network.Config) error             { return errNoVM }
func (noGuest) ForgetNeighbours(string) error               { return errNoVM }
func (noGuest) LookForConnections()                         {}
func (noGuest) ResetConnections() error                     { return errNoVM }
func (noGuest) MountVolume(string, string, bool, int) error { return errNoVM }
func (noGuest) KeepInMemory(string) error                   { return errNoVM }
func (noGuest) Grow(agent.Growth, time.Duration) (agent.Growth, error) {
	return agent.Growth{}, errNoVM
}
func (noGuest) PowerOff() { os.Exit(0) }

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
