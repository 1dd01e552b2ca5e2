// Package process starts programs of the image and waits for them. As PID 1 the agent also inherits every orphan of the guest, so all
// waiting goes through one reaper: no other code of the agent may wait for children.
package process

import (
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// Exit is how a program ended.
type Exit struct {
	Code   int // 128 + signal number if a signal ended it
	Signal syscall.Signal
}

// Reaper collects every child of this process.
type Reaper struct {
	mu      sync.Mutex // held from fork to registration, so that no exit is missed
	waiting map[int]chan Exit
}

// NewReaper starts collecting. Orphans come to this process also where it is not PID 1.
func NewReaper() *Reaper {
	const setChildSubreaper = 36                                             // prctl(2)
	_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, setChildSubreaper, 1, 0) // fails on no kernel of this century
	r := &Reaper{waiting: map[int]chan Exit{}}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGCHLD)
	go func() {
		for range signals {
			r.reap()
		}
	}()
	return r
}

func (r *Reaper) reap() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if ended, ok := r.waiting[pid]; ok {
			delete(r.waiting, pid)
			ended <- exitOf(status)
		}
	}
}

func exitOf(status syscall.WaitStatus) Exit {
	if status.Signaled() {
		return Exit{Code: 128 + int(status.Signal()), Signal: status.Signal()}
	}
	return Exit{Code: status.ExitStatus()}
}

// Start runs a program; its exit comes on the channel, once.
func (r *Reaper) Start(path string, argv []string, attr *syscall.ProcAttr) (int, <-chan Exit, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	pid, err := syscall.ForkExec(path, argv, attr)
	if err != nil {
		return 0, nil, err
	}
	ended := make(chan Exit, 1)
	r.waiting[pid] = ended
	return pid, ended, nil
}
