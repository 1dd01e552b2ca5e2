package agent

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hypeman/guest/channel"
)

// slowPrograms has a program wait before it is started, as while all stand still, until the test releases it.
type slowPrograms struct {
	*fakePrograms
	waits, release chan struct{}
	started        chan error
}

func (p *slowPrograms) Start(start func() (int, error)) error {
	close(p.waits)
	<-p.release
	_, err := start()
	p.started <- err
	return err
}

// frameOf is a frame of the session (protocol.md, section 2).
func frameOf(kind byte, flags uint16, stream uint32, body string) []byte {
	frame := make([]byte, 12, 12+len(body))
	frame[1] = kind
	binary.BigEndian.PutUint16(frame[2:], flags)
	binary.BigEndian.PutUint32(frame[4:], stream)
	binary.BigEndian.PutUint32(frame[8:], uint32(len(body)))
	return append(frame, body...)
}

// hostOf is what one host sends: its preamble, and frames.
func hostOf(nonce byte, frames ...[]byte) []byte {
	return bytes.Join(append([][]byte{channel.HostMagic, bytes.Repeat([]byte{nonce}, 16)}, frames...), nil)
}

func TestWhatHasWaitedIsStartedOnlyForAHostThatIsThere(t *testing.T) {
	const data, renewal, open = 0, 16, 1
	for name, isFork := range map[string]bool{"source": false, "fork": true} {
		t.Run(name, func(t *testing.T) {
			r, mark := newRig(t), filepath.Join(t.TempDir(), "mark")
			programs := &slowPrograms{&fakePrograms{guest: r.guest}, make(chan struct{}), make(chan struct{}), make(chan error, 1)}
			r.server.Programs = programs
			guest := channel.New(&safeBuffer{}, r.server.Handlers())
			t.Cleanup(guest.End)
			start, err := json.Marshal(execStart{Argv: []string{"sh", "-c", "echo >" + mark}})
			if err != nil {
				t.Fatal(err)
			}
			request := "POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n"
			head := append([]byte{frameStart, 0, 0, 0, 0}, start...)
			binary.BigEndian.PutUint32(head[1:], uint32(len(start)))
			send := func(piece []byte) {
				if err := guest.Run(bytes.NewReader(piece)); err != io.EOF {
					t.Fatal(err)
				}
			}
			send(hostOf(1, frameOf(data, open, 1, request+string(head))))
			<-programs.waits
			if isFork {
				send(hostOf(2, frameOf(renewal, 0, 0, renewalOf(bodyOf("i2", map[string]any{"reason": "fork", "generation": 1})))))
			}
			close(programs.release)
			err = <-programs.started
			if isFork {
				if err != errHungUp {
					t.Fatal(err)
				}
				if _, err := os.Stat(mark); err == nil {
					t.Fatal("it was started")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			waitUntil(t, "it has run", func() bool { _, err := os.Stat(mark); return err == nil })
		})
	}
}
