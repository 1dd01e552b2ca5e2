package agent

import "syscall"

// standStill has all programs stand still, and looks for what the steps of a fork or restore want to know: nothing of that changes until programs go on. The source looks
// once, in code that has run before; each fork would look in code that its emulator has to translate, and write memory that it has for itself.
func (s *Server) standStill() error {
	if err := s.Programs.Freeze(); err != nil {
		return err
	}
	s.identity.hadMore = fewProcessors() || s.identity.hadMore
	s.identity.cachesThere = s.isThere(nscdSocket) || s.isThere(resolvedHome)
	s.Guest.LookForConnections()
	for _, pair := range s.identity.files {
		makeReady(pair.spare)
	}
	return nil
}

// makeReady leaves one byte in a spare file: what is written into it next is not shorter, and the page that takes it is there. That it can't be done is no harm: fill does what
// is left to do.
func makeReady(file int) {
	var found syscall.Stat_t
	if syscall.Fstat(file, &found) != nil {
		return
	}
	switch {
	case found.Size == 0:
		_, _ = syscall.Pwrite(file, []byte{'\n'}, 0)
	case found.Size > 1:
		_ = syscall.Ftruncate(file, 1)
	}
}
