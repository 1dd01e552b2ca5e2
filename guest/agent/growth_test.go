package agent

import (
	"errors"
	"strings"
	"testing"
)

func TestAGuestTakesWhatItWasGivenAndTellsWhatItHas(t *testing.T) {
	r := newRig(t)
	status, content := r.do("POST", "/v1/grow", strings.NewReader(`{"cpus":3,"memory_bytes":268435456,"timeout_ms":1500}`))
	if want := `{"cpus":3,"memory_bytes":268435456,"disk_bytes":1073741824}`; status != 200 || string(content) != want {
		t.Errorf("%d %s", status, content)
	}
	if calls := strings.Join(r.guest.noted(), "; "); calls != "grow 3 268435456 1.5s" {
		t.Error(calls)
	}
}

func TestWhatAGuestCouldNotTakeIsAnErrorWithTheReason(t *testing.T) {
	r := newRig(t)
	r.guest.fail = map[string]error{"grow": errors.New("there are 1 processors")}
	status, content := r.do("POST", "/v1/grow", strings.NewReader(`{"cpus":2}`))
	if status != 409 || !strings.Contains(string(content), "there are 1 processors") {
		t.Errorf("%d %s", status, content)
	}
	if calls := strings.Join(r.guest.noted(), "; "); calls != "grow 2 0 10s" {
		t.Error(calls)
	}
}
