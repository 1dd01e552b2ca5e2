// Package channel turns one byte stream to the host into sessions: it watches for the preamble of protocol.md, section 1, at every
// point of the input, and starts a fresh session each time.
package channel

import (
	"bytes"
	"io"

	"hypeman/guest/yamux"
)

// HostMagic begins the host's preamble, GuestMagic the answer. Each is followed by the host's 16-byte nonce.
var (
	HostMagic  = []byte{0x9d, 0x1e, 0x48, 0x59, 0x50, 0x45, 0x4d, 0x41, 0x4e, 0x00, 0xa7, 0xc3, 0x5b, 0xe2, 0x01, 0xf6}
	GuestMagic = []byte{0xe1, 0x7a, 0x48, 0x59, 0x50, 0x45, 0x4d, 0x41, 0x4e, 0x00, 0x3c, 0x99, 0xd4, 0x10, 0x01, 0x8b}
)

const (
	nonceSize = 16
	readSize  = 65536
)

// Channel reads one byte stream.
type Channel struct {
	out      io.Writer
	handlers yamux.Handlers
	session  *yamux.Session
	// past sessions write nothing any more. They are closed when the host's first frame has been answered: a fork's identity does not wait for the ends of
	// all that went on in its source.
	past    []*yamux.Session
	matched int    // bytes of HostMagic seen last
	nonce   []byte // being read; nil if none is
	// buffer is made once: a guest whose host is away runs again and again, and memory that it writes is memory that its snapshots hold.
	buffer []byte
}

// New makes a channel that answers on out; each session gets the handlers.
// Writes to out must not fail for good while in still gives bytes.
func New(out io.Writer, handlers yamux.Handlers) *Channel {
	return &Channel{out: out, handlers: handlers, buffer: make([]byte, readSize)}
}

// Run reads until in fails; io.EOF from in is returned as it is. The session, if any, goes on: the host may come back, and then begins anew.
func (c *Channel) Run(in io.Reader) error {
	for {
		n, err := in.Read(c.buffer)
		c.take(c.buffer[:n])
		if err != nil {
			c.closePast()
			return err
		}
	}
}

// End closes the running session.
func (c *Channel) End() {
	c.retire()
	c.closePast()
}

func (c *Channel) retire() {
	if c.session != nil {
		c.session.Silence()
		c.past = append(c.past, c.session)
		c.session = nil
	}
}

func (c *Channel) closePast() {
	for _, session := range c.past {
		session.Close()
	}
	c.past = nil
}

func (c *Channel) take(data []byte) {
	start := 0 // what is before it went to the session
	for i := 0; i < len(data); i++ {
		b := data[i]
		if c.nonce == nil && c.matched == 0 && b != HostMagic[0] {
			// Nearly all bytes are passed over here.
			next := bytes.IndexByte(data[i:], HostMagic[0])
			if next < 0 {
				break
			}
			i += next
			b = data[i]
		}
		// No proper prefix of HostMagic is a suffix of a longer one (its first byte occurs once), so falling back to 0 or 1 is exact.
		switch {
		case b == HostMagic[c.matched]:
			c.matched++
		case b == HostMagic[0]:
			c.matched = 1
		default:
			c.matched = 0
		}
		switch {
		case c.matched == len(HostMagic): // also inside a nonce: the connection that sent that one may have been cut
			c.matched = 0
			c.nonce = make([]byte, 0, nonceSize)
			c.retire()
			start = i + 1
		case c.nonce != nil:
			c.nonce = append(c.nonce, b)
			start = i + 1
			if len(c.nonce) == nonceSize {
				c.begin()
			}
		}
	}
	if c.session != nil && start < len(data) {
		if c.session.Feed(data[start:]) != nil {
			c.session = nil // broken: everything up to the next preamble is noise
		}
		c.closePast()
	}
}

func (c *Channel) begin() {
	answer := append(append([]byte{}, GuestMagic...), c.nonce...)
	c.nonce = nil
	if _, err := c.out.Write(answer); err != nil {
		return
	}
	c.session = yamux.NewSession(c.out, c.handlers)
}
