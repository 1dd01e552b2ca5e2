package network

import (
	"encoding/binary"
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
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
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
	if _, err := resetConnections(func(net.IP, net.IP, uint16) bool { return false }); err != nil {
		t.Skipf("connections can't be reset here: %v", err)
	}
	count, err := resetConnections(func(local, remote net.IP, remotePort uint16) bool {
		return remote.IsLoopback() && remotePort == port
	})
	if err != nil || count != 1 {
		t.Skipf("connections can't be reset here: %d, %v", count, err)
	}
	if err := <-failed; err == nil {
		t.Fatal("the reader was not told")
	}
	open().Close() // the listener was left alone
}

func TestConnectionsOfBothFamiliesAreResetAtBothEndsAndListenersAreNot(t *testing.T) {
	for _, family := range []string{"127.0.0.1:0", "[::1]:0"} {
		listener, err := net.Listen("tcp", family)
		if err != nil {
			t.Skipf("%s can't be listened on here: %v", family, err)
		}
		defer listener.Close()
		port := uint16(listener.Addr().(*net.TCPAddr).Port)
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
		count, err := resetBySource(port)
		if err != nil || count != 1 {
			t.Skipf("connections can't be reset here: %d, %v", count, err)
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

// resetBySource resets what is connected to a port of this machine, as seen from the end that has it.
func resetBySource(port uint16) (int, error) {
	if err := openDiagnosis(); err != nil {
		return 0, err
	}
	count, buffer := 0, make([]byte, 4096)
	for _, family := range []byte{syscall.AF_INET, syscall.AF_INET6} {
		ids, err := listSockets(diagnosis, family, buffer)
		if err != nil {
			return count, err
		}
		for _, id := range ids {
			if binary.BigEndian.Uint16(id) == port {
				if err := destroy(diagnosis, family, id, buffer); err != nil {
					return count, err
				}
				count++
			}
		}
	}
	return count, nil
}

func TestOnlyConnectionsToTheOutsideAreReset(t *testing.T) {
	for name, want := range map[string]bool{
		"10.0.2.15 93.184.216.34": true, "93.184.216.34 10.0.2.15": true, "fd00::15 2001:db8::1": true, "::ffff:10.0.2.15 ::ffff:93.184.216.34": true,
		"127.0.0.1 127.0.0.1": false, "::1 ::1": false, "::ffff:127.0.0.1 ::ffff:127.0.0.1": false, "10.0.2.15 10.0.2.15": false,
	} {
		ends := strings.Fields(name)
		if got := toTheOutside(net.ParseIP(ends[0]), net.ParseIP(ends[1]), 0); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
