package main

import (
	"fmt"
	"os"
	"strconv"
)

// monitorSlack is by how much the runtime's monitor may wake late, in nanoseconds.
const monitorSlack = 10_000_000

// calmMonitor keeps the thread by which Go's runtime looks after the others from waking every 20 µs while anything runs: each time is an interrupt and two changes of threads, a fifth of
// what the identity of an emulated fork took (docs/benchmarks.md). It wakes with the kernel's next tick instead.
func calmMonitor() error {
	monitor, err := firstThread()
	if err != nil {
		return err
	}
	// No program inherits it: the monitor starts none. It is the kernel's word that another thread's is set by (proc(5)).
	if err := os.WriteFile("/proc/"+strconv.Itoa(monitor)+"/timerslack_ns", []byte(strconv.Itoa(monitorSlack)), 0); err != nil {
		return fmt.Errorf("the runtime's monitor: %w", err)
	}
	return nil
}

// firstThread is the first that the runtime has made: its monitor, which it starts before anything of the program runs (runtime.main). Threads are numbered as they are made.
func firstThread() (int, error) {
	entries, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return 0, err
	}
	first := 0
	for _, entry := range entries {
		thread, err := strconv.Atoi(entry.Name())
		if err == nil && thread != os.Getpid() && (first == 0 || thread < first) {
			first = thread
		}
	}
	if first == 0 {
		return 0, fmt.Errorf("the runtime has no thread but this one")
	}
	return first, nil
}
