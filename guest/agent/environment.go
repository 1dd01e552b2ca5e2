package agent

import (
	"sort"
	"strings"
	"syscall"
)

// environmentFile names the variables of a fork that was given others than its source. Root alone reads it: some may be secret.
const environmentFile = "/run/hypeman/env"

// environment gives a fork its variables: what exec, hooks and later programs of the agent run has them. A program that goes on keeps what it was started with.
func (s *Server) environment(request *Identity) step {
	return step{"environment", func() error {
		file, err := s.createFile(s.Root+environmentFile, environmentLines(request.Program.Env), 0o600)
		if err != nil {
			return err
		}
		syscall.Close(file)
		s.Workload.SetEnvironment(request.Program.Env)
		return nil
	}}
}

// environmentLines is a line NAME='VALUE' for each variable, in the order of their names, as a shell reads it. Names that no shell takes are left out.
func environmentLines(variables map[string]string) string {
	names := make([]string, 0, len(variables))
	for name := range variables {
		if isShellName(name) {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	var text strings.Builder
	for _, name := range names {
		text.WriteString(name + "='" + strings.ReplaceAll(variables[name], "'", `'\''`) + "'\n")
	}
	return text.String()
}

func isShellName(name string) bool {
	for i, c := range name {
		letter := c == '_' || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return name != ""
}
