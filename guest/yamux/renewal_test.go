package yamux

import "testing"

func TestARenewalIsAnsweredBeforeWhatComesBehindIt(t *testing.T) {
	h := newHost()
	var heard string
	h.session = NewSession(h, Handlers{Renew: func(message []byte) []byte {
		heard = string(message)
		return []byte("done")
	}})
	whole := append(encode(frame{kind: typeRenewal, body: []byte("a new name")}), encode(frame{kind: typePing, flags: flagSYN, length: 7})...)
	for _, one := range whole { // cut at each byte
		if err := h.session.Feed([]byte{one}); err != nil {
			t.Fatal(err)
		}
	}
	if heard != "a new name" || len(h.frames) != 2 || h.frames[0].kind != typeRenewal || string(h.frames[0].body) != "done" || h.frames[1].kind != typePing {
		t.Fatalf("%q %+v", heard, h.frames)
	}
	if err := h.session.Feed(encode(frame{kind: typeRenewal})); err != nil || heard != "" {
		t.Fatalf("an empty one: %q %v", heard, err)
	}
}

func TestARenewalThatIsTooLongOrNotWantedBreaksTheSession(t *testing.T) {
	h := newHost()
	if h.session.Feed(encode(frame{kind: typeRenewal, body: []byte("x")})) == nil {
		t.Fatal("a session that renews nothing took one")
	}
	h.session = NewSession(h, Handlers{Renew: func([]byte) []byte { return nil }})
	if h.session.Feed(encode(frame{kind: typeRenewal, length: maxRenewal + 1})) == nil {
		t.Fatal("a long one was taken")
	}
}

func TestARenewalIsNotTakenWhenItsSessionIsClosed(t *testing.T) {
	h := newHost()
	h.session = NewSession(h, Handlers{Renew: func([]byte) []byte {
		t.Error("it was taken")
		return nil
	}})
	whole := encode(frame{kind: typeRenewal, body: []byte("freeze")})
	if err := h.session.Feed(whole[:len(whole)-1]); err != nil {
		t.Fatal(err)
	}
	if err := h.session.Close(); err != nil {
		t.Fatal(err)
	}
	_ = h.session.Feed(whole[len(whole)-1:]) // that the session is broken may be said or not
}
