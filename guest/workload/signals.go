package workload

import (
	"strconv"
	"strings"
	"syscall"
)

var signals = map[string]syscall.Signal{
	"SIGHUP": syscall.SIGHUP, "SIGINT": syscall.SIGINT, "SIGQUIT": syscall.SIGQUIT, "SIGILL": syscall.SIGILL, "SIGTRAP": syscall.SIGTRAP,
	"SIGABRT": syscall.SIGABRT, "SIGBUS": syscall.SIGBUS, "SIGFPE": syscall.SIGFPE, "SIGKILL": syscall.SIGKILL, "SIGUSR1": syscall.SIGUSR1,
	"SIGSEGV": syscall.SIGSEGV, "SIGUSR2": syscall.SIGUSR2, "SIGPIPE": syscall.SIGPIPE, "SIGALRM": syscall.SIGALRM, "SIGTERM": syscall.SIGTERM,
	"SIGCHLD": syscall.SIGCHLD, "SIGCONT": syscall.SIGCONT, "SIGSTOP": syscall.SIGSTOP, "SIGTSTP": syscall.SIGTSTP, "SIGTTIN": syscall.SIGTTIN,
	"SIGTTOU": syscall.SIGTTOU, "SIGURG": syscall.SIGURG, "SIGXCPU": syscall.SIGXCPU, "SIGXFSZ": syscall.SIGXFSZ, "SIGWINCH": syscall.SIGWINCH,
	"SIGIO": syscall.SIGIO, "SIGPWR": syscall.SIGPWR, "SIGSYS": syscall.SIGSYS,
}

// SignalNumber reads a signal as image configurations and users write it: SIGTERM, TERM, 15, RTMIN+3.
func SignalNumber(name string) (syscall.Signal, bool) {
	name = strings.ToUpper(strings.TrimSpace(name))
	if number, err := strconv.Atoi(name); err == nil {
		return syscall.Signal(number), number > 0 && number <= 64
	}
	name = "SIG" + strings.TrimPrefix(name, "SIG")
	if signal, ok := signals[name]; ok {
		return signal, true
	}
	if strings.HasPrefix(name, "SIGRTMIN+") {
		if offset, err := strconv.Atoi(name[len("SIGRTMIN+"):]); err == nil && offset >= 0 && offset <= 30 {
			return syscall.Signal(34 + offset), true
		}
	}
	return 0, false
}

// SignalName is the name with SIG, or the number where there is none.
func SignalName(signal syscall.Signal) string {
	for name, number := range signals {
		if number == signal {
			return name
		}
	}
	return strconv.Itoa(int(signal))
}
