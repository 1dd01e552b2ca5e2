package agent

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hypeman/guest/network"
	"hypeman/guest/process"
)

func bodyOf(instance string, more map[string]any) map[string]any {
	body := map[string]any{
		"instance_id": instance, "hostname": "web-1", "machine_id": strings.Repeat("0a", 16), "time_unix_ns": "1700000000123456789",
		"entropy": base64.StdEncoding.EncodeToString(make([]byte, 64)),
		"network": map[string]any{"mac": "02:00:00:00:00:01", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": []string{"10.0.2.3"}, "mtu": 1500},
	}
	for key, value := range more {
		body[key] = value
	}
	return body
}

// shellOf gives a boot a shell with a script.
func shellOf(script string) map[string]any {
	return map[string]any{"argument": []string{"sh", "-c", script}, "variable": []string{"COLOUR=blue"}, "directory": "/", "stop-signal": "SIGTERM"}
}

func TestABootTakesItsStepsInOrderAndStartsTheProgram(t *testing.T) {
	r := newRig(t)
	if state := r.ask(200, "GET", "/v1/health", nil)["workload"].(map[string]any)["state"]; state != "waiting" {
		t.Fatal(state)
	}
	body := bodyOf("i1", shellOf("echo $COLOUR; exit 5"))
	body["volume"] = []string{"vol-0 ro /data", `vol-1 rw /a place\\of\nits own`, "vol-2 over:3 /srv"}
	if got := r.boot(body); got != "entropy clock machine-id hostname network boot-id generation volumes volumes volumes running" {
		t.Fatal(got)
	}
	want := "entropy 64|clock 1700000000123456789|hostname web-1|network 02:00:00:00:00:01 10.0.2.15/24|boot-id|volume vol-0 /data true 0|volume vol-1 /a place\\of\nits own false 0|volume vol-2 /srv true 3"
	if got := strings.Join(r.guest.noted(), "|"); got != want {
		t.Fatal(got)
	}
	root := r.server.Root
	if read(t, root+"/etc/hostname") != "web-1\n" || read(t, root+"/etc/machine-id") != strings.Repeat("0a", 16)+"\n" ||
		!strings.Contains(read(t, root+"/etc/hosts"), "10.0.2.15\tweb-1\n") || read(t, root+"/etc/resolv.conf") != "nameserver 10.0.2.3\n" {
		t.Fatal(names(t, root+"/etc"))
	}
	status := <-r.ended
	if *status.ExitCode != 5 || r.log.String() != "blue\n" {
		t.Fatal(status, r.log)
	}
	exited := r.ask(200, "GET", "/v1/health", nil)["workload"].(map[string]any)
	if exited["state"] != "exited" || exited["exit_code"] != 5.0 || exited["exited_at"] == nil {
		t.Fatal(exited)
	}
}

func TestARehearsalLeavesNothingOfItselfInABoot(t *testing.T) {
	plain, rehearsed := newRig(t), newRig(t)
	for _, r := range []*rig{plain, rehearsed} {
		write(t, r.server.Root+"/etc/hosts", "10.1.1.1 of-the-image\n")
		write(t, r.server.Root+"/etc/hostname", "of-the-image\n")
	}
	rehearsed.server.Rehearse(&network.Config{MAC: "02:00:00:00:00:09", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.9.9.9"}, MTU: 1500})
	for _, r := range []*rig{plain, rehearsed} {
		if state := r.server.Workload.Status().State; state != "waiting" {
			t.Fatal(state)
		}
		if got := r.boot(bodyOf("i1", shellOf("exit 0"))); !strings.HasSuffix(got, " running") {
			t.Fatal(got)
		}
		<-r.ended
	}
	for _, name := range []string{"/etc/hostname", "/etc/hosts", "/etc/machine-id", "/etc/resolv.conf", "/run/hypeman/generation"} {
		if one, other := read(t, plain.server.Root+name), read(t, rehearsed.server.Root+name); one != other {
			t.Errorf("%s: %q, rehearsed %q", name, one, other)
		}
	}
}

func TestWhatAProgramIsGivenKeepsItsLinesAndBackslashes(t *testing.T) {
	r := newRig(t)
	body := bodyOf("i1", map[string]any{"argument": []string{"sh", "-c", `printf '%s|%s' "$LINES_OF" "$1"`, "sh", `a\\nb`}, "variable": []string{`LINES_OF=one\ntwo=2\\`}})
	if got := r.boot(body); !strings.HasSuffix(got, " running") {
		t.Fatal(got)
	}
	<-r.ended
	if got := r.log.String(); got != "one\ntwo=2\\|a\\nb" {
		t.Fatalf("%q", got)
	}
}

func TestABootIsOnceAndForOneInstance(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exec sleep 1000")))
	calls := len(r.guest.noted())
	if again := r.boot(bodyOf("i1", shellOf("exit 1"))); again != "running" || len(r.guest.noted()) != calls {
		t.Fatal(again)
	}
	if got := r.boot(bodyOf("i2", nil)); got != "refused this guest is the instance i1 already" {
		t.Fatal(got)
	}
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"grace_ms": 5000})
	if status := <-r.ended; status.Signal != "SIGTERM" || *status.ExitCode != 143 {
		t.Fatal(status)
	}
	waitUntil(t, "the power is off", func() bool { return strings.Contains(strings.Join(r.guest.noted(), "|"), "power off") })
}

func TestAStepThatFailsIsNamedAndCanBeTriedAgain(t *testing.T) {
	r := newRig(t)
	r.guest.fail["volume"] = errors.New("no such disk")
	body := bodyOf("i1", shellOf("exit 0"))
	body["volume"] = []string{"vol-0 rw /data"}
	if got := r.boot(body); got != "refused volumes: no such disk" {
		t.Fatal(got)
	}
	if state := r.ask(200, "GET", "/v1/health", nil)["workload"].(map[string]any)["state"]; state != "waiting" {
		t.Fatal(state)
	}
	delete(r.guest.fail, "volume")
	if got := r.boot(body); !strings.HasSuffix(got, " running") {
		t.Fatal(got)
	}
	<-r.ended
}

func TestABootRefusesWhatItCannotUse(t *testing.T) {
	for wrong, change := range map[string]map[string]any{
		"refused entropy: entropy is not at least 64 bytes in base64":     {"entropy": "c2hvcnQ="},
		"refused clock: the time is not a decimal number":                 {"time_unix_ns": "now"},
		"refused machine-id: the machine-id is not 32 hexadecimal digits": {"machine_id": "../../x"},
		"refused volume: it has the form DISK ro|rw|over:PART PATH":       {"volume": "vol-0 over:0 /data"},
		"refused the instance is missing":                                 {"instance_id": ""},
	} {
		r := newRig(t)
		if got := r.boot(bodyOf("i1", change)); got != wrong {
			t.Error(got)
		}
		if state := r.server.Workload.Status().State; state != "waiting" {
			t.Error(state)
		}
	}
}

func TestAProgramThatCannotBeStartedHasExited(t *testing.T) {
	r := newRig(t)
	if got := r.boot(bodyOf("i1", map[string]any{"argument": "/no/such"})); !strings.HasSuffix(got, " exited") {
		t.Fatal(got)
	}
	if status := r.server.Workload.Status(); *status.ExitCode != 127 || status.Message != "/no/such: command not found" {
		t.Fatal(status)
	}
	<-r.ended
}

func TestAForkTakesEveryStepOfItsIdentity(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exec sleep 1000")))
	write(t, r.server.Root+"/etc/hosts", read(t, r.server.Root+"/etc/hosts")+"10.9.9.9\tdatabase\n")
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 3, "hostname": "web-2", "machine_id": strings.Repeat("0b", 16)})); got != "freeze entropy clock machine-id boot-id hostname ssh-keys network connections generation hooks frozen" {
		t.Fatal(got)
	}
	hosts := read(t, r.server.Root+"/etc/hosts")
	if strings.Contains(hosts, "web-1") || !strings.Contains(hosts, "10.0.2.15\tweb-2\n") || !strings.HasSuffix(hosts, "10.9.9.9\tdatabase\n") {
		t.Fatal(hosts)
	}
	var generation map[string]any
	if err := json.Unmarshal([]byte(read(t, r.server.Root+"/run/hypeman/generation")), &generation); err != nil {
		t.Fatal(err)
	}
	if jump := time.Duration(r.server.identity.jump); jump > -24*time.Hour { // the time of the test is years ago
		t.Fatal(jump)
	}
	if fmt.Sprint(generation) != "map[generation:3 instance_id:i2 reason:fork time_jump_ns:"+fmt.Sprint(r.server.identity.jump)+" time_unix_ns:1700000000123456789]" {
		t.Fatal(generation)
	}
	if r.ask(200, "GET", "/v1/health", nil)["generation"] != 3.0 {
		t.Fatal("health has another generation")
	}
	if got := r.boot(bodyOf("i1", nil)); got != "refused this guest is the instance i2 already" {
		t.Fatal(got)
	}
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"grace_ms": 0})
	<-r.ended
}

func hook(t *testing.T, r *rig, name, script string, mode os.FileMode) {
	t.Helper()
	path := filepath.Join(r.server.Root+hooksOf("fork"), name)
	write(t, path, "#!/bin/sh\n"+script+"\n")
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestHooksOfTheImageRunInOrderWithTheNewIdentity(t *testing.T) {
	r, out := newRig(t), filepath.Join(t.TempDir(), "out")
	hook(t, r, "20-second", "echo second $HYPEMAN_INSTANCE_ID $HYPEMAN_GENERATION $HYPEMAN_REASON >>"+out, 0o755)
	hook(t, r, "10-first", "echo first $(cat "+r.server.Root+"/etc/hostname) >>"+out+"; sleep 1000 & exit 0", 0o755)
	hook(t, r, "30-plain", "echo never >>"+out, 0o644)
	hook(t, r, ".hidden", "echo never >>"+out, 0o755)
	steps := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 3}))
	if read(t, out) != "first web-1\nsecond i2 3 fork\n" || !strings.HasSuffix(steps, " hooks frozen") {
		t.Fatal(read(t, out), steps)
	}
	r.renew(bodyOf("i2", map[string]any{"reason": "restore", "generation": 4}))
	if strings.Count(read(t, out), "\n") != 2 {
		t.Fatal("a restore runs the hooks of a fork")
	}
	killAll(t, "sleep 1000")
}

// killAll ends what a hook left in the background, as the end of its VM would.
func killAll(t *testing.T, command string) {
	t.Helper()
	children, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range children {
		content, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(strings.ReplaceAll(string(content), "\x00", " ")) != command {
			continue
		}
		status, err := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nPPid:\t%d\n", os.Getpid())) {
			continue
		}
		var pid int
		if _, err := fmt.Sscan(filepath.Base(filepath.Dir(file)), &pid); err == nil {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func TestHooksThatFailAreNamedAndTheOthersRun(t *testing.T) {
	r, out := newRig(t), filepath.Join(t.TempDir(), "out")
	hook(t, r, "10-fails", "echo no credentials; exit 3", 0o755)
	hook(t, r, "20-runs", "echo ran >"+out, 0o755)
	hook(t, r, "30-hangs", "exec sleep 1000", 0o755)
	hook(t, r, "40-late", "true", 0o755)
	err := r.server.runHooks(&Identity{Reason: "fork"}, 300*time.Millisecond)
	want := "10-fails: ended with code 3: no credentials; 30-hangs: killed, since the time was up; 40-late: not run, since those before it took all of the time"
	if err == nil || err.Error() != want || read(t, out) != "ran\n" {
		t.Fatal(err)
	}
}

func TestARestoreKeepsItsIdentity(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exit 0")))
	<-r.ended
	body := bodyOf("", map[string]any{"reason": "restore", "generation": 1})
	for _, absent := range []string{"instance_id", "hostname", "machine_id", "network"} {
		delete(body, absent)
	}
	if got := r.renew(body); got != "freeze entropy clock connections generation hooks frozen" {
		t.Fatal(got)
	}
	if !strings.Contains(read(t, r.server.Root+"/run/hypeman/generation"), `"instance_id":"i1"`) || read(t, r.server.Root+"/etc/hostname") != "web-1\n" {
		t.Fatal("the identity has changed")
	}
	for wrong, body := range map[string]map[string]any{
		"refused the reason is boot, fork, restore, clock, freeze or thaw": bodyOf("i2", map[string]any{"reason": "else"}),
		"refused the instance is missing":                                  bodyOf("", map[string]any{"reason": "fork"}),
		"refused generation: it is not a number":                           bodyOf("i2", map[string]any{"reason": "fork", "generation": "many"}),
	} {
		if got := r.renew(body); got != wrong {
			t.Fatal(got)
		}
	}
}

func TestAllStepsAreTriedWhateverFails(t *testing.T) {
	r := newRig(t)
	r.guest.fail["clock"], r.guest.fail["boot-id"], r.guest.fail["network"] = errors.New("stuck"), errors.New("no mount"), errors.New("no link")
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": 1})); got != "freeze entropy clock!stuck machine-id boot-id!no mount hostname ssh-keys network!no link connections generation hooks frozen" {
		t.Fatal(got)
	}
}

func TestALinkAtANameOfTheIdentityIsReplacedNotFollowed(t *testing.T) {
	r, outside := newRig(t), filepath.Join(t.TempDir(), "outside")
	write(t, outside, "precious")
	if err := os.MkdirAll(r.server.Root+"/etc", 0o755); err != nil {
		t.Fatal(err)
	}
	link(t, outside, r.server.Root+"/etc/resolv.conf")
	r.renew(bodyOf("i2", map[string]any{"reason": "fork"}))
	if read(t, outside) != "precious" || read(t, r.server.Root+"/etc/resolv.conf") != "nameserver 10.0.2.3\n" {
		t.Fatal("written through the link")
	}
}

func TestIdentityFilesAreNewWhateverWasDone(t *testing.T) {
	for what, change := range map[string]func(t *testing.T, file string){
		"nothing":               func(*testing.T, string) {},
		"the file removed":      func(t *testing.T, file string) { remove(t, file) },
		"the other one removed": func(t *testing.T, file string) { remove(t, file+spareSuffix) },
		"both removed":          func(t *testing.T, file string) { remove(t, file); remove(t, file+spareSuffix) },
		"the file replaced":     func(t *testing.T, file string) { write(t, file+".new", "foreign"); rename(t, file+".new", file) },
		"the other one replaced": func(t *testing.T, file string) {
			write(t, file+".new", "foreign")
			rename(t, file+".new", file+spareSuffix)
		},
		"the other one moved": func(t *testing.T, file string) { rename(t, file+spareSuffix, file+".moved") },
		"written into":        func(t *testing.T, file string) { write(t, file, strings.Repeat("longer than a name of a host\n", 9)) },
		"the directory removed": func(t *testing.T, file string) {
			if err := os.RemoveAll(filepath.Dir(file)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			r := newRig(t)
			r.renew(bodyOf("i1", map[string]any{"reason": "fork", "hostname": "a-name-that-is-longer"}))
			change(t, r.server.Root+"/run/hypeman/etc/hostname")
			for generation, name := range []string{"second", "a-third-name", "4th"} {
				if steps := r.renew(bodyOf("i2", map[string]any{"reason": "fork", "generation": generation, "hostname": name})); strings.Contains(steps, "!") {
					t.Fatal(steps)
				}
				if got := read(t, r.server.Root+"/etc/hostname"); got != name+"\n" {
					t.Fatalf("%q", got)
				}
			}
		})
	}
}

func TestWhoReadsAFileOfTheIdentityKeepsWhatItHad(t *testing.T) {
	r := newRig(t)
	r.renew(bodyOf("i1", map[string]any{"reason": "fork", "hostname": "the-first-of-them"}))
	reader, err := os.Open(r.server.Root + "/etc/hostname")
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	r.renew(bodyOf("i2", map[string]any{"reason": "fork", "hostname": "b"}))
	if content, err := io.ReadAll(reader); err != nil || string(content) != "the-first-of-them\n" {
		t.Fatal(string(content), err)
	}
}

func TestWhatProgramsAddToHostsIsKeptHoweverTheyAddIt(t *testing.T) {
	for how, add := range map[string]func(t *testing.T, root string){
		"through the link": func(t *testing.T, root string) {
			write(t, root+"/etc/hosts", read(t, root+"/etc/hosts")+"10.9.9.9\tdatabase\n")
		},
		"in the link's place": func(t *testing.T, root string) {
			write(t, root+"/etc/hosts.new", read(t, root+"/etc/hosts")+"10.9.9.9\tdatabase\n")
			rename(t, root+"/etc/hosts.new", root+"/etc/hosts")
		},
		"in place of what the link names": func(t *testing.T, root string) {
			write(t, root+"/run/hypeman/etc/new", read(t, root+"/etc/hosts")+"10.9.9.9\tdatabase\n")
			rename(t, root+"/run/hypeman/etc/new", root+"/run/hypeman/etc/hosts")
		},
	} {
		r := newRig(t)
		r.boot(bodyOf("i1", shellOf("exit 0")))
		<-r.ended
		add(t, r.server.Root)
		for _, name := range []string{"web-2", "web-3"} {
			r.renew(bodyOf("i2", map[string]any{"reason": "fork", "hostname": name}))
			if hosts := read(t, r.server.Root+"/etc/hosts"); !strings.Contains(hosts, "\t"+name+"\n") || strings.Count(hosts, "database") != 1 || strings.Contains(hosts, "web-1") {
				t.Error(how, hosts)
			}
		}
	}
}

func remove(t *testing.T, path string) {
	t.Helper()
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
}

func rename(t *testing.T, from, to string) {
	t.Helper()
	if err := os.Rename(from, to); err != nil {
		t.Fatal(err)
	}
}

func TestTheClockIsSteppedAgain(t *testing.T) {
	r := newRig(t)
	if got := r.renew(map[string]any{"reason": "clock", "time_unix_ns": "1700000000000000001"}); got != "clock" || r.guest.noted()[0] != "clock 1700000000000000001" {
		t.Fatal(got, r.guest.noted())
	}
	if got := r.renew(map[string]any{"reason": "clock"}); got != "clock!the time is not a decimal number" {
		t.Fatal(got)
	}
}

func TestBootIDsAreRandomUUIDs(t *testing.T) {
	a, b := newBootID(), newBootID()
	if a == b || len(a) != 36 || a[14] != '4' || !strings.ContainsRune("89ab", rune(a[19])) {
		t.Fatal(a, b)
	}
}

func TestShutdownWithoutAWorkloadTurnsThePowerOff(t *testing.T) {
	r := newRig(t)
	r.ask(202, "POST", "/v1/shutdown", nil)
	waitUntil(t, "the power is off", func() bool { return len(r.guest.noted()) == 1 })
}

func TestShutdownKillsWhatIgnoresItsSignalAfterTheGrace(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("trap 'echo asked' USR1 TERM; echo ready; while :; do sleep 0.01; done")))
	waitUntil(t, "the program is ready", func() bool { return strings.Contains(r.log.String(), "ready") })
	began := time.Now()
	r.ask(202, "POST", "/v1/shutdown", map[string]any{"signal": "USR1", "grace_ms": 200})
	if status := <-r.ended; status.Signal != "SIGKILL" || time.Since(began) < 200*time.Millisecond || status.OOM {
		t.Fatal(status, time.Since(began))
	}
	if !strings.Contains(r.log.String(), "asked") {
		t.Fatal(r.log)
	}
}

func TestAHandlerThatPanicsIsAnsweredAndTheAgentGoesOn(t *testing.T) {
	r := newRig(t)
	r.server.Guest, r.server.Workload = nil, nil // what asks them panics
	if answer := r.ask(500, "GET", "/v1/health", nil); answer["code"] != "internal" {
		t.Fatal(answer)
	}
	if got := r.renew(bodyOf("i2", map[string]any{"reason": "fork"})); !strings.HasPrefix(got, "refused the agent failed") {
		t.Fatal(got)
	}
}

func TestExecInheritsTheWorkloadsSettings(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	r.server.Workload.Start(process.Command{Argv: []string{"true"}, Env: map[string]string{"COLOUR": "blue"}, Cwd: directory}, "")
	<-r.ended
	stdout, _, _ := r.exec(sh("echo $COLOUR $PWD $SIZE")).end()
	if stdout != "blue "+directory+"\n" {
		t.Fatal(stdout)
	}
}

func TestWhoWatchesTheDirectoryIsToldOfANewGeneration(t *testing.T) {
	r := newRig(t)
	r.renew(bodyOf("i1", map[string]any{"reason": "fork", "generation": 1}))
	watch, err := syscall.InotifyInit1(syscall.IN_CLOEXEC | syscall.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(watch)
	if _, err := syscall.InotifyAddWatch(watch, r.server.Root+"/run/hypeman", syscall.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	for _, generation := range []int{2, 3} {
		r.renew(bodyOf("i1", map[string]any{"reason": "restore", "generation": generation}))
		buffer := make([]byte, 4096)
		n, err := syscall.Read(watch, buffer)
		if err != nil || !strings.Contains(string(buffer[:n]), "generation\x00") {
			t.Fatal(err, n)
		}
		if content := read(t, r.server.Root+"/run/hypeman/generation"); !strings.Contains(content, fmt.Sprintf(`"generation":%d,`, generation)) {
			t.Fatal(content)
		}
	}
}
