// Package output keeps what the program wrote until the host has it, where no device takes it to the host's log by itself (protocol.md, section 5).
package output

import (
	"bytes"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// mostKept bounds what is kept for a host that does not read; the oldest goes first.
	mostKept = 1 << 20
	// frameSize is the most that one DATA frame carries.
	frameSize = 32768
	// longestLine is more than any line of the host's has.
	longestLine = 256
)

// Log is written by the program and read by one host at a time.
type Log struct {
	mu   sync.Mutex
	more sync.Cond
	// kept are the last bytes that were written, up to end, counted from the boot of the guest. What the host has is kept as well: it may have been frozen on its way.
	kept []byte
	end  int64
	// has is what the host says it has.
	has int64
	// current is the session that sends; an older one stops.
	current *session
}

type session struct {
	next int64
	over bool
}

// New makes an empty log.
func New() *Log {
	log := &Log{}
	log.more.L = &log.mu
	return log
}

// Write never waits for the host and never fails.
func (l *Log) Write(data []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kept = append(l.kept, data...)
	l.end += int64(len(data))
	if len(l.kept) > 2*mostKept {
		l.kept = append([]byte(nil), l.kept[len(l.kept)-mostKept:]...)
	}
	l.more.Broadcast()
	return len(data), nil
}

// Flush waits until the host has everything, but not longer than the limit.
func (l *Log) Flush(limit time.Duration) {
	deadline := time.Now().Add(limit)
	timer := time.AfterFunc(limit, func() { // under the lock: not before the wait below has begun
		l.mu.Lock()
		defer l.mu.Unlock()
		l.more.Broadcast()
	})
	defer timer.Stop()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.has < l.end && time.Now().Before(deadline) {
		l.more.Wait()
	}
}

// Serve speaks to the host until the stream can't be read any more. The stream may be one that outlives its hosts: each of them begins with a LOG line.
func (l *Log) Serve(stream io.ReadWriter) error {
	var mine *session
	defer func() { l.stop(mine) }()
	out := &sync.Mutex{}
	buffer := make([]byte, 4096)
	var line []byte
	for {
		n, err := stream.Read(buffer)
		for _, b := range buffer[:n] {
			if b != '\n' {
				if len(line) <= longestLine {
					line = append(line, b)
				}
				continue
			}
			if started := l.take(string(line)); started != nil {
				l.stop(mine)
				mine = started
				go l.send(started, stream, out, nonceOf(string(line)))
			}
			line = line[:0]
		}
		if err != nil {
			return err
		}
	}
}

func nonceOf(line string) string {
	return strings.Fields(line)[1]
}

// take follows a line of the host's; a session is returned if one begins. Lines that are cut or unknown are passed over.
func (l *Log) take(line string) *session {
	fields := strings.Fields(line)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case len(fields) == 3 && fields[0] == "LOG":
		after, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil || after < 0 || after > l.end {
			after = 0 // it speaks of another boot: it gets what there is
		} else if after > l.has {
			l.has = after
		}
		if l.current != nil {
			l.current.over = true
		}
		l.current = &session{next: after}
		l.more.Broadcast()
		return l.current
	case len(fields) == 2 && fields[0] == "ACK":
		has, err := strconv.ParseInt(fields[1], 10, 64)
		if err == nil && has > l.has && has <= l.end {
			l.has = has
			l.more.Broadcast()
		}
	}
	return nil
}

func (l *Log) stop(one *session) {
	if one == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one.over = true
	l.more.Broadcast()
}

// send writes the answer and then what there is, as it comes. Whoever was in the middle of a frame ends it first: the host finds its answer behind it.
func (l *Log) send(mine *session, stream io.Writer, out *sync.Mutex, nonce string) {
	out.Lock()
	defer out.Unlock()
	if _, err := fmt.Fprintf(stream, "\nLOG %s\n", nonce); err != nil {
		return
	}
	for {
		frame := l.next(mine)
		if frame == nil {
			return
		}
		if _, err := stream.Write(frame); err != nil {
			return
		}
	}
}

// next waits for the next frame; nil when the session is over.
func (l *Log) next(mine *session) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !mine.over && mine.next >= l.end {
		l.more.Wait()
	}
	if mine.over {
		return nil
	}
	first := l.end - int64(len(l.kept))
	if mine.next < first {
		mine.next = first
	}
	data := l.kept[mine.next-first:]
	if len(data) > frameSize {
		data = data[:frameSize]
	}
	frame := bytes.NewBufferString(fmt.Sprintf("DATA %d %d\n", mine.next, len(data)))
	frame.Write(data)
	mine.next += int64(len(data))
	return frame.Bytes()
}
