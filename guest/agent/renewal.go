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

// answerRoom is enough for the answer to a renewal without hooks that say much, in bytes.
const answerRoom = 1024

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
		answer = make([]byte, 0, answerRoom) // one that grows is on a page of its own at each size, and each page is one that a fork has for itself
		for _, one := range s.renewalSteps(request) {
			result := run(one)
			answer = appendResult(answer, result)
			if request.Reason == "thaw" && result.failed() {
				break // programs of a guest whose clock can't be set stay where they are
			}
		}
		if s.Programs.Frozen() {
			answer = append(answer, "programs frozen\n"...)
		}
	}
	answer = append(answer, "time "...)
	return append(strconv.AppendInt(answer, time.Now().UnixNano(), 10), '\n')
}

func (s *Server) renewalSteps(request *Identity) []step {
	switch request.Reason {
	case "clock":
		return []step{s.clock(request)}
	case "freeze":
		return []step{{"freeze", s.standStill}}
	case "thaw":
		return s.thawSteps(request)
	}
	steps := make([]step, 0, 14)
	if !s.Programs.Frozen() { // an image that was saved without the agent, or a host that begins once more
		steps = append(steps, step{"freeze", s.standStill})
	}
	isRepeated := s.identity.generation.Load() == int64(request.Generation) // by a host that did not hear the answer
	steps = append(steps, s.entropy(request), step{"clock", func() error { return s.jumpTo(request, isRepeated) }})
	if request.Reason == "fork" {
		s.identity.configured = request.InstanceID
		steps = append(steps, s.machineID(request), s.bootID(), s.hostname(request))
		if len(request.Program.Env) > 0 {
			steps = append(steps, s.environment(request)) // before the programs that run with it
		}
		steps = append(steps, s.secrets(request)...)
		steps = append(steps, step{"ssh-keys", s.renewHostKeys})
		steps = append(steps, s.network(request)...)
	} else {
		steps = append(steps, s.returnToNetwork(request)...)
	}
	request.InstanceID = s.identity.configured
	s.identity.generation.Store(int64(request.Generation))
	return append(steps, step{"connections", s.resetConnections}, s.generationStep(request),
		step{"hooks", func() error {
			s.identity.cachesDue = s.identity.cachesThere
			return s.runHooks(request, hooksLimit)
		}})
}

// returnToNetwork is for a guest that was away: its neighbours may be others since. Where the host could not keep its address, or its resolvers have changed, it is given
// the new ones. Otherwise /etc/resolv.conf stays as it is: it may be the user's.
func (s *Server) returnToNetwork(request *Identity) []step {
	if request.Network == nil {
		return nil
	}
	if !s.identity.network.SameButMAC(*request.Network) {
		return append([]step{s.hostname(request)}, s.network(request)...)
	}
	return []step{{"neighbours", func() error {
		// A guest may have renamed or moved its interface; that must not keep it from coming back.
		if err := s.Guest.ForgetNeighbours(request.Network.MAC); err != nil {
			return warning(err.Error())
		}
		return nil
	}}}
}

// thawSteps has the programs go on, with the time as it is now.
func (s *Server) thawSteps(request *Identity) []step {
	steps := make([]step, 0, 3)
	if request.TimeUnixNs != "" {
		steps = append(steps, s.clock(request))
	} else if s.identity.hadMore { // a guest that was never away goes on with the requests that it had
		oneMoreProcessor()
	}
	s.identity.hadMore = false
	steps = append(steps, step{"thaw", s.Programs.Thaw})
	if s.identity.cachesDue {
		steps = append(steps, step{"name-caches", func() error {
			s.identity.cachesDue = false
			return s.emptyNameCaches()
		}})
	}
	return steps
}

func (s *Server) resetConnections() error {
	err := s.Guest.ResetConnections()
	if errors.Is(err, network.ErrNoReset) {
		return warning(err.Error() + ": programs go on with the connections of before until they time out")
	}
	return err
}

func (s *Server) generationStep(request *Identity) step {
	return step{"generation", func() error { return s.writeGeneration(request) }}
}

// ParseRenewal reads a renewal's lines.
func ParseRenewal(message string) (*Identity, error) {
	request := &Identity{}
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
		case "secret":
			err = request.addSecret(unescape(value))
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
	case "restore", "clock", "freeze", "thaw":
		return request, nil
	case "boot", "fork":
		if request.InstanceID == "" {
			return request, errors.New("the instance is missing")
		}
		return request, nil
	}
	return request, errors.New("the reason is boot, fork, restore, clock, freeze or thaw")
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

// appendResult adds the line "step NAME MICROSECONDS ok|warned|failed MESSAGE"; the message may be absent after ok.
func appendResult(answer []byte, result stepResult) []byte {
	answer = append(append(answer, "step "...), result.name...)
	answer = strconv.AppendInt(append(answer, ' '), result.took.Microseconds(), 10)
	switch result.err.(type) {
	case nil:
		return append(answer, " ok\n"...)
	case note:
		answer = append(answer, " ok "...)
	case warning:
		answer = append(answer, " warned "...)
	default:
		answer = append(answer, " failed "...)
	}
	return append(append(answer, oneLine(result.err)...), '\n')
}

func refusal(err error) []byte {
	return []byte("refused " + oneLine(err) + "\n")
}

// oneLine is what an error says, with a space for each character that ends a line or that a terminal obeys.
func oneLine(err error) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || (c >= 0x7f && c < 0xa0) || c == '\u2028' || c == '\u2029' {
			return ' '
		}
		return c
	}, err.Error())
}

func (s *Server) entropy(request *Identity) step {
	return step{"entropy", func() error {
		bytes, err := base64.StdEncoding.DecodeString(request.Entropy)
		if err != nil || len(bytes) < 64 {
			return errors.New("entropy is not at least 64 bytes in base64")
		}
		return s.Guest.AddEntropy(bytes)
	}}
}

func (s *Server) clock(request *Identity) step {
	return step{"clock", func() error {
		now, err := timeOf(request)
		if err != nil {
			return err
		}
		return s.Guest.SetClock(now)
	}}
}

// jumpTo steps the clock over the time in which the guest stood still, and remembers how long that was: all of it, also when it is told once more.
func (s *Server) jumpTo(request *Identity, isRepeated bool) error {
	now, err := timeOf(request)
	if err != nil {
		return err
	}
	if !isRepeated {
		s.identity.jump = 0
	}
	jump := now.UnixNano() - time.Now().UnixNano()
	if err := s.Guest.SetClock(now); err != nil {
		return err
	}
	s.identity.jump += jump
	return nil
}

func timeOf(request *Identity) (time.Time, error) {
	now, err := strconv.ParseInt(request.TimeUnixNs, 10, 64)
	if err != nil {
		return time.Time{}, errors.New("the time is not a decimal number")
	}
	return time.Unix(0, now), nil
}
