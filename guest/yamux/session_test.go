package yamux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand"
	"net"
	"sync"
	"testing"
	"time"
)

// host is the other end as a test drives it: it takes apart what the session writes.
type host struct {
	session *Session

	mu     sync.Mutex
	change *sync.Cond
	rest   []byte
	frames []frame
}

type frame struct {
	kind   byte
	flags  uint16
	stream uint32
	length uint32
	body   []byte
}

func newHost() *host {
	h := &host{}
	h.change = sync.NewCond(&h.mu)
	h.session = NewSession(h, Handlers{})
	return h
}

func (h *host) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.rest = append(h.rest, p...)
	for len(h.rest) >= headerSize {
		one := frame{kind: h.rest[1], flags: binary.BigEndian.Uint16(h.rest[2:]), stream: binary.BigEndian.Uint32(h.rest[4:]), length: binary.BigEndian.Uint32(h.rest[8:])}
		size := headerSize
		if one.kind == typeData || one.kind == typeRenewal {
			size += int(one.length)
		}
		if len(h.rest) < size {
			break
		}
		one.body = append([]byte{}, h.rest[headerSize:size]...)
		h.rest = h.rest[size:]
		h.frames = append(h.frames, one)
	}
	h.change.Broadcast()
	return len(p), nil
}

func (h *host) feed(t *testing.T, frames ...frame) {
	t.Helper()
	for _, one := range frames {
		if err := h.session.Feed(encode(one)); err != nil {
			t.Fatalf("frame %+v: %v", one, err)
		}
	}
}

func encode(one frame) []byte {
	header := make([]byte, headerSize, headerSize+len(one.body))
	header[1] = one.kind
	binary.BigEndian.PutUint16(header[2:], one.flags)
	binary.BigEndian.PutUint32(header[4:], one.stream)
	if one.length == 0 {
		one.length = uint32(len(one.body))
	}
	binary.BigEndian.PutUint32(header[8:], one.length)
	return append(header, one.body...)
}

// until waits for the frames written so far to satisfy a condition.
func (h *host) until(t *testing.T, what string, met func([]frame) bool) {
	t.Helper()
	timer := time.AfterFunc(5*time.Second, func() { h.change.Broadcast() })
	defer timer.Stop()
	began := time.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	for !met(h.frames) {
		if time.Since(began) >= 5*time.Second {
			t.Fatalf("timed out waiting until %s", what)
		}
		h.change.Wait()
	}
}

func (h *host) open(t *testing.T, id uint32) net.Conn {
	t.Helper()
	h.feed(t, frame{kind: typeWindow, flags: flagSYN, stream: id})
	stream, err := h.session.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

func dataOf(frames []frame, stream uint32) []byte {
	var all []byte
	for _, one := range frames {
		if one.kind == typeData && one.stream == stream {
			all = append(all, one.body...)
		}
	}
	return all
}

func TestAStreamIsAcceptedAndAcknowledged(t *testing.T) {
	h := newHost()
	h.open(t, 1)
	h.until(t, "the stream is acknowledged", func(f []frame) bool { return len(f) == 1 && f[0].flags == flagACK && f[0].stream == 1 })
}

func TestDataPassesBothWaysWhateverItsPieces(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	want := make([]byte, 100000)
	rand.New(rand.NewSource(1)).Read(want)
	wire := append(encode(frame{kind: typeData, stream: 1, body: want[:60000]}), encode(frame{kind: typeData, flags: flagFIN, stream: 1, body: want[60000:]})...)
	for len(wire) > 0 {
		n := 1 + rand.Intn(700)
		if n > len(wire) {
			n = len(wire)
		}
		if err := h.session.Feed(wire[:n]); err != nil {
			t.Fatal(err)
		}
		wire = wire[n:]
	}
	got, err := io.ReadAll(stream)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes, %v", len(got), err)
	}
	if _, err := stream.Write(want); err != nil {
		t.Fatal(err)
	}
	h.until(t, "all was sent", func(f []frame) bool { return bytes.Equal(dataOf(f, 1), want) })
	for _, one := range h.frames {
		if one.length > MaxFrame && one.kind == typeData {
			t.Fatalf("a frame of %d bytes", one.length)
		}
	}
}

func TestAWriterWaitsForTheHostsWindow(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	written := make(chan error, 1)
	go func() {
		_, err := stream.Write(make([]byte, Window+10))
		written <- err
	}()
	h.until(t, "the window is used up", func(f []frame) bool { return len(dataOf(f, 1)) == Window })
	select {
	case err := <-written:
		t.Fatalf("the write ended without a window: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	h.feed(t, frame{kind: typeWindow, stream: 1, length: 10})
	if err := <-written; err != nil {
		t.Fatal(err)
	}
}

func TestASlowReaderHoldsOneWindowAndNoMore(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	chunk := make([]byte, Window/8)
	for i := 0; i < 8; i++ {
		h.feed(t, frame{kind: typeData, stream: 1, body: chunk})
	}
	if err := h.session.Feed(encode(frame{kind: typeData, stream: 1, body: []byte{1}})); err == nil {
		t.Fatal("a byte beyond the window was taken")
	}
	if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, ErrClosed) {
		t.Fatalf("a stream of a broken session reads: %v", err)
	}
}

func TestReadingGivesTheWindowBack(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	sent := 0
	total := 5 * Window
	buffer := make([]byte, 10000)
	granted, read := Window, 0
	seen := 1
	for read < total {
		for sent < total && granted > 0 {
			n := 32768
			if n > granted {
				n = granted
			}
			if n > total-sent {
				n = total - sent
			}
			h.feed(t, frame{kind: typeData, stream: 1, body: make([]byte, n)})
			sent, granted = sent+n, granted-n
		}
		n, err := stream.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		read += n
		h.mu.Lock()
		for ; seen < len(h.frames); seen++ {
			granted += int(h.frames[seen].length)
		}
		h.mu.Unlock()
	}
}

func TestAnAnnouncedFrameBeyondTheWindowIsRefusedBeforeItsBytesCome(t *testing.T) {
	h := newHost()
	h.open(t, 1)
	if err := h.session.Feed(encode(frame{kind: typeData, stream: 1, length: 1 << 31})); err == nil {
		t.Fatal("a frame of 2 GiB was accepted")
	}
}

func TestAWindowThatOverflowsEndsTheSession(t *testing.T) {
	h := newHost()
	h.open(t, 1)
	if err := h.session.Feed(encode(frame{kind: typeWindow, stream: 1, length: 1<<32 - 1})); err == nil {
		t.Fatal("a window of more than 32 bits was accepted")
	}
}

func TestAResetFailsReadsAndWritesAndTellsDone(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	failed := make(chan error, 2)
	go func() {
		_, err := stream.Write(make([]byte, 2*Window))
		failed <- err
	}()
	go func() {
		_, err := stream.Read(make([]byte, 1))
		failed <- err
	}()
	h.feed(t, frame{kind: typeWindow, flags: flagRST, stream: 1})
	for i := 0; i < 2; i++ {
		if err := <-failed; err == nil {
			t.Fatal("a reset stream goes on")
		}
	}
	<-stream.(*Stream).Done()
	h.feed(t, frame{kind: typeData, stream: 1, body: []byte("late")}) // what was under way is dropped
}

func TestClosingSendsFinAndThenAResetUnlessTheHostHasEnded(t *testing.T) {
	h := newHost()
	h.open(t, 1).Close()
	stream := h.open(t, 3)
	h.feed(t, frame{kind: typeWindow, flags: flagFIN, stream: 3})
	stream.Close()
	h.until(t, "both are closed", func(f []frame) bool {
		var flags []uint16
		for _, one := range f {
			if one.flags != flagACK {
				flags = append(flags, one.flags)
			}
		}
		return len(flags) == 3 && flags[0] == flagFIN && flags[1] == flagRST && flags[2] == flagFIN
	})
	if len(h.session.streams) != 0 {
		t.Fatalf("%d streams are remembered", len(h.session.streams))
	}
}

func TestPingsAreAnswered(t *testing.T) {
	h := newHost()
	h.feed(t, frame{kind: typePing, flags: flagSYN, length: 42})
	h.until(t, "the answer came", func(f []frame) bool { return len(f) == 1 && f[0].flags == flagACK && f[0].length == 42 })
}

func TestWhatBreaksTheFramingEndsTheSession(t *testing.T) {
	for name, wire := range map[string][]byte{
		"version":       {1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"type":          {0, 9, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0},
		"even id":       {0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0},
		"id 0":          {0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0},
		"going away":    {0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
		"too much data": {0, 0, 0, 1, 0, 0, 0, 1, 0, 4, 0, 1},
	} {
		h := newHost()
		if h.session.Feed(wire) == nil {
			t.Errorf("%s was accepted", name)
		}
		if _, err := h.session.Accept(); err == nil {
			t.Errorf("%s: the session still accepts", name)
		}
	}
	h := newHost()
	h.open(t, 1)
	if h.session.Feed(encode(frame{kind: typeWindow, flags: flagSYN, stream: 1})) == nil {
		t.Error("a stream was opened twice")
	}
}

func TestTooManyStreamsEndTheSessionAndNeverBlockItsReader(t *testing.T) {
	for _, reset := range []bool{false, true} {
		h := newHost()
		ended := make(chan int, 1)
		go func() {
			for i := 0; ; i++ {
				if h.session.Feed(encode(frame{kind: typeWindow, flags: flagSYN, stream: uint32(2*i + 1)})) != nil {
					ended <- i
					return
				}
				if reset {
					_ = h.session.Feed(encode(frame{kind: typeWindow, flags: flagRST, stream: uint32(2*i + 1)}))
				}
			}
		}()
		select {
		case n := <-ended:
			if n != maxStreams {
				t.Errorf("the session ended at %d streams", n)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("the reader is blocked")
		}
	}
}

func TestManyStreamsAtOnceKeepTheirBytesApart(t *testing.T) {
	h := newHost()
	const streams, size = 100, 50000
	var all sync.WaitGroup
	for i := 0; i < streams; i++ {
		id := uint32(2*i + 1)
		stream := h.open(t, id)
		all.Add(1)
		go func() {
			defer all.Done()
			body := make([]byte, size)
			if _, err := io.ReadFull(stream, body); err != nil {
				t.Error(err)
			}
			if _, err := stream.Write(body); err != nil {
				t.Error(err)
			}
			stream.Close()
		}()
	}
	body := func(id uint32) []byte { return bytes.Repeat([]byte{byte(id), byte(id >> 8), 7}, size/3+1)[:size] }
	for from := 0; from < size; from += 5000 {
		for i := 0; i < streams; i++ {
			id := uint32(2*i + 1)
			h.feed(t, frame{kind: typeData, stream: id, body: body(id)[from : from+5000]})
		}
	}
	all.Wait()
	for i := 0; i < streams; i++ {
		id := uint32(2*i + 1)
		if !bytes.Equal(dataOf(h.frames, id), body(id)) {
			t.Errorf("stream %d got other bytes", id)
		}
	}
}

func TestClosingASessionFreesAllWhoWaitAndSilencesIt(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	failed := make(chan error, 3)
	go func() { _, err := stream.Read(make([]byte, 1)); failed <- err }()
	go func() { _, err := stream.Write(make([]byte, 2*Window)); failed <- err }()
	go func() { _, err := h.session.Accept(); failed <- err }()
	h.until(t, "the writer waits", func(f []frame) bool { return len(dataOf(f, 1)) == Window })
	h.session.Close()
	for i := 0; i < 3; i++ {
		if err := <-failed; err == nil {
			t.Fatal("nothing failed")
		}
	}
	h.mu.Lock()
	before := len(h.frames)
	h.mu.Unlock()
	stream.Close()
	_ = h.session.write(typePing, flagSYN, 0, 1, nil)
	if h.mu.Lock(); len(h.frames) != before {
		t.Fatal("a closed session writes")
	}
	h.mu.Unlock()
}

func TestDeadlinesEndWaitingAndCanBeLifted(t *testing.T) {
	h := newHost()
	stream := h.open(t, 1)
	var timeout net.Error
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := stream.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("read: %v", err)
	}
	_ = stream.SetDeadline(time.Now().Add(-time.Second))
	if _, err := stream.Write([]byte{1}); !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Fatalf("write: %v", err)
	}
	_ = stream.SetDeadline(time.Time{})
	h.feed(t, frame{kind: typeData, stream: 1, body: []byte("x")})
	if n, err := stream.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
}

func TestRandomInputNeverPanicsAndAlwaysEndsOrGoesOn(t *testing.T) {
	random := rand.New(rand.NewSource(7))
	for round := 0; round < 2000; round++ {
		h := newHost()
		go func() {
			for {
				stream, err := h.session.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(io.Discard, stream) }()
			}
		}()
		for i := 0; i < 30; i++ {
			var wire []byte
			if random.Intn(4) == 0 {
				wire = make([]byte, random.Intn(200))
				random.Read(wire)
			} else {
				wire = encode(frame{kind: byte(random.Intn(4)), flags: uint16(random.Intn(16)), stream: uint32(random.Intn(8)), body: make([]byte, random.Intn(300))})
			}
			if h.session.Feed(wire) != nil {
				break
			}
		}
		h.session.Close()
	}
}
