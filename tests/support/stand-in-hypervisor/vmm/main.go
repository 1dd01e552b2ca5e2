// The process of a stand-in machine: as small as a VMM can be that the server takes for one. It has a disk file, memory that can be saved and
// loaded, a control socket, and in it a "guest" that speaks the real agent protocol. It lives in the instance's directory and outlives the server.
package main

import (
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"hypeman/guest/channel"
	"hypeman/guest/yamux"
)

const (
	controlSocket = "control.sock"
	agentSocket   = "agent.sock"
	consoleLog    = "logs/console.log"
)

func main() {
	_ = flag.String("name", "", "hypeman-<instance id>, by which the server knows its processes")
	disk := flag.String("disk", "", "the writable disk, a file in the working directory")
	incoming := flag.Bool("incoming", false, "load the memory on descriptor 3 and start paused")
	flag.Func("read", "a disk that many may read", func(file string) error { return attach(file, os.O_RDONLY, syscall.LOCK_SH) })
	flag.Func("write", "a disk that nobody else may use", func(file string) error { return attach(file, os.O_RDWR, syscall.LOCK_EX) })
	var given, most size
	flag.IntVar(&given.Vcpus, "vcpus", 1, "processors")
	flag.Int64Var(&given.Memory, "memory", 128, "memory in MiB")
	flag.IntVar(&most.Vcpus, "most-vcpus", 1, "as many as it may be given while it runs")
	flag.Int64Var(&most.Memory, "most-memory", 128, "as much as it may be given while it runs, in MiB")
	flag.Parse()
	if err := run(*disk, *incoming, given, most); err != nil {
		fmt.Fprintf(os.Stderr, "stand-in: %v\n", err)
		os.Exit(1)
	}
}

// attached keeps the files open, and so locked, for the life of the process.
var attached []*os.File

// attach opens a disk and takes the lock that says what else may be done with it, as QEMU does.
func attach(file string, mode, lock int) error {
	disk, err := os.OpenFile(file, mode, 0)
	if err != nil {
		return err
	}
	attached = append(attached, disk)
	if err := syscall.Flock(int(disk.Fd()), lock|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("%s is in use: %w", file, err)
	}
	return nil
}

func run(disk string, incoming bool, given, most size) error {
	guest, err := newGuest(disk, given)
	if err != nil {
		return err
	}
	if incoming {
		guest.pause()
		if err := guest.load(os.NewFile(3, "memory")); err != nil {
			return err
		}
	}
	agent, err := net.Listen("unix", agentSocket)
	if err != nil {
		return err
	}
	go serveAgent(agent, guest)
	// Last, since the server takes a process that listens here for one that is ready.
	control, err := net.Listen("unix", controlSocket)
	if err != nil {
		return err
	}
	return serveControl(control, guest, disk, most)
}

// serveAgent takes one connection at a time, as a serial port does.
func serveAgent(listener net.Listener, guest *guest) {
	server := newAgent(guest)
	for {
		connection, err := listener.Accept()
		if err != nil {
			fmt.Fprintf(os.Stderr, "stand-in: %v\n", err)
			os.Exit(1)
		}
		host := channel.New(connection, yamux.Handlers{
			Serve: func(session *yamux.Session) { _ = server.Serve(session) }, // ends with the session, which says nothing new
			Renew: func(message []byte) []byte { return renew(guest, message) },
		})
		_ = host.Run(whileRunning{connection, guest}) // the end of one connection is no failure
		host.End()
		connection.Close()
	}
}

// whileRunning holds back what the host sends while the guest is paused.
type whileRunning struct {
	io.Reader
	guest *guest
}

func (r whileRunning) Read(buffer []byte) (int, error) {
	n, err := r.Reader.Read(buffer)
	r.guest.run(func() {})
	return n, err
}
