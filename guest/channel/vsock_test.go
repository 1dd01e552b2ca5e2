package channel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"hypeman/guest/yamux"
)

type streams struct{ net.Listener }

func (s streams) Accept() (io.ReadWriteCloser, error) { return s.Listener.Accept() }

// Vsock itself needs a VMM: what is served on it is the same on any stream.
func TestEachConnectionIsAChannelOfItsOwn(t *testing.T) {
	listener, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		ended <- ServeChannels(streams{listener}, yamux.Handlers{Serve: echo})
	}()
	var open []net.Conn
	for _, nonce := range []string{nonceA, nonceB} {
		open = append(open, connect(t, listener, nonce))
	}
	// The first goes on beside the second.
	if _, err := open[0].Write(append(windowFrame(1, 1), dataFrame(1, "still here")...)); err != nil {
		t.Fatal(err)
	}
	seen := []byte{}
	for !bytes.Contains(seen, []byte("still here")) {
		piece := make([]byte, 256)
		n, err := open[0].Read(piece)
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, piece[:n]...)
	}
	listener.Close()
	if err := <-ended; err == nil {
		t.Fatal("no error")
	}
}

func TestARenewalOfAnEarlierConnectionIsRefusedWhenALaterOneHasSentSome(t *testing.T) {
	listener, err := net.Listen("unix", t.TempDir()+"/s")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		_ = ServeChannels(streams{listener}, yamux.Handlers{Renew: func(message []byte) []byte { return append([]byte("did "), message...) }})
	}()
	first, second := connect(t, listener, nonceA), connect(t, listener, nonceB)
	for _, one := range []struct {
		connection  net.Conn
		said, heard string
	}{
		{first, "freeze", "did freeze"},
		{second, "thaw", "did thaw"},
		{first, "freeze", "refused the host has gone on by a later connection\n"},
		{second, "freeze", "did freeze"},
	} {
		if got := renew(t, one.connection, one.said); got != one.heard {
			t.Fatalf("%s: %q", one.said, got)
		}
	}
}

// connect begins a channel by a connection of its own.
func connect(t *testing.T, listener net.Listener, nonce string) net.Conn {
	t.Helper()
	connection, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	if _, err := connection.Write(preamble(nonce)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 32)
	if _, err := io.ReadFull(connection, got); err != nil || !bytes.Equal(got, answer(nonce)) {
		t.Fatalf("%x %v", got, err)
	}
	return connection
}

// renew sends a renewal, a frame of type 16, and returns its answer.
func renew(t *testing.T, connection net.Conn, message string) string {
	t.Helper()
	header := make([]byte, 12)
	header[1] = 16
	binary.BigEndian.PutUint32(header[8:], uint32(len(message)))
	if _, err := connection.Write(append(header, message...)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(connection, header); err != nil || header[1] != 16 {
		t.Fatalf("%x %v", header, err)
	}
	heard := make([]byte, binary.BigEndian.Uint32(header[8:]))
	if _, err := io.ReadFull(connection, heard); err != nil {
		t.Fatal(err)
	}
	return string(heard)
}

func TestAConnectionThatTheKernelHasNoRoomForWaitsUntilItHas(t *testing.T) {
	path := t.TempDir() + "/s"
	listening, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(listening)
	if err := syscall.Bind(listening, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Listen(listening, 1); err != nil {
		t.Fatal(err)
	}
	client, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := syscall.Rlimit{Cur: 0, Max: limit.Max}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	accepted := make(chan error, 1)
	go func() {
		connection, err := vsockListener(listening).Accept()
		if err == nil {
			err = connection.Close()
		}
		accepted <- err
	}()
	select {
	case err = <-accepted:
		err = fmt.Errorf("it did not wait: %v", err)
	case <-time.After(2 * shortageWait):
	}
	if restored := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); restored != nil || err != nil {
		t.Fatal(restored, err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
}
