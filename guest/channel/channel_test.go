package channel

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/rand"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"hypeman/guest/yamux"
)

// echo serves a session: each stream gives back what it reads.
func echo(session *yamux.Session) {
	for {
		stream, err := session.Accept()
		if err != nil {
			return
		}
		go func() {
			defer stream.Close()
			_, _ = io.Copy(stream, stream)
		}()
	}
}

func preamble(nonce string) []byte { return append(append([]byte{}, HostMagic...), nonce...) }

func answer(nonce string) []byte { return append(append([]byte{}, GuestMagic...), nonce...) }

func windowFrame(flags uint16, stream uint32) []byte {
	frame := make([]byte, 12)
	frame[1] = 1
	binary.BigEndian.PutUint16(frame[2:], flags)
	binary.BigEndian.PutUint32(frame[4:], stream)
	return frame
}

func dataFrame(stream uint32, body string) []byte {
	frame := make([]byte, 12)
	binary.BigEndian.PutUint32(frame[4:], stream)
	binary.BigEndian.PutUint32(frame[8:], uint32(len(body)))
	return append(frame, body...)
}

// output collects what a channel writes.
type output struct {
	mu   sync.Mutex
	data []byte
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.data = append(o.data, p...)
	return len(p), nil
}

func (o *output) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.data)
}

func (o *output) contains(wanted []byte) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return bytes.Contains(o.data, wanted)
}

func waitUntil(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

const nonceA, nonceB = "0123456789abcdef", "fedcba9876543210"

func TestThePreambleIsAnsweredWithItsNonce(t *testing.T) {
	out := &output{}
	channel := New(out, yamux.Handlers{Serve: echo})
	channel.take(preamble(nonceA))
	if !bytes.Equal(out.data, answer(nonceA)) {
		t.Fatalf("%x", out.data)
	}
	channel.End()
}

func TestWithoutAPreambleNothingIsSaid(t *testing.T) {
	out := &output{}
	channel := New(out, yamux.Handlers{Serve: echo})
	channel.take(append(windowFrame(1, 1), dataFrame(1, "hello")...))
	channel.take(HostMagic[:10])
	channel.take([]byte("something else that is no preamble"))
	if len(out.data) != 0 {
		t.Fatalf("%q", out.data)
	}
}

// The old connection is cut after each of its bytes, and the new preamble comes in two pieces cut at each of its bytes: it is always found.
func TestAConnectionCutAtAnyByteIsTakenUpByTheNext(t *testing.T) {
	var old []byte
	old = append(old, preamble(nonceA)...)
	old = append(old, windowFrame(1, 1)...)
	old = append(old, dataFrame(1, "some data \x9d\x1e and more")...)
	old = append(old, dataFrame(1, string(HostMagic[:9]))...)
	for cut := 0; cut <= len(old); cut++ {
		for split := 0; split <= 32; split += 3 {
			out := &output{}
			channel := New(out, yamux.Handlers{Serve: echo})
			channel.take(old[:cut])
			fresh := preamble(nonceB)
			channel.take(fresh[:split])
			channel.take(fresh[split:])
			channel.take(windowFrame(1, 1))
			channel.take(dataFrame(1, "ping"))
			waitUntil(t, "the new session echoes", func() bool { return out.contains([]byte("ping")) })
			channel.End()
			after := out.data[bytes.Index(out.data, answer(nonceB)):]
			if bytes.Contains(after, []byte("some data")) {
				t.Fatalf("cut %d: a byte of the old session came after the new answer", cut)
			}
		}
	}
}

func TestAPreambleInsideAFrameEndsTheSession(t *testing.T) {
	out := &output{}
	ended := make(chan struct{})
	channel := New(out, yamux.Handlers{Serve: func(session *yamux.Session) {
		echo(session)
		close(ended)
	}})
	channel.take(preamble(nonceA))
	channel.take(windowFrame(1, 1))
	frame := dataFrame(1, string(make([]byte, 1000)))
	channel.handlers.Serve = echo
	channel.take(append(frame[:500:500], preamble(nonceB)...))
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Fatal("the old session goes on")
	}
	if !out.contains(answer(nonceB)) {
		t.Fatal("no answer")
	}
	channel.End()
}

func TestThePastSessionIsSilentAtOnceAndClosedAfterTheFirstFrame(t *testing.T) {
	for how, end := range map[string]func(*Channel){
		"the first frame":           func(channel *Channel) { channel.take(windowFrame(1, 1)) },
		"the channel's end":         (*Channel).End,
		"the end of what is read":   func(channel *Channel) { _ = channel.Run(bytes.NewReader(nil)) },
		"the third session's frame": func(channel *Channel) { channel.take(append(preamble(nonceA), windowFrame(1, 1)...)) },
	} {
		out := &output{}
		streams, ended := make(chan net.Conn, 1), make(chan struct{})
		channel := New(out, yamux.Handlers{Serve: func(session *yamux.Session) {
			stream, err := session.Accept()
			if err != nil {
				t.Error(err)
			}
			streams <- stream
			if _, err := session.Accept(); err != yamux.ErrClosed {
				t.Error(err)
			}
			close(ended)
		}})
		channel.take(preamble(nonceA))
		channel.take(windowFrame(1, 1))
		past := <-streams
		channel.handlers.Serve = echo
		channel.take(preamble(nonceB))
		before := out.size()
		if _, err := past.Write([]byte("late")); err != yamux.ErrClosed || out.size() != before {
			t.Errorf("%s: the past session wrote (%v)", how, err)
		}
		select {
		case <-ended:
			t.Errorf("%s: closed before", how)
		default:
		}
		end(channel)
		select {
		case <-ended:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: the past session goes on", how)
		}
		channel.End()
	}
}

func TestTwoPreamblesInARowBothCount(t *testing.T) {
	out := &output{}
	channel := New(out, yamux.Handlers{Serve: echo})
	channel.take(append(preamble(nonceA), preamble(nonceB)...))
	if !bytes.Equal(out.data, append(answer(nonceA), answer(nonceB)...)) {
		t.Fatalf("%x", out.data)
	}
	channel.End()
}

func TestABrokenSessionIsNoiseUntilTheNextPreamble(t *testing.T) {
	out := &output{}
	channel := New(out, yamux.Handlers{Serve: echo})
	channel.take(preamble(nonceA))
	channel.take(bytes.Repeat([]byte{0xff}, 100))
	before := len(out.data)
	channel.take(windowFrame(1, 1))
	if len(out.data) != before {
		t.Fatal("noise was answered")
	}
	channel.take(preamble(nonceB))
	if !out.contains(answer(nonceB)) {
		t.Fatal("the channel is lost")
	}
	channel.End()
}

// Whatever comes, cut wherever, a preamble afterwards gives a session that works.
func TestRandomInputNeverLosesTheChannel(t *testing.T) {
	random := rand.New(rand.NewSource(3))
	out := &output{}
	channel := New(out, yamux.Handlers{Serve: echo})
	for round := 0; round < 300; round++ {
		for i := random.Intn(6); i > 0; i-- {
			switch random.Intn(4) {
			case 0:
				noise := make([]byte, random.Intn(300))
				random.Read(noise)
				channel.take(noise)
			case 1:
				channel.take(preamble(nonceA)[:random.Intn(33)])
			case 2:
				channel.take(windowFrame(uint16(random.Intn(16)), uint32(random.Intn(6))))
			case 3:
				frame := dataFrame(uint32(random.Intn(6)), string(make([]byte, random.Intn(2000))))
				channel.take(frame[:random.Intn(len(frame)+1)])
			}
		}
		// A nonce that is still being read takes up to 16 bytes, whatever they are.
		channel.take(make([]byte, nonceSize))
		channel.take(preamble(nonceB))
		channel.take(windowFrame(1, 1))
		word := []byte{'w', byte(round), byte(round >> 8), 'w'}
		channel.take(dataFrame(1, string(word)))
		waitUntil(t, "the session echoes", func() bool { return out.contains(word) })
	}
	channel.End()
}

func TestRunReadsUntilTheEndAndKeepsTheSession(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	channel := New(near, yamux.Handlers{Serve: echo})
	ended := make(chan error, 1)
	go func() { ended <- channel.Run(near) }()
	if _, err := far.Write(preamble(nonceA)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 32)
	if _, err := io.ReadFull(far, got); err != nil || !bytes.Equal(got, answer(nonceA)) {
		t.Fatalf("%x %v", got, err)
	}
	far.Close()
	if err := <-ended; err != io.EOF {
		t.Fatal(err)
	}
	channel.End()
}

func TestAPortThatDoesNotExistIsMissing(t *testing.T) {
	if _, err := FindPort("org.example.none"); !os.IsNotExist(err) {
		t.Fatal(err)
	}
}

func BenchmarkTake(b *testing.B) {
	channel := New(&output{}, yamux.Handlers{})
	data := make([]byte, 65536)
	rand.New(rand.NewSource(1)).Read(data)
	b.SetBytes(int64(len(data)))
	for i := 0; i < b.N; i++ {
		channel.take(data)
	}
}
