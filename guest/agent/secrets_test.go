package agent

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// secretOf is a secret file's text; its mode has to be what it is for root alone.
func secretOf(t *testing.T, r *rig, name string) string {
	t.Helper()
	path := r.server.Root + secretsDirectory + "/" + name
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != 0o400 {
		t.Fatal(info, err)
	}
	return read(t, path)
}

func TestABootWritesSecretFilesBeforeTheProgramStarts(t *testing.T) {
	r := newRig(t)
	body := bodyOf("i1", shellOf(`cat "`+r.server.Root+secretsDirectory+`/tls.key"`))
	body["volume"] = []string{"vol-0 ro /data"}
	body["secret"] = []string{`tls.key=one\ntwo=2\\`, "empty="}
	if got := r.boot(body); got != "entropy clock machine-id hostname network boot-id generation volumes secrets running" {
		t.Fatal(got)
	}
	<-r.ended
	if got := r.log.String(); got != "one\ntwo=2\\" {
		t.Fatalf("%q", got)
	}
	if text := secretOf(t, r, "empty"); text != "" {
		t.Fatalf("%q", text)
	}
	if calls := strings.Join(r.guest.noted(), "|"); !strings.HasSuffix(calls, "volume vol-0 /data true 0|keep in memory") {
		t.Fatal(calls)
	}
}

func TestAForkThatIsGivenSecretFilesHasThemBeforeItsHooksRun(t *testing.T) {
	r := newRig(t)
	body := bodyOf("i1", shellOf("exec sleep 1000"))
	body["secret"] = []string{"token=first", "kept=as it was"}
	r.boot(body)
	directory := r.server.Root + secretsDirectory
	reader, err := os.Open(directory + "/token")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	hook(t, r, "10-note", `cat "`+directory+`/token" >"`+r.server.Root+`/hook"`, 0o755)
	fork := bodyOf("i2", map[string]any{"reason": "fork", "generation": 1, "secret": []string{"token=second"}})
	if got := r.renew(fork); got != "freeze entropy clock machine-id boot-id hostname secrets ssh-keys network connections generation hooks frozen" {
		t.Fatal(got)
	}
	if got := read(t, r.server.Root+"/hook"); got != "second" {
		t.Fatal(got)
	}
	if token, kept := secretOf(t, r, "token"), secretOf(t, r, "kept"); token != "second" || kept != "as it was" {
		t.Fatal(token, kept)
	}
	old := make([]byte, 16)
	if n, _ := reader.Read(old); string(old[:n]) != "first" {
		t.Fatal("who has it open sees another file's content")
	}
	if entries := names(t, directory); entries != "kept token" {
		t.Fatal(entries)
	}
	// What is given nothing keeps all.
	r.renew(bodyOf("i3", map[string]any{"reason": "fork", "generation": 2}))
	if token := secretOf(t, r, "token"); token != "second" {
		t.Fatal(token)
	}
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"grace_ms": 0})
	<-r.ended
}

func TestALinkAtASecretsNameIsReplacedNotFollowed(t *testing.T) {
	r, outside := newRig(t), filepath.Join(t.TempDir(), "outside")
	write(t, outside, "precious")
	if err := os.MkdirAll(r.server.Root+secretsDirectory, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/token", nextSecret} {
		link(t, outside, r.server.Root+secretsDirectory+name)
	}
	r.renew(bodyOf("i2", map[string]any{"reason": "fork", "secret": "token=hush"}))
	if got := secretOf(t, r, "token"); got != "hush" || read(t, outside) != "precious" {
		t.Fatal(got)
	}
}

func TestSecretFilesThatCannotBeWrittenFailTheStepWithoutSayingWhatIsInThem(t *testing.T) {
	r := newRig(t)
	r.guest.fail["keep in memory"] = errors.New("no tmpfs")
	if got := r.boot(bodyOf("i1", map[string]any{"secret": "token=hush"})); got != "refused secrets: no tmpfs" {
		t.Fatal(got)
	}
	delete(r.guest.fail, "keep in memory")
	if err := os.MkdirAll(r.server.Root+secretsDirectory+"/token", 0o700); err != nil {
		t.Fatal(err)
	}
	want := "refused secrets: replace " + r.server.Root + secretsDirectory + "/token: " + syscall.EISDIR.Error()
	if got := r.boot(bodyOf("i1", map[string]any{"secret": "token=hush"})); got != want && got != strings.Replace(want, syscall.EISDIR.Error(), syscall.EEXIST.Error(), 1) {
		t.Fatal(got)
	}
	for _, wrong := range []string{"hush", "=hush", "../token=hush", ".token=hush", "a/b=hush"} {
		if got := r.boot(bodyOf("i1", map[string]any{"secret": wrong})); got != "refused secret: it has the form NAME=TEXT, the name of a file that is not hidden" {
			t.Fatal(got)
		}
	}
	if state := r.server.Workload.Status().State; state != "waiting" {
		t.Fatal(state)
	}
}
