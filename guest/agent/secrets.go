package agent

import (
	"errors"
	"os"
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
func (s *Server) secrets(request Identity) []step {
	if len(request.SecretFiles) == 0 {
		return nil
	}
	return []step{{"secrets", func() error {
		if err := s.Guest.KeepInMemory(s.Root + secretsDirectory); err != nil {
			return err
		}
		for _, file := range request.SecretFiles {
			if err := writeSecret(s.Root+secretsDirectory, file); err != nil {
				return err
			}
		}
		return nil
	}}}
}

// writeSecret gives a file its content, so that a reader sees the old or the new whole. A link at the name is replaced, not followed.
func writeSecret(directory string, secret SecretFile) error {
	beside := directory + nextSecret
	file, err := create(beside, 0o400)
	if err != nil {
		return err
	}
	written, err := syscall.Write(file, []byte(secret.Text))
	syscall.Close(file)
	if err == nil && written != len(secret.Text) {
		err = syscall.ENOSPC
	}
	if err == nil {
		err = syscall.Rename(beside, directory+"/"+secret.Name)
	}
	if err != nil {
		syscall.Unlink(beside)
		return &os.PathError{Op: "write", Path: secretsDirectory + "/" + secret.Name, Err: err}
	}
	return nil
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
