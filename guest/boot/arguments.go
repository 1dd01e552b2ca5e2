package boot

import (
	"os"
	"strings"
)

// arguments are the words of the kernel's command line, as Prepare has read them: later a program may have mounted something else over /proc.
var arguments []string

func readArguments() error {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	arguments = strings.Fields(string(line))
	return nil
}

// Argument is what follows a prefix, such as hypeman.log=, in the first of the kernel's arguments that begins with it; empty if there is none.
func Argument(prefix string) string {
	for _, one := range arguments {
		if strings.HasPrefix(one, prefix) {
			return strings.TrimPrefix(one, prefix)
		}
	}
	return ""
}
