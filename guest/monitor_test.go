package main

import (
	"os"
	"regexp"
	"strconv"
	"testing"
	"time"
)

func TestTheRuntimesFirstThreadIsItsMonitor(t *testing.T) {
	monitor, err := firstThread()
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	defer close(stop)
	go func() { // while a goroutine runs the monitor wakes, at least a hundred times a second; a thread that waits for work does not
		for {
			select {
			case <-stop:
				return
			default:
			}
		}
	}()
	before := switchesOf(t, monitor)
	for deadline := time.Now().Add(30 * time.Second); switchesOf(t, monitor) < before+100; time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the thread %d has woken %d times", monitor, switchesOf(t, monitor)-before)
		}
	}
}

var voluntary = regexp.MustCompile(`\nvoluntary_ctxt_switches:\s+(\d+)`)

// switchesOf is how often a thread has gone to sleep.
func switchesOf(t *testing.T, thread int) int {
	t.Helper()
	status, err := os.ReadFile("/proc/self/task/" + strconv.Itoa(thread) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	found := voluntary.FindSubmatch(status)
	if found == nil {
		t.Fatalf("%s", status)
	}
	count, err := strconv.Atoi(string(found[1]))
	if err != nil {
		t.Fatal(err)
	}
	return count
}
