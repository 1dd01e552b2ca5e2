package agent

import "runtime"

// The runtime has as many processors as the machine while the host tells its agent nothing but renewals, so that a fork begins with little that it writes of its own. As soon as there
// are requests it has one more: while a system call blocks, as that which starts a program does, other goroutines run on it. The runtime's monitor, which would see to that, sleeps long (monitor.go). A source that
// goes on after its snapshot has as many as before.

// fewProcessors tells whether there was one more until then.
func fewProcessors() bool {
	more := runtime.GOMAXPROCS(0) > runtime.NumCPU()
	setProcessors(runtime.NumCPU())
	return more
}

func oneMoreProcessor() { setProcessors(runtime.NumCPU() + 1) }

// setProcessors stops all goroutines for a moment, if anything changes.
func setProcessors(count int) {
	if runtime.GOMAXPROCS(0) != count {
		runtime.GOMAXPROCS(count)
	}
}
