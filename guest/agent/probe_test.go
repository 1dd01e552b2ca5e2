package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
)

func (r *rig) probe(request probeRequest) (int, probeAnswer) {
	r.t.Helper()
	body, err := json.Marshal(request)
	if err != nil {
		r.t.Fatal(err)
	}
	status, content := r.do("POST", "/v1/probe", bytes.NewReader(body))
	var answer probeAnswer
	if err := json.Unmarshal(content, &answer); err != nil {
		r.t.Fatal(err, string(content))
	}
	return status, answer
}

func portOf(t *testing.T, address net.Addr) int {
	t.Helper()
	_, text, err := net.SplitHostPort(address.String())
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// site answers with its path's number, and tells where /elsewhere leads.
var site = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	var status int
	if _, err := fmt.Sscanf(r.URL.RequestURI(), "/status?code=%d", &status); err != nil {
		http.Redirect(w, r, "/status?code=200", http.StatusFound)
		return
	}
	w.WriteHeader(status)
})

func TestAProbeOfHTTPTellsTheStatusAndFollowsNothing(t *testing.T) {
	plain, secure := httptest.NewServer(site), httptest.NewTLSServer(site)
	defer plain.Close()
	defer secure.Close()
	r := newRig(t)
	for kind, server := range map[string]*httptest.Server{"http": plain, "https": secure} {
		for path, status := range map[string]int{"/status?code=200": 200, "/status?code=503": 503, "/elsewhere": 302} {
			asked := probeRequest{Type: kind, Host: "127.0.0.1", Port: portOf(t, server.Listener.Addr()), Path: path, TimeoutMs: 60_000}
			if code, answer := r.probe(asked); code != 200 || answer != (probeAnswer{Status: status}) {
				t.Error(kind, path, code, answer)
			}
		}
	}
}

func TestAProbeOfTCPTellsWhetherSomebodyListens(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := probeRequest{Type: "tcp", Host: "127.0.0.1", Port: portOf(t, listener.Addr()), TimeoutMs: 60_000}
	r := newRig(t)
	if code, answer := r.probe(asked); code != 200 || answer.Error != "" {
		t.Error(code, answer)
	}
	listener.Close()
	if code, answer := r.probe(asked); code != 200 || !strings.Contains(answer.Error, "refused") {
		t.Error(code, answer)
	}
}

func TestAProbeOfOneThatNeverAnswersEndsInTime(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0") // its connections are never taken
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	r := newRig(t)
	for _, kind := range []string{"http", "https"} {
		asked := probeRequest{Type: kind, Host: "127.0.0.1", Port: portOf(t, listener.Addr()), TimeoutMs: 50}
		if code, answer := r.probe(asked); code != 200 || answer.Error != "no answer within 50 ms" {
			t.Error(kind, code, answer)
		}
	}
}

func TestAnEndlessAnswerIsReadToItsHeadOnly(t *testing.T) {
	gone := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		close(gone)
	}))
	defer server.Close()
	asked := probeRequest{Type: "http", Host: "127.0.0.1", Port: portOf(t, server.Listener.Addr()), Path: "/", TimeoutMs: 60_000}
	if code, answer := newRig(t).probe(asked); code != 200 || answer.Status != 200 {
		t.Fatal(code, answer)
	}
	<-gone
}

func TestAProbeThatCannotBeIsRefused(t *testing.T) {
	r := newRig(t)
	good := probeRequest{Type: "tcp", Host: "127.0.0.1", Port: 80, TimeoutMs: 1000}
	for name, change := range map[string]func(*probeRequest){
		"type":    func(one *probeRequest) { one.Type = "icmp" },
		"host":    func(one *probeRequest) { one.Host = "" },
		"port":    func(one *probeRequest) { one.Port = 65536 },
		"no time": func(one *probeRequest) { one.TimeoutMs = 0 },
		"too long": func(one *probeRequest) {
			one.TimeoutMs = 1 << 62
		},
	} {
		asked := good
		change(&asked)
		if code, _ := r.probe(asked); code != 400 {
			t.Error(name, code)
		}
	}
}
