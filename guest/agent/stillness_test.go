package agent

import (
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"hypeman/guest/yamux"
)

func TestWhatForksWantToKnowIsLookedForWhenProgramsHaveComeToStandStill(t *testing.T) {
	r := newRig(t)
	write(t, r.server.Root+nscdSocket, "")
	if got := r.renew(map[string]any{"reason": "freeze"}); got != "freeze frozen" {
		t.Fatal(got)
	}
	if calls := strings.Join(r.guest.noted(), "|"); calls != "freeze|look for connections" {
		t.Fatal(calls)
	}
	// A fork believes it: nobody can have changed it since.
	remove(t, r.server.Root+nscdSocket)
	r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 1}))
	if got := r.renew(map[string]any{"reason": "thaw"}); got != "thaw name-caches" {
		t.Fatal(got)
	}
}

func TestASourceThatGoesOnKeepsItsCachesOfNames(t *testing.T) {
	r := newRig(t)
	write(t, r.server.Root+nscdSocket, "")
	r.renew(map[string]any{"reason": "freeze"})
	if got := r.renew(map[string]any{"reason": "thaw"}); got != "thaw" {
		t.Fatal(got)
	}
}

func TestFilesThatAForkWritesIntoHoldOneByteWhenProgramsStandStill(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("a-much-longer-name-than-the-next", shellOf("exit 0")))
	<-r.ended
	for round := 0; round < 2; round++ { // of a spare that was never written into, and of one that holds an earlier content
		r.renew(map[string]any{"reason": "freeze"})
		for name := range r.server.identity.files {
			info, err := os.Stat(name + spareSuffix)
			if err != nil || info.Size() != 1 {
				t.Fatal(name, info, err)
			}
		}
		r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": round + 1}))
		if got := read(t, r.server.Root+"/etc/hostname"); got != "web-1\n" {
			t.Fatal(got)
		}
	}
}

func TestRequestsHaveOneMoreProcessorOfTheRuntimeThanRenewals(t *testing.T) {
	t.Cleanup(func() { fewProcessors() })
	r := newRig(t)
	r.renew(map[string]any{"reason": "freeze"})
	isThat(t, "a guest that is saved", runtime.NumCPU())
	accepted := make(streams)
	session := yamux.NewSession(io.Discard, yamux.Handlers{Serve: accepted.take})
	defer session.Close()
	opened := []byte{0, 1, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0} // a window frame with SYN, of stream 1
	if err := session.Feed(opened); err != nil {
		t.Fatal(err)
	}
	<-accepted
	isThat(t, "a guest with a request", runtime.NumCPU()+1)
	r.renew(map[string]any{"reason": "freeze"})
	r.renew(map[string]any{"reason": "freeze"}) // told twice
	isThat(t, "one that is saved again", runtime.NumCPU())
	r.renew(map[string]any{"reason": "thaw"})
	isThat(t, "a source that goes on", runtime.NumCPU()+1)
	r.renew(map[string]any{"reason": "freeze"})
	r.renew(map[string]any{"reason": "thaw", "time_unix_ns": "1700000000000000001"})
	isThat(t, "a fork", runtime.NumCPU())
}

func isThat(t *testing.T, what string, want int) {
	t.Helper()
	if got := runtime.GOMAXPROCS(0); got != want {
		t.Fatalf("%s has %d processors, not %d", what, got, want)
	}
}
