package main

import "testing"

func TestTheLogIsOnATerminalAndNothingElse(t *testing.T) {
	for name, device := range map[string]string{
		"hvc0":          "/dev/hvc0",
		"../etc/passwd": "/dev/passwd",
	} {
		if got := terminalOf(name); got != device {
			t.Errorf("%s: %q instead of %q", name, got, device)
		}
	}
}
