// Package freezer has the guest's programs stand still while the guest changes who it is. All that the agent starts is in one control group (cgroups(7), version 2), which
// the kernel freezes and thaws as a whole. The agent itself is in the root group, which is never frozen.
package freezer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// The groups below the mount: programs is what is frozen. Hooks run while everything else stands still.
const (
	programs = "programs"
	workload = "programs/workload"
	execs    = "programs/exec"
	hooks    = "hooks"
)

const controllers = "+memory +pids"

// standStillLimit bounds the wait for programs to stand still. What takes longer is inside of a system call that nothing interrupts, and stands still before it is back in the program.
const standStillLimit = 500 * time.Millisecond

// startPoll is how often Freeze looks whether programs that were being started have been.
const startPoll = time.Millisecond

// leastLooks is how often strays are looked for, however late it is: one that makes others while it is moved may need another look.
const leastLooks = 10

// Freezer holds the control groups of one guest.
type Freezer struct {
	// Root is where control groups are mounted.
	Root string
	// home is the control group of this process.
	home string
	// starting is held by who starts a program, for reading, and from Freeze to Thaw. Who starts one comes to it through gate, which Freeze holds while it waits.
	starting sync.RWMutex
	gate     sync.Mutex
	mu       sync.Mutex // guards what follows
	waiting  bool       // starting is held by Freeze
	still    bool       // all programs are in groups of held, and stand still
	held     []group    // to be thawed
	own      group      // of all programs; stays open, as opening files is much of what a fork would do
	execs    int        // its cgroup.procs; 0: not open yet
	kernel   threads    // of the kernel
}

// Prepare makes the groups. A kernel without a controller still runs programs, so the first failure is returned and the rest is done.
func (f *Freezer) Prepare() error {
	first := os.WriteFile(f.Root+"/cgroup.subtree_control", []byte(controllers), 0)
	for _, act := range []func() error{
		func() error { return os.MkdirAll(f.Root+"/"+programs, 0o755) },
		func() error {
			return os.WriteFile(f.Root+"/"+programs+"/cgroup.subtree_control", []byte(controllers), 0)
		},
		func() error { return os.MkdirAll(f.Workload(), 0o755) },
		func() error { return os.MkdirAll(f.Root+"/"+execs, 0o755) },
		func() error { return os.MkdirAll(f.Root+"/"+hooks, 0o755) },
		f.open,
	} {
		if err := act(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

func (f *Freezer) open() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	home, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return err
	}
	f.home = string(home)
	if f.own, err = openGroup(f.Root + "/" + programs); err != nil {
		return err
	}
	f.execs, err = open(f.Root+"/"+execs+"/cgroup.procs", syscall.O_WRONLY)
	return err
}

// Workload is the directory of the control group of the image's program.
func (f *Freezer) Workload() string { return f.Root + "/" + workload }

// Start has start make a process, and puts it where it stands still with the others. While they do, it waits.
func (f *Freezer) Start(start func() (int, error)) error {
	f.gate.Lock()
	f.starting.RLock()
	f.gate.Unlock()
	defer f.starting.RUnlock()
	pid, err := start()
	if err != nil {
		return err
	}
	if err := f.admit(pid); err != nil { // the next freeze tries it again
		fmt.Fprintf(os.Stderr, "agent: %v\n", err)
	}
	return nil
}

// admit puts a process among the programs that exec has started.
func (f *Freezer) admit(pid int) error {
	if _, err := syscall.Pwrite(f.execs, []byte(strconv.Itoa(pid)), 0); err != nil && err != syscall.ESRCH {
		return fmt.Errorf("the process %d could not be put in its control group: %w", pid, err)
	}
	return nil
}

// StartHook has start make a process that runs while all others stand still.
func (f *Freezer) StartHook(start func() (int, error)) error {
	pid, err := start()
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.Root+"/"+hooks+"/cgroup.procs", []byte(strconv.Itoa(pid)), 0); err != nil && !errors.Is(err, syscall.ESRCH) {
		fmt.Fprintf(os.Stderr, "agent: a hook could not be put in its control group: %v\n", err)
	}
	return nil
}

// HooksEnded puts what hooks have left in the background, wherever it is, among the programs.
func (f *Freezer) HooksEnded() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.still { // they were run beside programs that run
		_, err := f.admitHooks()
		return err
	}
	return f.holdStrays(time.Now().Add(standStillLimit))
}

// Frozen tells whether the programs stand still.
func (f *Freezer) Frozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.still
}

// Freeze has all programs stand still, and those that are being started wait. Doing it twice is no error.
func (f *Freezer) Freeze() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.still {
		return nil
	}
	if !f.waiting { // else an earlier attempt has failed, and so has undoing it
		if err := f.stopStarting(); err != nil {
			return err
		}
		f.waiting = true
	}
	if err := f.freezeAll(); err != nil {
		_ = f.thaw() // what was frozen until then; the first failure is told
		return err
	}
	f.still = true
	return nil
}

// stopStarting waits for the programs that are being started, but not for one whose file system does not answer: the agent would hear nothing from the host meanwhile.
func (f *Freezer) stopStarting() error {
	f.gate.Lock()
	defer f.gate.Unlock()
	for deadline := time.Now().Add(standStillLimit); !f.starting.TryLock(); time.Sleep(startPoll) {
		if time.Now().After(deadline) {
			return errors.New("a program is being started and does not come up; its file system may not answer")
		}
	}
	return nil
}

func (f *Freezer) freezeAll() error {
	if err := f.goHome(); err != nil {
		return err
	}
	if _, err := f.gather(); err != nil {
		return err
	}
	if err := f.hold(f.own); err != nil {
		return err
	}
	return f.holdStrays(time.Now().Add(standStillLimit))
}

// holdStrays waits until what is held stands still and holds what has left its group until then, until there is nothing left that could move others, or itself.
func (f *Freezer) holdStrays(deadline time.Time) error {
	for look := 0; look < leastLooks || time.Now().Before(deadline); look++ {
		for _, one := range f.held {
			if err := one.awaitStill(deadline); err != nil {
				return err
			}
		}
		if err := f.goHome(); err != nil {
			return err
		}
		gathered, err := f.gather()
		if err != nil {
			return err
		}
		found, err := f.holdForeign()
		if err != nil {
			return err
		}
		if !gathered && !found {
			return nil
		}
	}
	return errors.New("programs keep leaving their control group")
}

// hold freezes a group. One of a program's own that is gone has nobody in it.
func (f *Freezer) hold(one group) error {
	if _, err := syscall.Pwrite(one.freeze, []byte("1"), 0); err != nil {
		if one != f.own {
			one.close()
			if err == syscall.ENODEV {
				return nil
			}
		}
		return os.NewSyscallError("freeze", err)
	}
	if !f.holds(one) {
		f.held = append(f.held, one)
	}
	return nil
}

func (f *Freezer) holds(wanted group) bool {
	for _, one := range f.held {
		if one.id == wanted.id {
			return true
		}
	}
	return false
}

// Thaw has the programs go on. Doing it twice is no error.
func (f *Freezer) Thaw() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.thaw()
}

// thaw has those that wait be started when all is thawed. What can't be is left to the next attempt.
func (f *Freezer) thaw() error {
	f.still = false
	for len(f.held) > 0 {
		last := f.held[len(f.held)-1]
		// A program may have removed a group that is not the agent's own; then nobody is in it.
		if _, err := syscall.Pwrite(last.freeze, []byte("0"), 0); err != nil && (last == f.own || err != syscall.ENODEV) {
			return os.NewSyscallError("thaw", err)
		}
		if last != f.own {
			last.close()
		}
		f.held = f.held[:len(f.held)-1]
	}
	if f.waiting {
		f.waiting = false
		f.starting.Unlock()
	}
	return nil
}

// goHome takes this process out of a group that a program has put it into, as scripts do that prepare the root group for containers: it would freeze itself.
func (f *Freezer) goHome() error {
	at, err := os.ReadFile("/proc/self/cgroup")
	if err != nil || string(at) == f.home {
		return err
	}
	return os.WriteFile(f.Root+"/cgroup.procs", []byte(strconv.Itoa(os.Getpid())), 0)
}

// gather puts among the programs what is in the root group beside the agent, what a program has made before it was put in its own group or has moved there, and what hooks have
// left in theirs. It tells whether there was anything.
func (f *Freezer) gather() (bool, error) {
	left, err := f.admitHooks()
	if err != nil {
		return false, err
	}
	pids, err := members(f.Root)
	if err != nil {
		return false, err
	}
	f.kernel.look()
	for _, pid := range pids {
		if pid != os.Getpid() && !f.kernel.has(pid) {
			if err := f.admit(pid); err != nil {
				return false, err
			}
			left = true
		}
	}
	return left, nil
}

// admitHooks tells whether there was anything in the hooks' group, or in those that hooks have made below it.
func (f *Freezer) admitHooks() (bool, error) { return f.admitBelow(f.Root + "/" + hooks) }

// admitBelow puts what is in a group, and in all below it, among the programs. A program may have removed any of them.
func (f *Freezer) admitBelow(directory string) (bool, error) {
	pids, err := members(directory)
	// A group of single threads has no list: their processes are in that of a group above it.
	if err != nil && !isGone(err) && !errors.Is(err, syscall.EOPNOTSUPP) {
		return false, err
	}
	for _, pid := range pids {
		if err := f.admit(pid); err != nil {
			return false, err
		}
	}
	entries, err := os.ReadDir(directory)
	if err != nil && !isGone(err) {
		return false, err
	}
	found := len(pids) > 0
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		below, err := f.admitBelow(directory + "/" + entry.Name())
		if err != nil {
			return found, err
		}
		found = found || below
	}
	return found, nil
}

// holdForeign freezes the groups that programs have made beside the agent's own, but for those that stand still already. It tells whether there were any.
func (f *Freezer) holdForeign() (bool, error) {
	entries, err := os.ReadDir(f.Root)
	if err != nil {
		return false, err
	}
	found := false
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == programs || entry.Name() == hooks {
			continue
		}
		one, err := openGroup(f.Root + "/" + entry.Name())
		if isGone(err) {
			continue
		}
		if err != nil {
			return found, err
		}
		if one.isStill() || f.holds(one) {
			one.close()
			continue
		}
		if err := f.hold(one); err != nil {
			return found, err
		}
		found = true
	}
	return found, nil
}
