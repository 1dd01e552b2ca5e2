package main

import "testing"

func TestTheLogIsOnTheTerminalThatTheCommandLineNames(t *testing.T) {
	for cmdline, device := range map[string]string{
		"quiet hypeman.log=hvc0 panic=-1": "/dev/hvc0",
		"hypeman.log=../etc/passwd":       "/dev/passwd",
		"hypeman.log=":                    "",
		"quiet":                           "",
	} {
		if got := logDevice(cmdline); got != device {
			t.Errorf("%s: %q instead of %q", cmdline, got, device)
		}
	}
}
