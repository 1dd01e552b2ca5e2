package yamux

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

var errReset = errors.New("yamux: stream reset by the host")

// Stream is one connection of a session. Reads grant window as they consume, so a slow reader holds at most one window of memory.
type Stream struct {
	session *Session
	id      uint32

	mu          sync.Mutex
	changed     *sync.Cond
	buffer      []byte
	granted     uint32 // what the host may still send
	consumed    uint32 // read, but not granted again yet
	sendWindow  uint32
	remoteDone  bool
	localDone   bool
	err         error
	read, write deadline
	done        chan struct{}
	doneOnce    sync.Once
}

func newStream(session *Session, id uint32) *Stream {
	s := &Stream{session: session, id: id, granted: Window, sendWindow: Window, done: make(chan struct{})}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// Done is closed when the host has ended its side, by FIN or RST, or the session has ended.
func (s *Stream) Done() <-chan struct{} { return s.done }

func (s *Stream) hostIsDone() { s.doneOnce.Do(func() { close(s.done) }) }

// announce counts a data frame against the window.
func (s *Stream) announce(length uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if length > s.granted {
		return errors.New("yamux: the host sent more than the window allows")
	}
	s.granted -= length
	return nil
}

func (s *Stream) receive(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil || s.localDone {
		return // nobody will read it
	}
	s.buffer = append(s.buffer, data...)
	s.changed.Broadcast()
}

func (s *Stream) grow(delta uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sendWindow+delta < delta {
		return errors.New("yamux: the host's window is larger than it can be")
	}
	s.sendWindow += delta
	s.changed.Broadcast()
	return nil
}

func (s *Stream) remoteClosed() {
	s.hostIsDone()
	s.mu.Lock()
	s.remoteDone = true
	both := s.localDone
	s.changed.Broadcast()
	s.mu.Unlock()
	if both {
		s.session.forget(s.id)
	}
}

func (s *Stream) fail(err error) {
	s.hostIsDone()
	s.mu.Lock()
	if s.err == nil {
		s.err = err
	}
	s.changed.Broadcast()
	s.mu.Unlock()
}

func (s *Stream) reset() {
	s.fail(errReset)
	s.session.forget(s.id)
}

func (s *Stream) abandon() { s.fail(ErrClosed) }

// Read returns what has come in; io.EOF after the host's end of the stream.
func (s *Stream) Read(p []byte) (int, error) {
	s.mu.Lock()
	for len(s.buffer) == 0 && s.err == nil && !s.remoteDone && !s.read.expired() {
		s.changed.Wait()
	}
	switch {
	case s.err != nil:
		s.mu.Unlock()
		return 0, s.err
	case len(s.buffer) > 0 && !s.read.expired():
	case s.read.expired():
		s.mu.Unlock()
		return 0, os.ErrDeadlineExceeded
	default:
		s.mu.Unlock()
		return 0, io.EOF
	}
	n := copy(p, s.buffer)
	s.buffer = s.buffer[n:]
	if len(s.buffer) == 0 {
		s.buffer = nil
	}
	s.consumed += uint32(n)
	grant := uint32(0)
	if s.consumed >= Window/2 && !s.remoteDone {
		grant = s.consumed
		s.granted += grant
		s.consumed = 0
	}
	s.mu.Unlock()
	if grant > 0 {
		if err := s.session.write(typeWindow, 0, s.id, grant, nil); err != nil {
			return n, err
		}
	}
	return n, nil
}

// Write sends all of p, as the host's window allows.
func (s *Stream) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		s.mu.Lock()
		for s.sendWindow == 0 && s.err == nil && !s.localDone && !s.write.expired() {
			s.changed.Wait()
		}
		if err := s.writeError(); err != nil {
			s.mu.Unlock()
			return written, err
		}
		n := len(p) - written
		if n > MaxFrame {
			n = MaxFrame
		}
		if uint32(n) > s.sendWindow {
			n = int(s.sendWindow)
		}
		s.sendWindow -= uint32(n)
		s.mu.Unlock()
		if err := s.session.write(typeData, 0, s.id, uint32(n), p[written:written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

func (s *Stream) writeError() error {
	switch {
	case s.err != nil:
		return s.err
	case s.localDone:
		return net.ErrClosed
	case s.write.expired():
		return os.ErrDeadlineExceeded
	}
	return nil
}

// Close ends this side. What was read but not consumed is dropped; if the host has not ended its side, the stream is reset.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.localDone {
		s.mu.Unlock()
		return nil
	}
	s.localDone = true
	failed, remoteDone := s.err != nil, s.remoteDone
	s.read.stop()
	s.write.stop()
	s.changed.Broadcast()
	s.mu.Unlock()
	s.session.forget(s.id)
	if failed {
		return nil
	}
	// FIN first, so that the host reads everything; then RST, unless the host has ended too: nobody reads what it would still send.
	err := s.session.write(typeWindow, flagFIN, s.id, 0, nil)
	if err == nil && !remoteDone {
		err = s.session.write(typeWindow, flagRST, s.id, 0, nil)
	}
	s.fail(net.ErrClosed)
	return err
}

// deadline is a point in time after which one direction fails; the timer wakes who waits.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) expired() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}

// SetDeadline sets both deadlines.
func (s *Stream) SetDeadline(t time.Time) error {
	_ = s.SetReadDeadline(t)
	return s.SetWriteDeadline(t)
}

// SetReadDeadline makes reads fail from then on; the zero time lifts it.
func (s *Stream) SetReadDeadline(t time.Time) error { return s.setDeadline(&s.read, t) }

// SetWriteDeadline makes writes fail from then on; the zero time lifts it.
func (s *Stream) SetWriteDeadline(t time.Time) error { return s.setDeadline(&s.write, t) }

func (s *Stream) setDeadline(which *deadline, t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	which.stop()
	which.at = t
	s.changed.Broadcast()
	if wait := time.Until(t); !t.IsZero() && wait > 0 && !s.localDone {
		which.timer = time.AfterFunc(wait, func() {
			s.mu.Lock()
			s.changed.Broadcast()
			s.mu.Unlock()
		})
	}
	return nil
}

// LocalAddr is there for net.Conn.
func (s *Stream) LocalAddr() net.Addr { return address{} }

// RemoteAddr is there for net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return address{} }
