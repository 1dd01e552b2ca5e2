package agent

import (
	"errors"
	"strings"
	"testing"

	"hypeman/guest/network"
)

func newNetwork() map[string]any {
	return map[string]any{"mac": "02:00:00:00:00:01", "address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": []string{"10.0.2.3"}, "mtu": 1500}
}

func TestARestoredGuestIsGivenWhatIsNewOfItsNetwork(t *testing.T) {
	for key, change := range map[string]any{
		"address": "10.0.2.99/24",
		"gateway": "10.0.2.1",
		"mtu":     1400,
		"dns":     []string{"10.0.2.3", "9.9.9.9"},
	} {
		t.Run(key, func(t *testing.T) {
			r := newRig(t)
			r.boot(bodyOf("i1", shellOf("exit 0")))
			<-r.ended
			changed := newNetwork()
			changed[key] = change
			for generation, want := range []string{
				"freeze entropy clock hostname network connections generation hooks frozen",
				"entropy clock neighbours connections generation hooks frozen", // it has it now
			} {
				if got := r.renew(bodyOf("i1", map[string]any{"reason": "restore", "generation": generation, "network": changed})); got != want {
					t.Fatal(got)
				}
			}
			address, _, _ := strings.Cut(changed["address"].(string), "/")
			if hosts := read(t, r.server.Root+"/etc/hosts"); !strings.Contains(hosts, "\n"+address+"\tweb-1\n") {
				t.Error(hosts)
			}
			if got := read(t, r.server.Root+"/etc/resolv.conf"); got != resolvers(changed["dns"].([]string)) {
				t.Error(got)
			}
		})
	}
}

func TestARestoreOnTheSameNetworkLeavesTheUsersFilesAlone(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exit 0")))
	<-r.ended
	own := "nameserver 127.0.0.1\n"
	write(t, r.server.Root+"/etc/own", own)
	rename(t, r.server.Root+"/etc/own", r.server.Root+"/etc/resolv.conf")
	other := newNetwork()
	other["mac"] = "02:00:00:00:00:02"
	if got := r.renew(bodyOf("i1", map[string]any{"reason": "restore", "network": other})); got != "freeze entropy clock neighbours connections generation hooks frozen" {
		t.Fatal(got)
	}
	if calls := strings.Join(r.guest.noted(), "|"); !strings.Contains(calls, "|neighbours 02:00:00:00:00:02|") {
		t.Fatal(calls)
	}
	if got := read(t, r.server.Root+"/etc/resolv.conf"); got != own {
		t.Fatal(got)
	}
}

func TestANetworkThatCouldNotBeSetIsSetByTheNextRestore(t *testing.T) {
	r := newRig(t)
	r.server.Rehearse(&network.Config{MAC: "02:00:00:00:00:01", Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}, MTU: 1500})
	other := newNetwork()
	other["address"] = "10.0.2.99/24"
	r.guest.fail["network"] = errors.New("no link")
	if got := r.renew(bodyOf("i1", map[string]any{"reason": "restore", "network": other})); !strings.Contains(got, " network!no link ") {
		t.Fatal(got)
	}
	delete(r.guest.fail, "network")
	// Half of the other one may be in place, so that going back to the first is a change as well.
	if got := r.renew(bodyOf("i1", map[string]any{"reason": "restore"})); !strings.Contains(got, " hostname network ") {
		t.Fatal(got)
	}
}

func TestAnInterfaceThatTheUserHasRenamedDoesNotKeepAGuestFromComingBack(t *testing.T) {
	r := newRig(t)
	r.boot(bodyOf("i1", shellOf("exit 0")))
	<-r.ended
	r.guest.fail["neighbours"] = errors.New("no such device")
	if got := r.renew(bodyOf("i1", map[string]any{"reason": "restore"})); got != "freeze entropy clock neighbours?no such device connections generation hooks frozen" {
		t.Fatal(got)
	}
}

func TestWhatAStepSaysStaysOnItsLine(t *testing.T) {
	r := newRig(t)
	r.guest.fail["connections"] = errors.New("one\r\ntwo\u2028three\u0085four \x1b[31mré")
	answer := string(r.server.Renew([]byte(renewalOf(bodyOf("i1", map[string]any{"reason": "restore"})))))
	if !strings.Contains(answer, " failed one  two three four  [31mré\n") {
		t.Fatalf("%q", answer)
	}
}
