package agent

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hypeman/guest/network"
	"hypeman/guest/process"
	"hypeman/guest/workload"
)

// One reaper for all tests: it waits for every child of this process.
var reaper = process.NewReaper()

// fakeGuest notes what a VM would have been asked for.
type fakeGuest struct {
	mu    sync.Mutex
	calls []string
	fail  map[string]error
}

func (g *fakeGuest) note(name, detail string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, strings.TrimSpace(name+" "+detail))
	return g.fail[name]
}

func (g *fakeGuest) noted() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return append([]string{}, g.calls...)
}

func (g *fakeGuest) AddEntropy(bytes []byte) error {
	return g.note("entropy", fmt.Sprint(len(bytes)))
}
func (g *fakeGuest) SetClock(now time.Time) error  { return g.note("clock", fmt.Sprint(now.UnixNano())) }
func (g *fakeGuest) SetHostname(name string) error { return g.note("hostname", name) }
func (g *fakeGuest) ReplaceBootID(id string) error { return g.note("boot-id", "") }
func (g *fakeGuest) SetNetwork(config network.Config) error {
	return g.note("network", config.MAC+" "+config.Address)
}
func (g *fakeGuest) ForgetNeighbours(mac string) error {
	return g.note("neighbours", mac)
}
func (g *fakeGuest) LookForConnections()     { _ = g.note("look for connections", "") }
func (g *fakeGuest) ResetConnections() error { return g.note("connections", "") }
func (g *fakeGuest) MountVolume(disk, path string, readOnly bool, layer int) error {
	return g.note("volume", fmt.Sprint(disk, " ", path, " ", readOnly, " ", layer))
}
func (g *fakeGuest) KeepInMemory(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	return g.note("keep in memory", "")
}
func (g *fakeGuest) Grow(wanted Growth, limit time.Duration) (Growth, error) {
	return Growth{Processors: wanted.Processors, MemoryBytes: wanted.MemoryBytes, DiskBytes: 1 << 30}, g.note("grow", fmt.Sprint(wanted.Processors, " ", wanted.MemoryBytes, " ", limit))
}
func (g *fakeGuest) PowerOff() { _ = g.note("power off", "") }

// fakePrograms notes with the guest's calls when all would stand still and go on.
type fakePrograms struct {
	guest  *fakeGuest
	mu     sync.Mutex
	frozen bool
}

func (p *fakePrograms) set(name string, frozen bool) error {
	if err := p.guest.note(name, ""); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = frozen
	return nil
}

func (p *fakePrograms) Freeze() error { return p.set("freeze", true) }
func (p *fakePrograms) Thaw() error   { return p.set("thaw", false) }
func (p *fakePrograms) Frozen() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.frozen
}
func (p *fakePrograms) Start(start func() (int, error)) error {
	_, err := start()
	return err
}
func (p *fakePrograms) StartHook(start func() (int, error)) error { return p.Start(start) }
func (p *fakePrograms) HooksEnded() error                         { return p.guest.note("hooks ended", "") }

// rig is a server on a socket, with a client.
type rig struct {
	t      *testing.T
	server *Server
	guest  *fakeGuest
	socket string
	client *http.Client
	log    *safeBuffer
	ended  chan workload.Status
}

type safeBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, guest: &fakeGuest{fail: map[string]error{}}, socket: filepath.Join(t.TempDir(), "agent.sock"), log: &safeBuffer{}, ended: make(chan workload.Status, 1)}
	program := &workload.Workload{Reaper: reaper, Log: r.log, Ended: func(status workload.Status) { r.ended <- status }}
	r.server = New(reaper, program, r.guest, &fakePrograms{guest: r.guest})
	r.server.Root = t.TempDir()
	listener, err := net.Listen("unix", r.socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go r.server.Serve(listener)
	r.client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", r.socket) }}}
	return r
}

func (r *rig) do(method, path string, body io.Reader) (int, []byte) {
	r.t.Helper()
	request, err := http.NewRequest(method, "http://guest"+path, body)
	if err != nil {
		r.t.Fatal(err)
	}
	answer, err := r.client.Do(request)
	if err != nil {
		r.t.Fatal(err)
	}
	defer answer.Body.Close()
	content, err := io.ReadAll(answer.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer.StatusCode, content
}

// boot sends the renewal of a boot and returns its steps and the state of the program in one line, or the refusal.
func (r *rig) boot(body map[string]any) string {
	r.t.Helper()
	body["reason"] = "boot"
	return r.renew(body)
}

// renew sends a renewal with the fields of bodyOf and returns its steps in one line, "what else they say after =, ? or !.
func (r *rig) renew(body map[string]any) string {
	r.t.Helper()
	answer := string(r.server.Renew([]byte(renewalOf(body))))
	var words []string
	for _, line := range strings.Split(strings.TrimSuffix(answer, "\n"), "\n") {
		fields := strings.SplitN(line, " ", 5)
		switch {
		case fields[0] == "time":
		case fields[0] == "workload" || fields[0] == "programs":
			words = append(words, fields[1])
		case fields[0] != "step":
			return line
		case fields[3] == "ok" && len(fields) == 4:
			words = append(words, fields[1])
		default: // name=note, name?warning, name!failure
			words = append(words, fields[1]+map[string]string{"ok": "=", "warned": "?", "failed": "!"}[fields[3]]+fields[4])
		}
	}
	return strings.Join(words, " ")
}

func renewalOf(body map[string]any) string {
	var message strings.Builder
	line := func(key string, value any) { fmt.Fprintf(&message, "%s %v\n", key, value) }
	keys := map[string]string{"instance_id": "instance", "machine_id": "machine-id", "time_unix_ns": "time"}
	for key, value := range body {
		switch value := value.(type) {
		case []string:
			for _, one := range value {
				line(key, one)
			}
		case map[string]any:
			for _, name := range []string{"mac", "address", "gateway", "mtu"} {
				line(name, value[name])
			}
			for _, server := range value["dns"].([]string) {
				line("dns", server)
			}
		default:
			if renamed, ok := keys[key]; ok {
				key = renamed
			}
			line(key, value)
		}
	}
	return message.String()
}

// ask demands a status and returns the answer's JSON.
func (r *rig) ask(status int, method, path string, body any) map[string]any {
	r.t.Helper()
	var content io.Reader
	switch body := body.(type) {
	case nil:
	case []byte:
		content = bytes.NewReader(body)
	case string:
		content = strings.NewReader(body)
	default:
		encoded, err := json.Marshal(body)
		if err != nil {
			r.t.Fatal(err)
		}
		content = bytes.NewReader(encoded)
	}
	got, answer := r.do(method, path, content)
	if got != status {
		r.t.Fatalf("%s %s: status %d, not %d: %s", method, path, got, status, answer)
	}
	var decoded map[string]any
	if err := json.Unmarshal(answer, &decoded); err != nil {
		r.t.Fatalf("%s: %s", err, answer)
	}
	return decoded
}

// program is an exec session from the host's side.
type program struct {
	t    *testing.T
	conn net.Conn
	in   *bufio.Reader
}

func (r *rig) exec(start execStart) *program {
	r.t.Helper()
	conn, err := net.Dial("unix", r.socket)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	fmt.Fprintf(conn, "POST /v1/exec HTTP/1.1\r\nHost: guest\r\nConnection: Upgrade\r\nUpgrade: hypeman-exec/1\r\n\r\n")
	p := &program{r.t, conn, bufio.NewReader(conn)}
	answer, err := http.ReadResponse(p.in, nil)
	if err != nil || answer.StatusCode != 101 {
		r.t.Fatal(answer, err)
	}
	encoded, err := json.Marshal(start)
	if err != nil {
		r.t.Fatal(err)
	}
	p.send(frameStart, encoded)
	return p
}

func (p *program) send(kind byte, payload []byte) {
	p.t.Helper()
	frame := append([]byte{kind, 0, 0, 0, 0}, payload...)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(payload)))
	if _, err := p.conn.Write(frame); err != nil {
		p.t.Error(err)
	}
}

var errNotAFrame = errors.New("not a frame of the guest")

func (p *program) next() (byte, []byte, error) {
	var header [5]byte
	if _, err := io.ReadFull(p.in, header[:]); err != nil {
		return 0, nil, err
	}
	if header[0] < frameStdout || header[0] > frameExit {
		return 0, nil, errNotAFrame
	}
	payload := make([]byte, binary.BigEndian.Uint32(header[1:]))
	_, err := io.ReadFull(p.in, payload)
	return header[0], payload, err
}

// until reads output until its text holds what is wanted.
func (p *program) until(wanted string) string {
	p.t.Helper()
	seen := ""
	for !strings.Contains(seen, wanted) {
		kind, payload, err := p.next()
		if err != nil || kind == frameExit {
			p.t.Fatalf("%q never came: %q, %v, %s", wanted, seen, err, payload)
		}
		seen += string(payload)
	}
	return seen
}

// end reads everything to the exit.
func (p *program) end() (stdout, stderr string, exit execExit) {
	p.t.Helper()
	var out, errs strings.Builder
	for {
		kind, payload, err := p.next()
		if err != nil {
			p.t.Fatalf("no exit came: %v; stdout %.200q, stderr %.200q", err, out.String(), errs.String())
		}
		switch kind {
		case frameStdout:
			out.Write(payload)
		case frameStderr:
			errs.Write(payload)
		case frameExit:
			if err := json.Unmarshal(payload, &exit); err != nil {
				p.t.Fatal(err)
			}
			return out.String(), errs.String(), exit
		}
	}
}

// waitUntil polls a condition of the machine that nothing announces.
func waitUntil(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

func processExists(pid string) bool {
	_, err := os.Stat("/proc/" + strings.TrimSpace(pid))
	return err == nil
}
