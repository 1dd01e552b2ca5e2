package network

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"unsafe"
)

func TestTheKernelsStructuresHaveTheirSizes(t *testing.T) {
	if unsafe.Sizeof(request{}) != 40 || unsafe.Sizeof(route{}) != 120 || unsafe.Offsetof(route{}.flags) != 56 || unsafe.Offsetof(route{}.device) != 88 {
		t.Fatal(unsafe.Sizeof(request{}), unsafe.Sizeof(route{}))
	}
	if address := socketAddress(net.IPv4(10, 0, 2, 15)); address != [16]byte{2, 0, 0, 0, 10, 0, 2, 15} {
		t.Fatal(address)
	}
	if name := named("eth0"); string(name[:5]) != "eth0\x00" {
		t.Fatal(name)
	}
}

func TestAConfigurationThatIsNoneIsRefusedBeforeAnythingChanges(t *testing.T) {
	good := Config{MAC: "02:00:00:00:00:01", Address: "10.0.2.15/24", Gateway: "10.0.2.2"}
	for name, change := range map[string]func(*Config){
		"mac":        func(c *Config) { c.MAC = "zz" },
		"address":    func(c *Config) { c.Address = "10.0.2.15" },
		"gateway":    func(c *Config) { c.Gateway = "" },
		"IP version": func(c *Config) { c.Address = "fd00::1/64" },
	} {
		config := good
		change(&config)
		if err := Apply(config); err == nil {
			t.Errorf("a broken %s was applied", name)
		}
	}
}

func TestConnectionsThatAreWantedAreResetAndOthersAreNot(t *testing.T) {
	skipWithoutResets(t)
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := portOf(listener.Addr())
	open := func() net.Conn {
		conn, err := net.Dial("tcp4", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := listener.Accept(); err != nil {
			t.Fatal(err)
		}
		return conn
	}
	conn := open()
	defer conn.Close()
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		failed <- err
	}()
	if count, err := resetConnections(func(end, end) bool { return false }); count != 0 || err != nil {
		t.Fatal(count, err)
	}
	count, err := resetConnections(func(_, remote end) bool { return remote.ip.IsLoopback() && remote.port == port })
	if err != nil || count != 1 {
		t.Fatal(count, err)
	}
	if err := <-failed; err == nil {
		t.Fatal("the reader was not told")
	}
	open().Close() // the listener was left alone
}

func TestConnectionsOfBothFamiliesAreResetAtBothEndsAndListenersAreNot(t *testing.T) {
	skipWithoutResets(t)
	for _, family := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", family)
		if err != nil {
			t.Skipf("%s can't be listened on here: %v", family, err)
		}
		defer listener.Close()
		port := portOf(listener.Addr())
		client, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		// The one that was accepted, as those into a guest are: its own port is the listener's.
		count, err := resetConnections(func(local, _ end) bool { return local.port == port })
		if err != nil || count != 1 {
			t.Fatal(family, count, err)
		}
		for _, end := range []net.Conn{client, server} {
			if _, err := end.Read(make([]byte, 1)); err == nil {
				t.Errorf("%s: an end was not told", family)
			}
		}
		again, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatalf("%s: the listener is gone: %v", family, err)
		}
		again.Close()
	}
}

// skipWithoutResets skips a test where this process can't reset connections.
func skipWithoutResets(t *testing.T) {
	t.Helper()
	client, _ := connected(t)
	port := portOf(client.LocalAddr())
	_, err := resetConnections(func(local, _ end) bool { return local.port == port })
	if errors.Is(err, ErrNoReset) || errors.Is(err, syscall.EPERM) {
		t.Skipf("connections can't be reset here; run as root of a Linux with CONFIG_INET_DIAG_DESTROY: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// connected is a connection of this machine with itself, until the test ends.
func connected(t *testing.T) (client, server net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("tcp4", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	return client, server
}

func portOf(address net.Addr) uint16 { return uint16(address.(*net.TCPAddr).Port) }

func TestOnlyConnectionsToTheOutsideAreReset(t *testing.T) {
	for name, want := range map[string]bool{
		"10.0.2.15 93.184.216.34": true, "93.184.216.34 10.0.2.15": true, "fd00::15 2001:db8::1": true, "::ffff:10.0.2.15 ::ffff:93.184.216.34": true,
		"127.0.0.1 127.0.0.1": false, "::1 ::1": false, "::ffff:127.0.0.1 ::ffff:127.0.0.1": false, "10.0.2.15 10.0.2.15": false,
	} {
		ends := strings.Fields(name)
		if got := toTheOutside(end{ip: net.ParseIP(ends[0])}, end{ip: net.ParseIP(ends[1])}); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestConnectionsNeedNotBeLookedForAgainWhileNothingIsReceived(t *testing.T) {
	broken := errors.New("broken")
	type seen struct {
		received string
		err      error
	}
	for name, one := range map[string]struct {
		first, later seen
		connections  int
		failure      error
		want         bool
	}{
		"nothing came":               {first: seen{"7", nil}, later: seen{"7", nil}, want: true},
		"something came":             {first: seen{"7", nil}, later: seen{"8", nil}},
		"there were some":            {first: seen{"7", nil}, later: seen{"7", nil}, connections: 1},
		"they could not be counted":  {first: seen{"7", nil}, later: seen{"7", nil}, failure: broken},
		"there was no interface":     {first: seen{"", broken}, later: seen{"", nil}},
		"the interface has gone":     {first: seen{"7", nil}, later: seen{"7", broken}},
		"an interface came after it": {first: seen{"", broken}, later: seen{"0", nil}},
	} {
		now := one.first
		s := solitude{
			received:    func() (string, error) { return now.received, now.err },
			connections: func() (int, error) { return one.connections, one.failure },
		}
		if s.stillIs() {
			t.Errorf("%s: it is believed before anybody has looked", name)
		}
		s.look()
		now = one.later
		if got := s.stillIs(); got != one.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestConnectionsAreCountedAndLeftAsTheyAre(t *testing.T) {
	client, server := connected(t)
	port := portOf(client.LocalAddr())
	count, err := countConnections(func(local, _ end) bool { return local.port == port })
	if errors.Is(err, ErrNoReset) {
		t.Skip("this kernel does not list connections")
	}
	if err != nil || count != 1 {
		t.Fatal(count, err)
	}
	if _, err := client.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := server.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}
