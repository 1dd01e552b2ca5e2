// Package freezer has the guest's programs stand still while the guest changes who it is. All that the agent starts is in one control group (cgroups(7), version 2), which
// the kernel freezes and thaws as a whole. The agent itself is in the root group, which is never frozen.
package freezer

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
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

// longestSweep is how often stray processes are looked for: one that makes others while it is moved may need another look.
const longestSweep = 10

// Freezer holds the control groups of one guest.
type Freezer struct {
	// Root is where control groups are mounted.
	Root string
	// home is the control group of this process.
	home string
	// starting is held by who starts a program, for reading, and from Freeze to Thaw.
	starting sync.RWMutex
	mu       sync.Mutex // guards what follows
	frozen   []group    // empty: programs run
	own      group      // of all programs; stays open, as opening files is much of what a fork would do
	execs    int        // its cgroup.procs; 0: not open yet
}

// group is a control group whose files are open.
type group struct{ freeze, events int }

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
	if f.own, err = f.openGroup(programs); err != nil {
		return err
	}
	f.execs, err = open(f.Root+"/"+execs+"/cgroup.procs", syscall.O_WRONLY)
	return err
}

// Workload is the directory of the control group of the image's program.
func (f *Freezer) Workload() string { return f.Root + "/" + workload }

// Start has start make a process, and puts it where it stands still with the others. While they do, it waits.
func (f *Freezer) Start(start func() (int, error)) error {
	f.starting.RLock()
	defer f.starting.RUnlock()
	pid, err := start()
	if err == nil {
		f.admit(pid)
	}
	return err
}

// admit puts a process among the programs that exec has started. One that it fails for is found by the next sweep.
func (f *Freezer) admit(pid int) {
	if _, err := syscall.Pwrite(f.execs, []byte(strconv.Itoa(pid)), 0); err != nil && err != syscall.ESRCH {
		fmt.Fprintf(os.Stderr, "agent: the process %d could not be put in its control group: %v\n", pid, err)
	}
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

// HooksEnded puts what hooks have left in the background among the programs.
func (f *Freezer) HooksEnded() error {
	pids, err := members(f.Root + "/" + hooks)
	for _, pid := range pids {
		f.admit(pid)
	}
	return err
}

// Frozen tells whether the programs stand still.
func (f *Freezer) Frozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.frozen) > 0
}

// Freeze has all programs stand still, and those that are being started wait. Doing it twice is no error.
func (f *Freezer) Freeze() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.frozen) > 0 {
		return nil
	}
	f.starting.Lock()
	err := f.freezeAll()
	if err != nil {
		_ = f.thawAll() // what was frozen until then; the first failure is told
		f.starting.Unlock()
	}
	return err
}

func (f *Freezer) freezeAll() error {
	if err := f.goHome(); err != nil {
		return err
	}
	if err := f.sweep(); err != nil {
		return err
	}
	groups, err := f.foreign()
	if err != nil {
		return err
	}
	groups = append(groups, f.own)
	for _, one := range groups {
		f.frozen = append(f.frozen, one)
		if _, err := syscall.Pwrite(one.freeze, []byte("1"), 0); err != nil {
			return os.NewSyscallError("freeze", err)
		}
	}
	deadline := time.Now().Add(standStillLimit)
	for _, one := range groups {
		if err := one.awaitStill(deadline); err != nil {
			return err
		}
	}
	return nil
}

// Thaw has the programs go on. Doing it twice is no error.
func (f *Freezer) Thaw() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.frozen) == 0 {
		return nil
	}
	if err := f.thawAll(); err != nil {
		return err
	}
	f.starting.Unlock()
	return nil
}

func (f *Freezer) thawAll() error {
	for len(f.frozen) > 0 {
		last := f.frozen[len(f.frozen)-1]
		// A program may have removed a group that is not the agent's own; then nobody is in it.
		if _, err := syscall.Pwrite(last.freeze, []byte("0"), 0); err != nil && (last == f.own || err != syscall.ENODEV) {
			return os.NewSyscallError("thaw", err)
		}
		if last != f.own {
			last.close()
		}
		f.frozen = f.frozen[:len(f.frozen)-1]
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

// sweep puts among the programs what is beside the agent in the root group: what a program has made before it was put in its own group, or has moved there.
func (f *Freezer) sweep() error {
	for pass := 0; pass < longestSweep; pass++ {
		pids, err := members(f.Root)
		if err != nil {
			return err
		}
		threads := kernelThreads()
		found := false
		for _, pid := range pids {
			if pid != os.Getpid() && !threads[pid] && !ofTheKernel(pid) {
				f.admit(pid)
				found = true
			}
		}
		if !found {
			return nil
		}
	}
	return errors.New("programs keep leaving their control group")
}

// kthreadd makes all threads of the kernel.
const kthreadd = 2

// kernelThreads lists, with one look, the threads of the kernel that there are; none where the kernel does not tell.
func kernelThreads() map[int]bool {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(kthreadd) + "/task/" + strconv.Itoa(kthreadd) + "/children")
	if err != nil {
		return nil
	}
	words := strings.Fields(string(content))
	threads := make(map[int]bool, len(words))
	for _, word := range words {
		if pid, err := strconv.Atoi(word); err == nil {
			threads[pid] = true
		}
	}
	return threads
}

// ofTheKernel tells whether a process is a thread of the kernel, which stands still for nobody, or is gone.
func ofTheKernel(pid int) bool {
	if pid == kthreadd {
		return true
	}
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	// "pid (name) state ppid …"; the name may have anything in it.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	return len(fields) < 2 || fields[1] == strconv.Itoa(kthreadd)
}

// foreign opens the groups that programs have made beside the agent's own and that do not stand still already.
func (f *Freezer) foreign() ([]group, error) {
	entries, err := os.ReadDir(f.Root)
	if err != nil {
		return nil, err
	}
	var groups []group
	for _, entry := range entries {
		if !entry.IsDir() || entry.Name() == programs || entry.Name() == hooks {
			continue
		}
		one, err := f.openGroup(entry.Name())
		if errors.Is(err, os.ErrNotExist) { // removed meanwhile
			continue
		}
		if err != nil {
			return groups, err
		}
		if one.said("frozen 1") {
			one.close()
			continue
		}
		groups = append(groups, one)
	}
	return groups, nil
}

func (f *Freezer) openGroup(name string) (group, error) {
	freeze, err := open(f.Root+"/"+name+"/cgroup.freeze", syscall.O_RDWR)
	if err != nil {
		return group{}, err
	}
	events, err := open(f.Root+"/"+name+"/cgroup.events", syscall.O_RDONLY)
	if err != nil {
		syscall.Close(freeze)
		return group{}, err
	}
	return group{freeze, events}, nil
}

func (g group) close() {
	syscall.Close(g.freeze)
	syscall.Close(g.events)
}

// said tells whether the group's events have a line.
func (g group) said(line string) bool {
	var content [256]byte
	n, err := syscall.Pread(g.events, content[:], 0)
	return err == nil && strings.Contains("\n"+string(content[:n]), "\n"+line+"\n")
}

// awaitStill waits until all of the group stand still, or the time is over.
func (g group) awaitStill(deadline time.Time) error {
	const priority, failed = 0x2, 0x8 // poll(2): POLLPRI, POLLERR
	for !g.said("frozen 1") {
		left := time.Until(deadline)
		if left <= 0 {
			return nil // see standStillLimit
		}
		request := struct {
			fd              int32
			events, results int16
		}{int32(g.events), priority | failed, 0}
		limit := syscall.NsecToTimespec(left.Nanoseconds())
		_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&request)), 1, uintptr(unsafe.Pointer(&limit)), 0, 0, 0)
		if errno != 0 && errno != syscall.EINTR {
			return os.NewSyscallError("ppoll", errno)
		}
	}
	return nil
}

// members lists the processes of a group.
func members(directory string) ([]int, error) {
	content, err := os.ReadFile(directory + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, word := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 { // 0: of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

func open(path string, flags int) (int, error) {
	file, err := syscall.Open(path, flags|syscall.O_CLOEXEC, 0)
	if err != nil {
		return 0, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return file, nil
}
