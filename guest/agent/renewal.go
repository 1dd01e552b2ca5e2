package agent

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"hypeman/guest/network"
)

// Renew takes the message that a guest gets first after every boot and restore (protocol.md, section 3) and returns the answer. It stands between a
// guest and its first answer, in code that a fresh emulator has never run: so it is plain text over plain system calls, without HTTP, JSON or reflection.
func (s *Server) Renew(message []byte) (answer []byte) {
	defer func() {
		if cause := recover(); cause != nil {
			fmt.Fprintf(os.Stderr, "agent: renewal: %v\n%s", cause, debug.Stack())
			answer = refusal(errors.New("the agent failed; its console log has the details"))
		}
	}()
	request, err := ParseRenewal(string(message))
	if err != nil {
		return refusal(err)
	}
	s.identity.mu.Lock()
	defer s.identity.mu.Unlock()
	if request.Reason == "boot" {
		answer = s.boot(request)
	} else {
		for _, one := range s.renewalSteps(request) {
			answer = appendResult(answer, run(one))
		}
	}
	answer = append(answer, "time "...)
	return append(strconv.AppendInt(answer, time.Now().UnixNano(), 10), '\n')
}

func (s *Server) renewalSteps(request Identity) []step {
	if request.Reason == "clock" {
		return []step{s.clock(request)}
	}
	steps := make([]step, 0, 9)
	steps = append(steps, s.entropy(request), s.clock(request))
	if request.Reason == "fork" {
		s.identity.configured = request.InstanceID
		steps = append(steps, s.machineID(request), s.bootID(), s.hostname(request))
		steps = append(steps, s.network(request)...)
		steps = append(steps, step{"connections", s.Guest.ResetConnections})
		if len(request.Program.Env) > 0 {
			steps = append(steps, s.environment(request))
		}
	}
	request.InstanceID = s.identity.configured
	s.identity.generation.Store(int64(request.Generation))
	steps = append(steps, s.generationStep(request))
	if request.Reason == "fork" {
		steps = append(steps, step{"hooks", func() error { return s.runHooks(request, hooksLimit) }})
	}
	return steps
}

func (s *Server) generationStep(request Identity) step {
	return step{"generation", func() error { return s.writeGeneration(request) }}
}

// ParseRenewal reads a renewal's lines.
func ParseRenewal(message string) (Identity, error) {
	var request Identity
	var net network.Config
	variables := map[string]string{}
	for message != "" {
		var line string
		line, message, _ = strings.Cut(message, "\n")
		key, value, _ := strings.Cut(line, " ")
		var err error
		switch key {
		case "reason":
			request.Reason = value
		case "generation":
			request.Generation, err = number(value)
		case "instance":
			request.InstanceID = value
		case "hostname":
			request.Hostname = value
		case "machine-id":
			request.MachineID = value
		case "entropy":
			request.Entropy = value
		case "time":
			request.TimeUnixNs = value
		case "mac":
			net.MAC = value
		case "address":
			net.Address = value
		case "gateway":
			net.Gateway = value
		case "dns":
			net.DNS = append(net.DNS, value)
		case "mtu":
			net.MTU, err = number(value)
		case "volume":
			err = request.addVolume(value)
		case "argument":
			request.Program.Argv = append(request.Program.Argv, unescape(value))
		case "variable":
			name, content, _ := strings.Cut(unescape(value), "=")
			variables[name] = content
		case "directory":
			request.Program.Cwd = unescape(value)
		case "user":
			request.Program.User = unescape(value)
		case "stop-signal":
			request.StopSignal = value
		} // what is not known here is of a later host
		if err != nil {
			return request, errors.New(key + ": " + err.Error())
		}
	}
	if net.MAC != "" {
		request.Network = &net
	}
	request.Program.Env = variables
	switch request.Reason {
	case "restore", "clock":
		return request, nil
	case "boot", "fork":
		if request.InstanceID == "" {
			return request, errors.New("the instance is missing")
		}
		return request, nil
	}
	return request, errors.New("the reason is boot, fork, restore or clock")
}

func number(value string) (int, error) {
	n, err := strconv.Atoi(value)
	if err != nil {
		return 0, errors.New("it is not a number")
	}
	return n, nil
}

// addVolume reads "DISK ro|rw|over:PART PATH".
func (request *Identity) addVolume(value string) error {
	disk, rest, _ := strings.Cut(value, " ")
	mode, path, _ := strings.Cut(rest, " ")
	layer := 0
	if part := strings.TrimPrefix(mode, "over:"); part != mode {
		if number, err := strconv.Atoi(part); err == nil && number > 0 {
			layer, mode = number, "ro"
		}
	}
	if disk == "" || path == "" || (mode != "ro" && mode != "rw") {
		return errors.New("it has the form DISK ro|rw|over:PART PATH")
	}
	request.Volumes = append(request.Volumes, Volume{disk, unescape(path), mode != "rw", layer})
	return nil
}

// unescape undoes what keeps a value on its line: \n is a new line, \\ a backslash.
func unescape(value string) string {
	if strings.IndexByte(value, '\\') < 0 {
		return value
	}
	plain := make([]byte, 0, len(value))
	for i := 0; i < len(value); i++ {
		c := value[i]
		if c == '\\' && i+1 < len(value) {
			i++
			c = value[i]
			if c == 'n' {
				c = '\n'
			}
		}
		plain = append(plain, c)
	}
	return string(plain)
}

// appendResult adds the line "step NAME MICROSECONDS ok" or "step NAME MICROSECONDS failed MESSAGE".
func appendResult(answer []byte, result stepResult) []byte {
	answer = append(append(answer, "step "...), result.name...)
	answer = strconv.AppendInt(append(answer, ' '), result.took.Microseconds(), 10)
	if result.err == nil {
		return append(answer, " ok\n"...)
	}
	return append(append(append(answer, " failed "...), oneLine(result.err)...), '\n')
}

func refusal(err error) []byte {
	return []byte("refused " + oneLine(err) + "\n")
}

func oneLine(err error) string {
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

func (s *Server) entropy(request Identity) step {
	return step{"entropy", func() error {
		bytes, err := base64.StdEncoding.DecodeString(request.Entropy)
		if err != nil || len(bytes) < 64 {
			return errors.New("entropy is not at least 64 bytes in base64")
		}
		return s.Guest.AddEntropy(bytes)
	}}
}

func (s *Server) clock(request Identity) step {
	return step{"clock", func() error {
		now, err := strconv.ParseInt(request.TimeUnixNs, 10, 64)
		if err != nil {
			return errors.New("the time is not a decimal number")
		}
		return s.Guest.SetClock(time.Unix(0, now))
	}}
}
