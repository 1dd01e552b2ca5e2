package agent

import (
	"os"
	"testing"
)

func TestAForkThatIsGivenVariablesHasThemInExecHooksAndAFileOfRootsOwn(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exec sleep 1000")))
	hook(t, r, "10-note", `echo "$GREETING $HYPEMAN_REASON" >"`+r.server.Root+`/hook"`, 0o755)
	fork := bodyOf("i2", map[string]any{"reason": "fork", "generation": 1, "variable": []string{"GREETING=it's me", `LINES=one\ntwo`, "odd.name=x"}})
	if got := r.renew(fork); got != "freeze entropy clock machine-id boot-id hostname environment ssh-keys network connections generation hooks frozen" {
		t.Fatal(got)
	}
	if got := r.server.Workload.Environment(nil)["LINES"]; got != "one\ntwo" {
		t.Fatal(got)
	}
	if got := read(t, r.server.Root+"/hook"); got != "it's me fork\n" {
		t.Fatal(got)
	}
	path := r.server.Root + environmentFile
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatal(info, err)
	}
	// What a shell reads back as it was; a name that no shell takes is left out.
	if text := read(t, path); text != "GREETING='it'\\''s me'\nLINES='one\ntwo'\n" {
		t.Fatal(text)
	}
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"grace_ms": 0})
	<-r.ended
}

func TestAForkThatIsGivenNoVariablesKeepsThoseOfItsSource(t *testing.T) {
	r := newRig(t)
	body := bodyOf("i1", shellOf("exec sleep 1000"))
	body["variable"] = []string{"KEPT=yes"}
	r.boot(body)
	r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 1}))
	if got := r.server.Workload.Environment(nil)["KEPT"]; got != "yes" {
		t.Fatal(got)
	}
	if _, err := os.Stat(r.server.Root + environmentFile); !os.IsNotExist(err) {
		t.Fatal(err)
	}
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"grace_ms": 0})
	<-r.ended
}
