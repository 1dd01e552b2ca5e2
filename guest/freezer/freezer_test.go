package freezer

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newFreezer has groups of its own below a mount of cgroup v2; without one, or without the right to it, the test is skipped.
func newFreezer(t *testing.T) *Freezer {
	t.Helper()
	_ = t.TempDir() // removed after what is cleaned up here, which ends the programs that write into it
	mount := ""
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(string(content), "\n") {
		if fields := strings.Fields(line); len(fields) > 2 && fields[2] == "cgroup2" {
			mount = fields[1]
		}
	}
	if mount == "" {
		t.Skip("cgroup v2 is not mounted here; run as root of a Linux with it")
	}
	root, err := os.MkdirTemp(mount, "hypeman-test-")
	if err != nil {
		t.Skipf("control groups can't be made here; run as root: %v", err)
	}
	f := &Freezer{Root: root}
	t.Cleanup(func() {
		_ = f.Thaw()
		var groups []string
		_ = filepath.Walk(root, func(path string, info os.FileInfo, err error) error {
			if err == nil && info.IsDir() {
				groups = append([]string{path}, groups...)
			}
			return nil
		})
		for _, one := range groups {
			pids, _ := members(one)
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			waitUntil(t, "the group is empty and gone", func() bool { return os.Remove(one) == nil })
		}
	})
	_ = f.Prepare() // controllers are not to be had everywhere, and are not what is tested
	if f.own == (group{}) || f.execs == 0 {
		t.Fatal("the groups could not be made")
	}
	return f
}

func waitUntil(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("timed out waiting until %s", what)
		}
	}
}

// counter starts a program that counts in a file, by way of start.
func counter(t *testing.T, start func(func() (int, error)) error) (count func() int64, pid int) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "count")
	return counterOf(t, start, file, "while :; do echo >>"+file+"; done") // no child that could be elsewhere
}

func counterOf(t *testing.T, start func(func() (int, error)) error, file, script string) (count func() int64, pid int) {
	t.Helper()
	command := exec.Command("sh", "-c", script)
	err := start(func() (int, error) {
		if err := command.Start(); err != nil {
			return 0, err
		}
		go func() { _ = command.Wait() }() // killed at the end of the test
		return command.Process.Pid, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	count = func() int64 {
		found, err := os.Stat(file)
		if err != nil {
			return 0
		}
		return found.Size()
	}
	waitUntil(t, "it counts", func() bool { return count() > 0 })
	return count, command.Process.Pid
}

// assertStill fails if a program does anything in a time in which it would count far.
func assertStill(t *testing.T, count func() int64) {
	t.Helper()
	before := count()
	for end := time.Now().Add(50 * time.Millisecond); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if now := count(); now != before {
			t.Fatalf("it has counted from %d to %d", before, now)
		}
	}
}

func assertRuns(t *testing.T, count func() int64) {
	t.Helper()
	before := count()
	waitUntil(t, "it counts on", func() bool { return count() != before })
}

func freeze(t *testing.T, f *Freezer) {
	t.Helper()
	if err := f.Freeze(); err != nil {
		t.Fatal(err)
	}
}

func thaw(t *testing.T, f *Freezer) {
	t.Helper()
	if err := f.Thaw(); err != nil {
		t.Fatal(err)
	}
}

func TestProgramsStandStillUntilTheyAreThawed(t *testing.T) {
	f := newFreezer(t)
	count, _ := counter(t, f.Start)
	for range []int{1, 2} {
		freeze(t, f)
		freeze(t, f) // twice is no error
		assertStill(t, count)
		if !f.Frozen() {
			t.Fatal("it does not know that they stand still")
		}
		thaw(t, f)
		thaw(t, f)
		assertRuns(t, count)
	}
}

func TestAProgramThatIsStartedMeanwhileWaits(t *testing.T) {
	f := newFreezer(t)
	freeze(t, f)
	begun, ended := make(chan struct{}), make(chan struct{})
	go func() {
		close(begun)
		_ = f.Start(func() (int, error) { return 0, syscall.ENOENT })
		close(ended)
	}()
	<-begun
	select {
	case <-ended:
		t.Fatal("a program was started while all stand still")
	case <-time.After(50 * time.Millisecond):
	}
	thaw(t, f)
	<-ended
}

func TestHooksRunWhileProgramsStandStillAndThenBelongToThem(t *testing.T) {
	f := newFreezer(t)
	freeze(t, f)
	count, _ := counter(t, f.StartHook)
	assertRuns(t, count)
	if err := f.HooksEnded(); err != nil {
		t.Fatal(err)
	}
	waitUntil(t, "it stands still", func() bool { return f.own.isStill() })
	assertStill(t, count)
	thaw(t, f)
	assertRuns(t, count)
}

func TestWhatHasLeftItsGroupStandsStillToo(t *testing.T) {
	for where, leave := range map[string]func(t *testing.T, f *Freezer, pid int){
		"to the root group": func(t *testing.T, f *Freezer, pid int) { move(t, f.Root, pid) },
		"to a group of its own": func(t *testing.T, f *Freezer, pid int) {
			// Moved out first: the test's root group has no controllers that would forbid it.
			if err := os.MkdirAll(f.Root+"/containers/one", 0o755); err != nil {
				t.Fatal(err)
			}
			move(t, f.Root+"/containers/one", pid)
		},
	} {
		t.Run(where, func(t *testing.T) {
			f := newFreezer(t)
			count, pid := counter(t, f.Start)
			leave(t, f, pid)
			freeze(t, f)
			assertStill(t, count)
			thaw(t, f)
			assertRuns(t, count)
		})
	}
}

func move(t *testing.T, group string, pid int) {
	t.Helper()
	if err := os.WriteFile(group+"/cgroup.procs", []byte(fmt.Sprint(pid)), 0); err != nil {
		t.Fatal(err)
	}
}

func TestWhatAProgramHasFrozenItselfStaysSo(t *testing.T) {
	f := newFreezer(t)
	paused := f.Root + "/containers"
	if err := os.Mkdir(paused, 0o755); err != nil {
		t.Fatal(err)
	}
	count, pid := counter(t, f.Start)
	move(t, paused, pid)
	if err := os.WriteFile(paused+"/cgroup.freeze", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	one, err := openGroup(paused)
	if err != nil {
		t.Fatal(err)
	}
	defer one.close()
	waitUntil(t, "it stands still", func() bool { return one.isStill() })
	freeze(t, f)
	thaw(t, f)
	assertStill(t, count)
}

func TestAGroupThatIsRemovedMeanwhileIsNoFailure(t *testing.T) {
	f := newFreezer(t)
	if err := os.Mkdir(f.Root+"/gone", 0o755); err != nil {
		t.Fatal(err)
	}
	freeze(t, f)
	if err := os.Remove(f.Root + "/gone"); err != nil {
		t.Fatal(err)
	}
	thaw(t, f)
}

func TestAProgramThatKeepsLeavingItsGroupStandsStillToo(t *testing.T) {
	f := newFreezer(t)
	file := filepath.Join(t.TempDir(), "count")
	count, _ := counterOf(t, f.Start, file, "while :; do echo 0 >"+f.Root+"/cgroup.procs; echo >>"+file+"; done")
	for range []int{1, 2, 3} {
		freeze(t, f)
		assertStill(t, count)
		thaw(t, f)
		assertRuns(t, count)
	}
}

func TestWhatHooksHaveMovedElsewhereStandsStillWhenTheyHaveEnded(t *testing.T) {
	f := newFreezer(t)
	toRoot, one := counter(t, f.Start)
	toGroup, other := counter(t, f.Start)
	freeze(t, f)
	if err := os.Mkdir(f.Root+"/late", 0o755); err != nil {
		t.Fatal(err)
	}
	move(t, f.Root, one)
	move(t, f.Root+"/late", other)
	assertRuns(t, toRoot)
	assertRuns(t, toGroup)
	if err := f.HooksEnded(); err != nil {
		t.Fatal(err)
	}
	assertStill(t, toRoot)
	assertStill(t, toGroup)
	thaw(t, f)
	assertRuns(t, toRoot)
	assertRuns(t, toGroup)
}

func TestWhatIsInTheGroupOfHooksStandsStillWithTheOthers(t *testing.T) {
	f := newFreezer(t)
	count, _ := counter(t, f.StartHook)
	freeze(t, f)
	assertStill(t, count)
	thaw(t, f)
	assertRuns(t, count)
}

func TestWhatIsInAGroupThatAHookHasMadeBelowItsOwnStandsStillWithTheOthers(t *testing.T) {
	f := newFreezer(t)
	count, pid := counter(t, f.StartHook)
	below := f.Root + "/" + hooks + "/one/two"
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	move(t, below, pid)
	freeze(t, f)
	assertStill(t, count)
	thaw(t, f)
	assertRuns(t, count)

	freeze(t, f)
	move(t, below, pid)
	assertRuns(t, count)
	if err := f.HooksEnded(); err != nil {
		t.Fatal(err)
	}
	assertStill(t, count)
}

func TestAProgramThatDoesNotComeUpIsAFailureAndAllGoesOnAsBefore(t *testing.T) {
	f := newFreezer(t)
	begun, release, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		_ = f.Start(func() (int, error) {
			close(begun)
			<-release
			return 0, syscall.EIO
		})
		close(ended)
	}()
	<-begun
	if err := f.Freeze(); err == nil || !strings.Contains(err.Error(), "does not come up") || f.Frozen() {
		t.Fatal(err)
	}
	count, _ := counter(t, f.Start) // others are started meanwhile
	thaw(t, f)
	close(release)
	<-ended
	freeze(t, f)
	assertStill(t, count)
	thaw(t, f)
	assertRuns(t, count)
}

func TestAGroupThatIsRemovedBeforeItIsFrozenIsNoFailure(t *testing.T) {
	f := newFreezer(t)
	if err := os.Mkdir(f.Root+"/gone", 0o755); err != nil {
		t.Fatal(err)
	}
	one, err := openGroup(f.Root + "/gone")
	if err != nil {
		t.Fatal(err)
	}
	if one.isStill() {
		t.Fatal("an empty group that nobody has frozen stands still")
	}
	if err := os.Remove(f.Root + "/gone"); err != nil {
		t.Fatal(err)
	}
	if !one.isStill() {
		t.Fatal("a group that is gone is waited for")
	}
	if err := f.hold(one); err != nil || f.holds(one) {
		t.Fatal(err, f.held)
	}
	if err := os.Remove(f.Root + "/" + hooks); err != nil {
		t.Fatal(err)
	}
	freeze(t, f)
}

func TestProgramsWaitUntilWhatAFailedFreezeHasLeftIsThawed(t *testing.T) {
	f := newFreezer(t)
	own, broken := f.own, group{freeze: -1, events: -1}
	f.own, f.held = broken, []group{{freeze: -1, events: -1, id: 1}}
	if err := f.Freeze(); err == nil || f.Frozen() {
		t.Fatal("it was frozen")
	}
	if err := f.Thaw(); err == nil {
		t.Fatal("it was thawed")
	}
	if f.starting.TryRLock() {
		t.Fatal("programs may be started while others stand still")
	}
	f.own, f.held = own, nil
	thaw(t, f)
	count, _ := counter(t, f.Start)
	freeze(t, f)
	assertStill(t, count)
	thaw(t, f)
	assertRuns(t, count)
}

func TestTheAgentNeverFreezesItself(t *testing.T) {
	f := newFreezer(t)
	home, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	before := homeDirectory(t, f, string(home))
	if err := os.Mkdir(f.Root+"/init", 0o755); err != nil {
		t.Fatal(err)
	}
	move(t, f.Root+"/init", os.Getpid())
	t.Cleanup(func() { move(t, before, os.Getpid()) })
	freeze(t, f) // else the test ends here
	thaw(t, f)
	pids, err := members(f.Root + "/init")
	if err != nil || len(pids) != 0 {
		t.Fatal(pids, err)
	}
}

// homeDirectory is the directory of this process's group of version 2, in the mount that the freezer is in.
func homeDirectory(t *testing.T, f *Freezer, content string) string {
	t.Helper()
	for _, line := range strings.Split(content, "\n") {
		if path := strings.TrimPrefix(line, "0::"); path != line {
			return filepath.Dir(f.Root) + path
		}
	}
	t.Fatal("this process is in no control group of version 2")
	return ""
}

func TestThreadsOfTheKernelAreToldFromProgramsThatTheKernelStarts(t *testing.T) {
	for stat, want := range map[string]bool{
		"12 (kworker/0:1) I 2 0 0 0 -1 69238880 0 0":       true,
		"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0":            true,
		"99 (a handler) S 2 99 99 0 -1 4194560 0 0":        false, // of core dumps
		"99 (odd) 1 2 3 4 5 6 2129984) S 1 9 9 0 -1 64 0":  false,
		"99 (odd) 1 2 3 4 5 6 7) S 2 0 0 0 -1 2129984 0 0": true,
		"99 (short) S 2": false,
		"":               false,
	} {
		if isOfTheKernel(stat) != want {
			t.Error(stat)
		}
	}
}

func TestWhatIsNoThreadOfTheKernelIsNotTakenForOne(t *testing.T) {
	all := &threads{}
	for range []int{1, 2} {
		all.look()
		if all.has(os.Getpid()) || !all.has(1<<30) {
			t.Fatal("this process is taken for the kernel's, or nobody is not")
		}
	}
	all.known[os.Getpid()] = true // of a thread that had this number
	all.look()
	if all.has(os.Getpid()) {
		t.Fatal("a number is trusted that kthreadd has no more")
	}
	for _, pid := range childrenOf(kthreadd) {
		if content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat"); err == nil && isOfTheKernel(string(content)) && (!all.has(pid) || !all.known[pid]) {
			t.Fatal(pid)
		}
	}
}
