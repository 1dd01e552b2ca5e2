// Package yamux is the guest's side of the stream multiplexing of protocol.md, section 2: it accepts streams, it never opens one.
// A Session is fed with bytes (Feed) and writes frames to one writer; it knows nothing of the channel under it.
package yamux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

const (
	headerSize = 12
	// Window is the receive window of each stream, in bytes.
	Window = 262144
	// MaxFrame is the largest data frame that is sent, in bytes: with its header it is what a virtio-serial port takes in one write.
	MaxFrame = 32768 - headerSize
	// maxStreams bounds what a broken host can make the agent hold.
	maxStreams = 1024
	// maxRenewal bounds a renewal, in bytes.
	maxRenewal = 1 << 20
)

const (
	typeData   = 0
	typeWindow = 1
	typePing   = 2
	typeGoAway = 3
	// typeRenewal is not yamux's but protocol.md's: a message of the host that is answered before anything after it is read.
	typeRenewal = 16

	flagSYN = 1
	flagACK = 2
	flagFIN = 4
	flagRST = 8
)

// ErrClosed is what streams and Accept return when their session has ended.
var ErrClosed = errors.New("yamux: session closed")

// Handlers is what a session is for; either may be nil.
type Handlers struct {
	// Serve accepts the streams, in a goroutine of its own that begins with the first stream, until the session is closed.
	Serve func(*Session)
	// Renew answers a renewal. What comes behind it waits.
	Renew func(message []byte) []byte
}

// Session is one multiplexed connection. It is a net.Listener of its streams.
type Session struct {
	handlers Handlers
	serving  bool

	writeMu  sync.Mutex // held while a frame is written; also guards silent and outgoing
	out      io.Writer
	silent   bool
	outgoing []byte // the frame being written; kept for the next

	mu       sync.Mutex
	streams  map[uint32]*Stream
	closed   bool
	accepted chan *Stream // made with the first stream: most sessions are asked one thing, and memory that a fork writes is its own
	done     chan struct{}

	header    [headerSize]byte
	headerLen int
	body      uint32 // bytes of the present data frame that are still to come
	target    *Stream
	flags     uint16
	renewal   []byte // coming in; nil if none is
}

// NewSession makes a session that writes its frames to out.
func NewSession(out io.Writer, handlers Handlers) *Session {
	return &Session{handlers: handlers, out: out, streams: map[uint32]*Stream{}, done: make(chan struct{})}
}

// Feed takes bytes as they come in. An error means that the session is broken and closed; the caller just stops feeding it.
func (s *Session) Feed(data []byte) error {
	for len(data) > 0 {
		if s.body > 0 {
			n := len(data)
			if uint32(n) > s.body {
				n = int(s.body)
			}
			if s.target != nil {
				s.target.receive(data[:n])
			} else if s.renewal != nil {
				s.renewal = append(s.renewal, data[:n]...)
			}
			s.body -= uint32(n)
			data = data[n:]
			if s.body == 0 {
				s.endOfFrame()
			}
			continue
		}
		n := copy(s.header[s.headerLen:], data)
		s.headerLen += n
		data = data[n:]
		if s.headerLen < headerSize {
			return nil
		}
		s.headerLen = 0
		if err := s.frame(); err != nil {
			s.Close()
			return err
		}
	}
	return nil
}

func (s *Session) frame() error {
	version, kind := s.header[0], s.header[1]
	flags := binary.BigEndian.Uint16(s.header[2:])
	id := binary.BigEndian.Uint32(s.header[4:])
	length := binary.BigEndian.Uint32(s.header[8:])
	if version != 0 {
		return fmt.Errorf("yamux: version %d", version)
	}
	switch kind {
	case typePing:
		if flags&flagSYN != 0 {
			return s.write(typePing, flagACK, 0, length, nil)
		}
		return nil
	case typeGoAway:
		return errors.New("yamux: the host is going away")
	case typeRenewal:
		if s.handlers.Renew == nil || length > maxRenewal {
			return fmt.Errorf("yamux: a renewal of %d bytes", length)
		}
		s.renewal, s.flags, s.body = make([]byte, 0, length), 0, length
		if length == 0 {
			s.endOfFrame()
		}
		return nil
	case typeData, typeWindow:
	default:
		return fmt.Errorf("yamux: frame type %d", kind)
	}
	stream, err := s.streamOf(id, flags)
	if err != nil {
		return err
	}
	if kind == typeWindow {
		if stream != nil {
			if err := stream.grow(length); err != nil {
				return err
			}
		}
		s.applyFlags(stream, flags)
		return nil
	}
	if stream != nil {
		if err := stream.announce(length); err != nil {
			return err
		}
	}
	s.target, s.flags, s.body = stream, flags, length
	if length == 0 {
		s.endOfFrame()
	}
	return nil
}

func (s *Session) endOfFrame() {
	if message := s.renewal; message != nil {
		s.renewal = nil
		if s.isClosed() { // nobody is left to hear what became of it
			return
		}
		answer := s.handlers.Renew(message)
		_ = s.write(typeRenewal, 0, 0, uint32(len(answer)), answer) // the host has gone: nobody is left to be told
		return
	}
	s.applyFlags(s.target, s.flags)
	s.target = nil
}

func (s *Session) applyFlags(stream *Stream, flags uint16) {
	if stream == nil {
		return
	}
	if flags&flagRST != 0 {
		stream.reset()
	} else if flags&flagFIN != 0 {
		stream.remoteClosed()
	}
}

// streamOf finds the stream of a frame, or opens it. Frames of a stream that has ended are dropped: nil, nil.
func (s *Session) streamOf(id uint32, flags uint16) (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	stream := s.streams[id]
	if flags&flagSYN == 0 || s.closed {
		return stream, nil
	}
	if stream != nil || id%2 == 0 {
		return nil, fmt.Errorf("yamux: the host can't open stream %d", id)
	}
	if len(s.streams) >= maxStreams {
		return nil, errors.New("yamux: too many streams")
	}
	stream = newStream(s, id)
	select {
	case s.queue() <- stream:
	default: // opened and reset faster than they are accepted: waiting here would stop the reader of the channel
		return nil, errors.New("yamux: too many streams")
	}
	s.streams[id] = stream
	if !s.serving && s.handlers.Serve != nil {
		s.serving = true
		go s.handlers.Serve(s)
	}
	return stream, nil
}

// queue is where opened streams wait. The caller holds mu.
func (s *Session) queue() chan *Stream {
	if s.accepted == nil {
		s.accepted = make(chan *Stream, maxStreams)
	}
	return s.accepted
}

// Accept returns the next stream that the host opened.
func (s *Session) Accept() (net.Conn, error) {
	s.mu.Lock()
	accepted := s.queue()
	s.mu.Unlock()
	select {
	case stream := <-accepted:
		if err := s.write(typeWindow, flagACK, stream.id, 0, nil); err != nil {
			return nil, err
		}
		return stream, nil
	case <-s.done:
		return nil, ErrClosed
	}
}

// Close ends the session and all its streams. When it returns, not one byte more is written.
func (s *Session) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	streams := s.streams
	s.streams = map[uint32]*Stream{}
	close(s.done)
	s.mu.Unlock()
	for _, stream := range streams {
		stream.abandon()
	}
	s.Silence()
	return nil
}

func (s *Session) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// Silence ends what the session writes: when it returns, not one byte more comes. Whoever uses the session learns of its end by Close.
func (s *Session) Silence() {
	s.writeMu.Lock()
	s.silent = true
	s.writeMu.Unlock()
}

// Addr is there for net.Listener.
func (s *Session) Addr() net.Addr { return address{} }

func (s *Session) forget(id uint32) {
	s.mu.Lock()
	delete(s.streams, id)
	s.mu.Unlock()
}

func (s *Session) write(kind uint8, flags uint16, id uint32, length uint32, body []byte) error {
	var header [headerSize]byte
	header[1] = kind
	binary.BigEndian.PutUint16(header[2:], flags)
	binary.BigEndian.PutUint32(header[4:], id)
	binary.BigEndian.PutUint32(header[8:], length)
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if s.silent {
		return ErrClosed
	}
	s.outgoing = append(append(s.outgoing[:0], header[:]...), body...)
	_, err := s.out.Write(s.outgoing)
	return err
}

type address struct{}

func (address) Network() string { return "yamux" }
func (address) String() string  { return "host" }
