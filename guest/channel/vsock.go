package channel

import (
	"io"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"hypeman/guest/yamux"
)

// vsock(7), linux/vm_sockets.h.
const (
	afVsock       = 40
	anyCID        = 0xffffffff
	firstGuestCID = 3
	getLocalCID   = 0x7b9
	vsockBacklog  = 16
)

// shortageWait is how long connections wait for the kernel to have room for them.
const shortageWait = 20 * time.Millisecond

// HasVsock tells whether this is the guest of a VMM with a vsock device.
func HasVsock() bool {
	device, err := os.Open("/dev/vsock")
	if err != nil {
		return false
	}
	defer device.Close()
	var cid uint32
	_, _, errno := syscall.Syscall(syscall.SYS_IOCTL, device.Fd(), getLocalCID, uintptr(unsafe.Pointer(&cid)))
	return errno == 0 && cid >= firstGuestCID && cid != anyCID
}

// Listener gives connections, each a stream of its own.
type Listener interface {
	Accept() (io.ReadWriteCloser, error)
}

// ListenVsock listens for the host on a vsock port. The listener outlives snapshots; its connections don't.
func ListenVsock(port uint32) (Listener, error) {
	fd, err := syscall.Socket(afVsock, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	// struct sockaddr_vm.
	address := struct {
		family, reserved uint16
		port, cid        uint32
		flags            uint8
		zero             [3]uint8
	}{family: afVsock, port: port, cid: anyCID}
	_, _, errno := syscall.Syscall(syscall.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&address)), unsafe.Sizeof(address))
	if errno != 0 {
		syscall.Close(fd)
		return nil, os.NewSyscallError("bind", errno)
	}
	if err := syscall.Listen(fd, vsockBacklog); err != nil {
		syscall.Close(fd)
		return nil, os.NewSyscallError("listen", err)
	}
	return vsockListener(fd), nil
}

type vsockListener int

// Accept waits for a connection. Go's own accept knows no addresses of this family.
func (l vsockListener) Accept() (io.ReadWriteCloser, error) {
	for {
		fd, _, errno := syscall.Syscall6(syscall.SYS_ACCEPT4, uintptr(l), 0, 0, syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0, 0)
		switch errno {
		case 0:
			return os.NewFile(fd, "vsock"), nil
		case syscall.EINTR, syscall.ECONNABORTED, syscall.ECONNRESET: // a snapshot resets what was about to connect
		case syscall.EMFILE, syscall.ENFILE, syscall.ENOMEM, syscall.ENOBUFS: // programs may have used up what there is, and give it back
			time.Sleep(shortageWait)
		default:
			return nil, os.NewSyscallError("accept", errno)
		}
	}
}

// ServeEach runs serve for each connection and closes it afterwards; it returns when no more come. Connections are numbered as they come, from 1.
func ServeEach(listener Listener, serve func(connection io.ReadWriter, number int)) error {
	for number := 1; ; number++ {
		connection, err := listener.Accept()
		if err != nil {
			return err
		}
		go func(number int) {
			defer connection.Close()
			serve(connection, number)
		}(number)
	}
}

// ServeChannels has each connection be a channel of its own. Renewals are taken from the last one alone.
func ServeChannels(listener Listener, handlers yamux.Handlers) error {
	renewals := &lastRenewer{renew: handlers.Renew}
	return ServeEach(listener, func(stream io.ReadWriter, number int) {
		own := handlers
		if own.Renew != nil {
			own.Renew = func(message []byte) []byte { return renewals.take(number, message) }
		}
		host := New(stream, own)
		defer host.End()
		_ = host.Run(stream) // the end of one connection is no failure
	})
}

// lastRenewer refuses renewals of a connection when a later one has sent some: each connection has a goroutine of its own, so that a freeze of one that the host has given up
// could else be taken after the thaw that the host sent by the next.
type lastRenewer struct {
	mu    sync.Mutex // held while a renewal is answered
	last  int
	renew func(message []byte) []byte
}

func (l *lastRenewer) take(number int, message []byte) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if number < l.last {
		return []byte("refused the host has gone on by a later connection\n")
	}
	l.last = number
	return l.renew(message)
}
