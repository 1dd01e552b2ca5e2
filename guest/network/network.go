// Package network sets the guest's one interface: MAC, address, route. By ioctl(2) (netdevice(7)), so that it needs no tools of the image.
package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"unsafe"
)

// Config is what the host gives; protocol.md, Renewal.
type Config struct {
	MAC     string
	Address string // with prefix length
	Gateway string
	DNS     []string
	MTU     int
}

const iface = "eth0"

// request is struct ifreq: a name and a union of 24 bytes.
type request struct {
	name [16]byte
	data [24]byte
}

// route is struct rtentry of 64-bit Linux.
type route struct {
	_       uint64
	dst     [16]byte
	gateway [16]byte
	genmask [16]byte
	flags   uint16
	_       [6]byte
	_       [16]byte
	metric  int16
	_       [6]byte
	device  uintptr
	_       [24]byte
}

// Up brings the loopback interface up.
func Up() error { return withSocket(func(fd int) error { return setUp(fd, "lo", true) }) }

// Preset is what hosts have given every guest so far, with the MAC that the interface has; nil if there is no interface.
func Preset() *Config {
	hardware := request{name: named(iface)}
	err := withSocket(func(fd int) error {
		return ioctl(fd, "SIOCGIFHWADDR", syscall.SIOCGIFHWADDR, unsafe.Pointer(&hardware))
	})
	if err != nil {
		return nil
	}
	return &Config{MAC: net.HardwareAddr(hardware.data[2:8]).String(), Address: "10.0.2.15/24", Gateway: "10.0.2.2", DNS: []string{"10.0.2.3"}, MTU: 1500}
}

// Apply gives the interface its identity: down, MAC, up, address, route. Neighbours that were known are forgotten with the address.
// A fork that differs in its MAC alone keeps the rest: virtio-net changes its MAC while it is up, and the neighbours are the same.
func Apply(config Config) error {
	mac, err := net.ParseMAC(config.MAC)
	if err != nil {
		return err
	}
	if applied.sameInterface(config) && withSocket(func(fd int) error { return setMAC(fd, mac) }) == nil {
		applied = config
		return nil
	}
	address, subnet, err := net.ParseCIDR(config.Address)
	if err != nil {
		return err
	}
	gateway := net.ParseIP(config.Gateway).To4()
	if address.To4() == nil || gateway == nil {
		return fmt.Errorf("the address %s or gateway %s is not IPv4", config.Address, config.Gateway)
	}
	return withSocket(func(fd int) error {
		before := applied
		applied = Config{} // until all is done
		if err := setUp(fd, iface, false); err != nil {
			return err
		}
		// What resets them sends as well, and from the address that the source still has: not while the interface is down.
		if before.Address != "" && before.Address != config.Address {
			if _, err := ResetConnections(); err != nil && !errors.Is(err, ErrNoReset) {
				return err
			}
		}
		if err := withoutIPv6(); err != nil {
			return err
		}
		if err := setMAC(fd, mac); err != nil {
			return err
		}
		if config.MTU > 0 {
			mtu := request{name: named(iface)}
			binary.LittleEndian.PutUint32(mtu.data[:], uint32(config.MTU))
			if err := ioctl(fd, "SIOCSIFMTU", syscall.SIOCSIFMTU, unsafe.Pointer(&mtu)); err != nil {
				return err
			}
		}
		for _, one := range []struct {
			what   string
			number uintptr
			ip     net.IP
		}{{"SIOCSIFADDR", syscall.SIOCSIFADDR, address}, {"SIOCSIFNETMASK", syscall.SIOCSIFNETMASK, net.IP(subnet.Mask)}} {
			set := request{name: named(iface)}
			ip := socketAddress(one.ip)
			copy(set.data[:], ip[:])
			if err := ioctl(fd, one.what, one.number, unsafe.Pointer(&set)); err != nil {
				return err
			}
		}
		if err := setUp(fd, iface, true); err != nil {
			return err
		}
		way := route{dst: socketAddress(net.IPv4zero), gateway: socketAddress(gateway), genmask: socketAddress(net.IPv4zero), flags: syscall.RTF_UP | syscall.RTF_GATEWAY}
		if err := ioctl(fd, "SIOCADDRT", syscall.SIOCADDRT, unsafe.Pointer(&way)); err != nil && !os.IsExist(err) {
			return err
		}
		applied = config
		prepareReset()
		return nil
	})
}

// ForgetNeighbours gives the interface the MAC that it has: the kernel then drops its neighbours, of IPv4 and IPv6, as after any change of it.
func ForgetNeighbours(mac string) error {
	address, err := net.ParseMAC(mac)
	if err != nil {
		return err
	}
	return withSocket(func(fd int) error { return setMAC(fd, address) })
}

// withoutIPv6 keeps the interface from looking for neighbours that the host's network does not have: memory that a guest writes for that,
// each fork writes anew. A guest that wants IPv6 can switch it on.
func withoutIPv6() error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+iface+"/disable_ipv6", []byte("1"), 0)
	if os.IsNotExist(err) { // a kernel that has none
		return nil
	}
	return err
}

// applied is what the interface was given last; the caller lets one at a time in.
var applied Config

// SameButMAC tells whether a guest that has c has nothing to change for other but its MAC.
func (c Config) SameButMAC(other Config) bool {
	if len(c.DNS) != len(other.DNS) {
		return false
	}
	for i, server := range c.DNS {
		if server != other.DNS[i] {
			return false
		}
	}
	return c.sameInterface(other)
}

// sameInterface leaves out what is not the interface's.
func (c Config) sameInterface(other Config) bool {
	return c.Address != "" && c.Address == other.Address && c.Gateway == other.Gateway && c.MTU == other.MTU
}

func setMAC(fd int, mac net.HardwareAddr) error {
	hardware := request{name: named(iface)}
	binary.LittleEndian.PutUint16(hardware.data[:], syscall.ARPHRD_ETHER)
	copy(hardware.data[2:], mac)
	return ioctl(fd, "SIOCSIFHWADDR", syscall.SIOCSIFHWADDR, unsafe.Pointer(&hardware))
}

// control is the socket that ioctl(2) is asked through; made once, since making and closing one is much of what a fork would do. The caller lets one at a time in.
var control = -1

func withSocket(act func(fd int) error) error {
	if control < 0 {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			return os.NewSyscallError("socket", err)
		}
		control = fd
	}
	return act(control)
}

// setUp changes one flag and leaves the others, such as multicast, as the driver made them.
func setUp(fd int, name string, up bool) error {
	set := request{name: named(name)}
	if err := ioctl(fd, "SIOCGIFFLAGS", syscall.SIOCGIFFLAGS, unsafe.Pointer(&set)); err != nil {
		return err
	}
	flags := binary.LittleEndian.Uint16(set.data[:]) &^ syscall.IFF_UP
	if up {
		flags |= syscall.IFF_UP
	}
	binary.LittleEndian.PutUint16(set.data[:], flags)
	return ioctl(fd, "SIOCSIFFLAGS", syscall.SIOCSIFFLAGS, unsafe.Pointer(&set))
}

func named(name string) (field [16]byte) {
	copy(field[:], name)
	return field
}

// socketAddress is struct sockaddr_in with port 0.
func socketAddress(ip net.IP) (address [16]byte) {
	binary.LittleEndian.PutUint16(address[:], syscall.AF_INET)
	if four := ip.To4(); four != nil {
		copy(address[4:], four)
	} else {
		copy(address[4:], ip)
	}
	return address
}

func ioctl(fd int, name string, number uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), number, uintptr(argument)); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}
