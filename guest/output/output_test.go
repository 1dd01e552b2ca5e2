package output

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"testing"
	"time"
)

// host is the other end of a log's stream.
type host struct {
	net.Conn
	in *bufio.Reader
}

func serve(log *Log) *host {
	near, far := net.Pipe()
	go func() { _ = log.Serve(near) }()
	return &host{far, bufio.NewReader(far)}
}

func (h *host) say(t *testing.T, text string) {
	t.Helper()
	if err := h.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(h, text); err != nil {
		t.Fatal(err)
	}
}

// begin asks for the log and passes over everything before the answer.
func (h *host) begin(t *testing.T, nonce string, after int) {
	t.Helper()
	h.say(t, fmt.Sprintf("\nLOG %s %d\n", nonce, after))
	for {
		line, err := h.in.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == "LOG "+nonce+"\n" {
			return
		}
	}
}

func (h *host) frame(t *testing.T) (int, string) {
	t.Helper()
	var offset, length int
	line, err := h.in.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscanf(line, "DATA %d %d\n", &offset, &length); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	data := make([]byte, length)
	if _, err := io.ReadFull(h.in, data); err != nil {
		t.Fatal(err)
	}
	return offset, string(data)
}

func (h *host) expect(t *testing.T, offset int, text string) {
	t.Helper()
	if at, data := h.frame(t); at != offset || data != text {
		t.Fatalf("%d %q instead of %d %q", at, data, offset, text)
	}
}

func write(t *testing.T, log *Log, text string) {
	t.Helper()
	if n, err := log.Write([]byte(text)); n != len(text) || err != nil {
		t.Fatal(n, err)
	}
}

func TestAHostGetsWhatWasWrittenBeforeAndAfterItCame(t *testing.T) {
	log := New()
	write(t, log, "before\n")
	host := serve(log)
	defer host.Close()
	host.begin(t, "a", 0)
	host.expect(t, 0, "before\n")
	write(t, log, "after\n")
	host.expect(t, 7, "after\n")
}

func TestAHostThatComesBackGetsWhatItHasNot(t *testing.T) {
	log := New()
	write(t, log, "one two")
	first := serve(log)
	first.begin(t, "a", 0)
	first.expect(t, 0, "one two")
	first.Close()
	write(t, log, " three")
	second := serve(log)
	defer second.Close()
	second.begin(t, "b", 4)
	second.expect(t, 4, "two three")
}

func TestAPositionThatThereIsNotMeansEverything(t *testing.T) {
	log := New()
	write(t, log, "text")
	host := serve(log)
	defer host.Close()
	host.begin(t, "a", 99)
	host.expect(t, 0, "text")
}

// A stream that outlives its hosts, as a virtio-serial port does: the next host begins where the last one was cut, at any byte.
func TestOnOneStreamTheNextHostBeginsWhereverTheLastWasCut(t *testing.T) {
	said := "\nLOG first 0\nACK 3\n"
	for cut := 0; cut <= len(said); cut++ {
		log := New()
		write(t, log, "text")
		host := serve(log)
		done := make(chan struct{})
		go func() {
			defer close(done)
			host.say(t, said[:cut])
			host.say(t, "\nLOG second 1\n")
		}()
		for {
			line, err := host.in.ReadString('\n')
			if err != nil {
				t.Fatalf("cut %d: %v", cut, err)
			}
			if line == "LOG second\n" {
				break
			}
		}
		host.expect(t, 1, "ext")
		<-done
		host.Close()
	}
}

func TestTheOldestIsDroppedForAHostThatDoesNotRead(t *testing.T) {
	log := New()
	block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
	total := 0
	for total < 5*mostKept {
		write(t, log, string(block))
		total += len(block)
	}
	host := serve(log)
	defer host.Close()
	host.begin(t, "a", 0)
	first, data := host.frame(t)
	if first < total-2*mostKept-len(block) || first > total-mostKept {
		t.Fatalf("it begins at %d of %d", first, total)
	}
	for next := first + len(data); next < total; {
		at, data := host.frame(t)
		if at != next {
			t.Fatalf("%d instead of %d", at, next)
		}
		next += len(data)
	}
}

func TestFlushWaitsForTheHostToHaveEverything(t *testing.T) {
	log := New()
	write(t, log, "last words")
	host := serve(log)
	defer host.Close()
	flushed := make(chan struct{})
	go func() {
		log.Flush(time.Minute)
		close(flushed)
	}()
	host.begin(t, "a", 0)
	host.expect(t, 0, "last words")
	host.say(t, "ACK 4\n")
	select {
	case <-flushed:
		t.Fatal("it did not wait for the rest")
	default:
	}
	host.say(t, "ACK 10\n")
	select {
	case <-flushed:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits for good")
	}
}

func TestFlushDoesNotWaitForWhatAHostHadBeforeItCameBack(t *testing.T) {
	log := New()
	write(t, log, "last words")
	host := serve(log)
	defer host.Close()
	host.begin(t, "a", len("last words"))
	flushed := make(chan struct{})
	go func() {
		log.Flush(time.Minute)
		close(flushed)
	}()
	select {
	case <-flushed:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits for an acknowledgement that never comes")
	}
}

func TestFlushGivesUpWithoutAHost(t *testing.T) {
	log := New()
	log.Flush(time.Minute) // nothing is due
	write(t, log, "x")
	log.Flush(time.Millisecond)
}
