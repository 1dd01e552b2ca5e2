package channel

import (
	"bytes"
	"io"
	"net"
	"testing"

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
		ended <- ServeEach(streams{listener}, func(stream io.ReadWriter) {
			host := New(stream, yamux.Handlers{Serve: echo})
			defer host.End()
			_ = host.Run(stream)
		})
	}()
	var open []net.Conn
	for _, nonce := range []string{nonceA, nonceB} {
		connection, err := net.Dial("unix", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer connection.Close()
		open = append(open, connection)
		if _, err := connection.Write(preamble(nonce)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 32)
		if _, err := io.ReadFull(connection, got); err != nil || !bytes.Equal(got, answer(nonce)) {
			t.Fatalf("%x %v", got, err)
		}
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
