package agent

import (
	"errors"
	"strings"
	"syscall"
)

// secretsDirectory has the secret files, for root alone, in memory.
const secretsDirectory = "/run/secrets"

// nextSecret is what a file is called until it is whole; no secret's name begins with a dot.
const nextSecret = "/.next"

// SecretFile is a file below secretsDirectory.
type SecretFile struct{ Name, Text string }

// secrets writes the files that a boot or a fork was given. Others that are there stay.
func (s *Server) secrets(request *Identity) []step {
	if len(request.SecretFiles) == 0 {
		return nil
	}
	return []step{{"secrets", func() error {
		if err := s.Guest.KeepInMemory(s.Root + secretsDirectory); err != nil {
			return err
		}
		for _, file := range request.SecretFiles {
			directory := s.Root + secretsDirectory
			written, err := replaceBy(directory+nextSecret, directory+"/"+file.Name, file.Text, 0o400)
			if err != nil {
				return err
			}
			syscall.Close(written)
		}
		return nil
	}}}
}

// addSecret reads "NAME=TEXT".
func (request *Identity) addSecret(value string) error {
	name, text, ok := strings.Cut(value, "=")
	if !ok || name == "" || name[0] == '.' || strings.ContainsAny(name, "/\x00") {
		return errors.New("it has the form NAME=TEXT, the name of a file that is not hidden")
	}
	request.SecretFiles = append(request.SecretFiles, SecretFile{name, text})
	return nil
}
