package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hypeman/guest/network"
	"hypeman/guest/process"
)

func TestProgramsStandStillBeforeAnythingElseAndGoOnWhenTheyAreTold(t *testing.T) {
	r := newRig(t)
	if got := r.renew(map[string]any{"reason": "freeze"}); got != "freeze frozen" {
		t.Fatal(got)
	}
	// In a copy of this memory the host says who the guest is now, and then that programs may go on.
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 1})); got != "entropy clock machine-id boot-id hostname ssh-keys network connections generation hooks frozen" {
		t.Fatal(got)
	}
	if got := r.renew(map[string]any{"reason": "thaw", "time_unix_ns": "1700000000000000001"}); got != "clock thaw" {
		t.Fatal(got)
	}
	calls := strings.Join(r.guest.noted(), "|")
	if !strings.HasPrefix(calls, "freeze|look for connections|entropy 64|clock ") || !strings.HasSuffix(calls, "|connections|clock 1700000000000000001|thaw") {
		t.Fatal(calls)
	}
	// The guest that was saved goes on with the clock that it has.
	if got := r.renew(map[string]any{"reason": "thaw"}); got != "thaw" {
		t.Fatal(got)
	}
}

func TestARenewalOfAGuestThatRunsHasItsProgramsStandStillFirst(t *testing.T) {
	for reason, want := range map[string]string{
		"fork":    "freeze entropy clock machine-id boot-id hostname ssh-keys network connections generation hooks frozen",
		"restore": "freeze entropy clock neighbours connections generation hooks frozen",
	} {
		r := newRig(t)
		r.boot(bodyOf("i2", shellOf("exit 0")))
		<-r.ended
		if got := r.renew(bodyOf("i2", map[string]any{"reason": reason, "generation": 1})); got != want {
			t.Error(got)
		}
	}
}

func TestAGuestWhoseProgramsCannotStandStillSaysSo(t *testing.T) {
	r := newRig(t)
	r.guest.fail["freeze"] = errors.New("no control group")
	if got := r.renew(map[string]any{"reason": "freeze"}); got != "freeze!no control group" {
		t.Fatal(got)
	}
}

func TestTheTimeThatHasPassedIsTold(t *testing.T) {
	r := newRig(t)
	later := time.Now().Add(3 * time.Hour)
	r.renew(bodyOf("i2", map[string]any{"reason": "restore", "generation": 1, "time_unix_ns": strconv.FormatInt(later.UnixNano(), 10)}))
	if jump := time.Duration(r.server.identity.jump); jump < 3*time.Hour-time.Minute || jump > 3*time.Hour {
		t.Fatal(jump)
	}
	if content := read(t, r.server.Root+"/run/hypeman/generation"); !strings.Contains(content, `"time_jump_ns":"`+strconv.FormatInt(r.server.identity.jump, 10)+`"`) {
		t.Fatal(content)
	}
}

func TestTheTimeThatHasPassedIsToldAsAWholeToAGuestThatIsToldTwice(t *testing.T) {
	r := newRig(t)
	told := func(generation int, passed time.Duration) time.Duration {
		now := strconv.FormatInt(time.Now().Add(passed).UnixNano(), 10)
		r.renew(bodyOf("i2", map[string]any{"reason": "restore", "generation": generation, "time_unix_ns": now}))
		return time.Duration(r.server.identity.jump).Round(time.Hour)
	}
	// The clock of this test does not step, so the second time adds what the first has set in a guest.
	for at, want := range []time.Duration{3 * time.Hour, 5 * time.Hour, 7 * time.Hour} {
		if got := told(1+at/2, []time.Duration{3 * time.Hour, 2 * time.Hour, 7 * time.Hour}[at]); got != want {
			t.Error(at, got)
		}
	}
	// One that failed has stepped nothing.
	r.guest.fail["clock"] = errors.New("stuck")
	if got := told(3, time.Hour); got != 0 {
		t.Fatal(got)
	}
	delete(r.guest.fail, "clock")
	if got := told(3, time.Hour); got != time.Hour {
		t.Fatal(got)
	}
}

func TestProgramsOfAGuestWhoseClockCannotBeSetDoNotGoOn(t *testing.T) {
	r := newRig(t)
	write(t, r.server.Root+nscdSocket, "")
	r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	r.guest.fail["clock"] = errors.New("stuck")
	if got := r.renew(map[string]any{"reason": "thaw", "time_unix_ns": "1700000000000000001"}); got != "clock!stuck frozen" {
		t.Fatal(got)
	}
	if got := r.renew(map[string]any{"reason": "thaw"}); !strings.HasPrefix(got, "thaw name-caches") {
		t.Fatal(got)
	}
}

func TestConnectionsThatThisKernelCannotResetAreAWarning(t *testing.T) {
	r := newRig(t)
	r.guest.fail["connections"] = network.ErrNoReset
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, " connections?this kernel can't reset connections: ") {
		t.Fatal(got)
	}
	r.guest.fail["connections"] = errors.New("no netlink")
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, " connections!no netlink ") {
		t.Fatal(got)
	}
}

func TestARestoreHasHooksOfItsOwn(t *testing.T) {
	r := newRig(t)
	write(t, r.server.Root+"/etc/hypeman/restore.d/10-say", "#!/bin/sh\necho $HYPEMAN_REASON $HYPEMAN_GENERATION; test $HYPEMAN_TIME_JUMP_NS -lt 0\n")
	if err := os.Chmod(r.server.Root+"/etc/hypeman/restore.d/10-say", 0o755); err != nil {
		t.Fatal(err)
	}
	hook(t, r, "10-never", "echo of a fork", 0o755)
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "restore", "generation": 4})); !strings.HasSuffix(got, "hooks=10-say: restore 4 frozen") {
		t.Fatal(got)
	}
}

func TestWhatHooksSayIsToldWithinBounds(t *testing.T) {
	r := newRig(t)
	for i := 0; i < 60; i++ {
		hook(t, r, strconv.Itoa(100+i), "echo line; head -c 5000 /dev/zero | tr '\\0' x", 0o755)
	}
	answer := r.server.Renew([]byte(renewalOf(bodyOf("i2", map[string]any{"reason": "fork"}))))
	if len(answer) < longestReport || len(answer) > longestReport+2000 || strings.Count(string(answer), "\n") != 13 {
		t.Fatal(len(answer), strings.Count(string(answer), "\n"))
	}
}

func TestHooksMayFailWhereTheImageSaysThatTheyMay(t *testing.T) {
	r := newRig(t)
	r.server.Workload.Start(process.Command{Argv: []string{"true"}, Env: map[string]string{"HYPEMAN_HOOK_FAILURE": "warn"}}, "")
	<-r.ended
	hook(t, r, "10-fails", "echo no credentials; exit 3", 0o755)
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, "hooks?10-fails: ended with code 3: no credentials") {
		t.Fatal(got)
	}
}

// fakeKeygen is a program in the place of ssh-keygen, on the path of the workload: each key has its kind and the time in it.
func fakeKeygen(t *testing.T, r *rig, script string, env map[string]string) {
	t.Helper()
	directory := t.TempDir()
	write(t, directory+"/ssh-keygen", "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(directory+"/ssh-keygen", 0o755); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"PATH": directory + ":" + os.Getenv("PATH")}
	for name, value := range env {
		all[name] = value
	}
	r.server.Workload.Start(process.Command{Argv: []string{"true"}, Env: all}, "")
	<-r.ended
	for _, kind := range []string{"rsa", "ed25519"} {
		write(t, r.server.Root+"/etc/ssh/ssh_host_"+kind+"_key", "of the source")
		write(t, r.server.Root+"/etc/ssh/ssh_host_"+kind+"_key.pub", "of the source")
	}
}

// madeKey writes what it was asked for; its arguments are -q -t KIND -N "" -f FILE.
const madeKey = `echo "$3 key$5" >"$7"; echo "$3 public" >"$7.pub"`

func TestAForkHasSSHHostKeysOfItsOwn(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, madeKey, nil)
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, " ssh-keys ") {
		t.Fatal(got)
	}
	for _, kind := range []string{"rsa", "ed25519"} {
		file := r.server.Root + "/etc/ssh/ssh_host_" + kind + "_key"
		if read(t, file) != kind+" key\n" || read(t, file+".pub") != kind+" public\n" {
			t.Error(kind, read(t, file), read(t, file+".pub"))
		}
	}
	if names := names(t, r.server.Root+"/etc/ssh"); names != "ssh_host_ed25519_key ssh_host_ed25519_key.pub ssh_host_rsa_key ssh_host_rsa_key.pub" {
		t.Fatal(names)
	}
}

func TestARestoreKeepsItsSSHHostKeys(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, madeKey, nil)
	r.renew(bodyOf("i1", map[string]any{"reason": "restore"}))
	if got := read(t, r.server.Root+"/etc/ssh/ssh_host_rsa_key"); got != "of the source" {
		t.Fatal(got)
	}
}

func TestSSHHostKeysThatAreKeptAreSaidToBe(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, madeKey, map[string]string{"HYPEMAN_SSH_HOST_KEYS": "keep"})
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, "ssh-keys=the keys of the source are kept") {
		t.Fatal(got)
	}
	r = newRig(t)
	fakeKeygen(t, r, madeKey, map[string]string{"PATH": t.TempDir()})
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, "ssh-keys?the keys of the source are kept, since the image has no ssh-keygen") {
		t.Fatal(got)
	}
	if got := read(t, r.server.Root+"/etc/ssh/ssh_host_rsa_key"); got != "of the source" {
		t.Fatal(got)
	}
}

func TestAForkWhoseOwnVariablesSayThatSSHHostKeysAreKeptKeepsThem(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, madeKey, nil)
	variables := []string{"PATH=" + r.server.Workload.Environment(nil)["PATH"], "HYPEMAN_SSH_HOST_KEYS=keep"}
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "variable": variables})); !strings.Contains(got, " environment ssh-keys=the keys of the source are kept") {
		t.Fatal(got)
	}
}

func TestSSHHostKeysThatCannotBeMadeAreAFailureAndWhatWasStartedForThemStandsStill(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, "echo no entropy; exit 1", nil)
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.Contains(got, "ssh-keys!ssh_host_ed25519_key: ssh-keygen: ended with code 1: no entropy") {
		t.Fatal(got)
	}
	if calls := strings.Join(r.guest.noted(), "|"); !strings.Contains(calls, "|hooks ended|") {
		t.Fatal(calls)
	}
}

func TestAnSSHHostKeyOfAKindThatSSHKeygenDoesNotKnowIsAWarningAndTheOthersAreMade(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, `case "$3" in dsa|backup) echo "unknown key type $3"; exit 1;; esac; `+madeKey, nil)
	for _, kind := range []string{"backup", "dsa"} {
		write(t, r.server.Root+"/etc/ssh/ssh_host_"+kind+"_key", "of the source")
	}
	got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	if !strings.Contains(got, "ssh-keys?keys of the source are kept, and whoever has them can pose as this machine: ssh_host_backup_key: ssh-keygen: ended with code 1: unknown key type backup; ssh_host_dsa_key: ") {
		t.Fatal(got)
	}
	for kind, want := range map[string]string{"rsa": "rsa key\n", "ed25519": "ed25519 key\n", "dsa": "of the source", "backup": "of the source"} {
		if got := read(t, r.server.Root+"/etc/ssh/ssh_host_"+kind+"_key"); got != want {
			t.Error(kind, got)
		}
	}
}

func TestAnSSHServerThatRunsIsTold(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	fakeKeygen(t, r, madeKey, nil)
	// A shell script by that name: the kernel calls a program after its file.
	write(t, directory+"/sshd", "#!/bin/sh\ntrap 'echo told >"+directory+"/told' HUP\necho >"+directory+"/ready\nwhile :; do sleep 0.01; done\n")
	if err := os.Chmod(directory+"/sshd", 0o755); err != nil {
		t.Fatal(err)
	}
	server := startKilled(t, exec.Command(directory+"/sshd"))
	waitUntil(t, "it runs", func() bool { _, err := os.Stat(directory + "/ready"); return err == nil })
	write(t, r.server.Root+sshdPidFile, strconv.Itoa(server)+"\n")
	r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	waitUntil(t, "it was told", func() bool { _, err := os.Stat(directory + "/told"); return err == nil })
}

func TestAProcessThatIsNoSSHServerIsLeftAlone(t *testing.T) {
	r := newRig(t)
	fakeKeygen(t, r, madeKey, nil)
	other := startKilled(t, exec.Command("sleep", "1000"))
	write(t, r.server.Root+sshdPidFile, strconv.Itoa(other)+"\n")
	r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	if nameOf(other) != "sleep" {
		t.Fatal("it was killed by a signal for another")
	}
}

// startKilled starts a program that ends with the test. Its end is the reaper's to see.
func startKilled(t *testing.T, command *exec.Cmd) int {
	t.Helper()
	pid, _, err := reaper.Start(command.Path, command.Args, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
		waitUntil(t, "it has ended", func() bool { return !processExists(strconv.Itoa(pid)) })
	})
	return pid
}

func TestCachesOfNamesAreEmptiedWhenProgramsRunAgain(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	write(t, directory+"/nscd", "#!/bin/sh\necho $* >>"+directory+"/asked\n")
	if err := os.Chmod(directory+"/nscd", 0o755); err != nil {
		t.Fatal(err)
	}
	r.server.Workload.Start(process.Command{Argv: []string{"true"}, Env: map[string]string{"PATH": directory + ":" + os.Getenv("PATH")}}, "")
	<-r.ended
	write(t, r.server.Root+nscdSocket, "")
	if err := os.MkdirAll(r.server.Root+resolvedHome, 0o755); err != nil {
		t.Fatal(err)
	}
	r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	if _, err := os.Stat(filepath.Join(directory, "asked")); err == nil {
		t.Fatal("it was asked while it stands still")
	}
	if got := r.renew(map[string]any{"reason": "thaw"}); got != "thaw name-caches" {
		t.Fatal(got)
	}
	if got := read(t, directory+"/asked"); got != "-i hosts\n" {
		t.Fatal(got)
	}
	// Once is enough.
	if got := r.renew(map[string]any{"reason": "thaw"}); got != "thaw" {
		t.Fatal(got)
	}
}

func TestACacheOfNamesThatIsKeptIsAWarning(t *testing.T) {
	r := newRig(t)
	r.server.Workload.Start(process.Command{Argv: []string{"true"}, Env: map[string]string{"PATH": t.TempDir()}}, "")
	<-r.ended
	write(t, r.server.Root+nscdSocket, "")
	r.renew(bodyOf("i2", map[string]any{"reason": "restore"}))
	if got := r.renew(map[string]any{"reason": "thaw"}); !strings.HasPrefix(got, "thaw name-caches?nscd may answer with old addresses: nscd: command not found") {
		t.Fatal(got)
	}
}
