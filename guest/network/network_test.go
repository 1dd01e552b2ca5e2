package network

import (
	"net"
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
