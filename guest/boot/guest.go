package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"hypeman/guest/network"
)

// random(4): add bytes and credit them; reseed the generator at once.
const (
	rndAddEntropy  = 0x40085203
	rndReseedCRNG  = 0x5207
	mostEntropy    = 256 // bytes; more than the kernel's pool holds
	clockRealtime  = 0
	bootIDOverride = "/run/hypeman/boot_id"
	bootIDFile     = "/proc/sys/kernel/random/boot_id"
)

// Guest is this VM, for agent.Guest.
type Guest struct{}

// random and bootID stay open, since opening and closing files is much of what a fork would do: -1 before their first use. The caller of both lets one at a time in.
var random, bootID = -1, -1

// AddEntropy credits bytes to the kernel's pool and reseeds its generator, so that no fork repeats another's bytes.
func (Guest) AddEntropy(bytes []byte) error {
	if random < 0 {
		device, err := syscall.Open("/dev/urandom", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/urandom", Err: err}
		}
		random = device
	}
	info := struct { // struct rand_pool_info
		bitsCredited, bytesGiven int32
		bytes                    [mostEntropy]byte
	}{bitsCredited: int32(len(bytes) * 8), bytesGiven: int32(len(bytes))}
	if copy(info.bytes[:], bytes) < len(bytes) {
		return fmt.Errorf("%d bytes of entropy are more than the %d that are taken at once", len(bytes), mostEntropy)
	}
	if err := ioctl(uintptr(random), "RNDADDENTROPY", rndAddEntropy, unsafe.Pointer(&info)); err != nil {
		return err
	}
	return ioctl(uintptr(random), "RNDRESEEDCRNG", rndReseedCRNG, nil)
}

// SetClock steps the wall clock.
func (Guest) SetClock(now time.Time) error {
	spec := syscall.NsecToTimespec(now.UnixNano())
	if _, _, errno := syscall.Syscall(syscall.SYS_CLOCK_SETTIME, clockRealtime, uintptr(unsafe.Pointer(&spec)), 0); errno != 0 {
		return os.NewSyscallError("clock_settime", errno)
	}
	return nil
}

// SetHostname sets the kernel's host name.
func (Guest) SetHostname(name string) error {
	return os.NewSyscallError("sethostname", syscall.Sethostname([]byte(name)))
}

// ReplaceBootID mounts a file with a fresh id over the kernel's, which can't be changed. Later the same file, which is open, gets
// other content, which has the same length.
func (Guest) ReplaceBootID(id string) error {
	content := []byte(id + "\n")
	if bootID >= 0 {
		_, err := syscall.Pwrite(bootID, content, 0)
		return os.NewSyscallError("pwrite", err)
	}
	if err := os.MkdirAll(filepath.Dir(bootIDOverride), 0o755); err != nil {
		return err
	}
	file, err := syscall.Open(bootIDOverride, syscall.O_RDWR|syscall.O_CREAT|syscall.O_TRUNC|syscall.O_CLOEXEC, 0o444)
	if err != nil {
		return &os.PathError{Op: "open", Path: bootIDOverride, Err: err}
	}
	if _, err = syscall.Write(file, content); err == nil {
		err = syscall.Mount(bootIDOverride, bootIDFile, "", syscall.MS_BIND, "")
	}
	if err != nil {
		syscall.Close(file)
		os.Remove(bootIDOverride)
		return os.NewSyscallError("replace the boot id", err)
	}
	bootID = file
	return nil
}

// SetNetwork gives the interface its identity.
func (Guest) SetNetwork(config network.Config) error {
	return network.Apply(config)
}

// ForgetNeighbours drops what is known of the network's other machines: they may be others since.
func (Guest) ForgetNeighbours(mac string) error { return network.ForgetNeighbours(mac) }

// LookForConnections does for ResetConnections what can be done when programs have come to stand still.
func (Guest) LookForConnections() { network.LookForConnections() }

// ResetConnections ends all TCP connections to the outside. The error is network.ErrNoReset of a kernel that leaves them to time out, as after the loss of a network.
func (Guest) ResetConnections() error {
	_, err := network.ResetConnections()
	return err
}

// poweringOff is taken by the first who turns the VM off, and never given back: a second one would do it while the first still unmounts.
var poweringOff sync.Mutex

// PowerOff kills what is left, syncs, unmounts the volumes and turns the VM off.
func (Guest) PowerOff() {
	poweringOff.Lock()
	_ = syscall.Kill(-1, syscall.SIGKILL) // nothing is left to be killed: fine too
	syscall.Sync()
	unmountVolumes()
	if err := syscall.Reboot(howToEnd()); err != nil {
		fmt.Fprintf(os.Stderr, "agent: power off: %v\n", err)
	}
	select {}
}

// offArgument is the kernel argument that says how the machine ends: reset for a VMM without a power button, which ends when its guest resets the machine.
const offArgument = "hypeman.off="

func howToEnd() int {
	if Argument(offArgument) == "reset" {
		return syscall.LINUX_REBOOT_CMD_RESTART
	}
	return syscall.LINUX_REBOOT_CMD_POWER_OFF
}

func initModule(content []byte) error {
	options := []byte{0}
	_, _, errno := syscall.Syscall(syscall.SYS_INIT_MODULE, uintptr(unsafe.Pointer(&content[0])), uintptr(len(content)), uintptr(unsafe.Pointer(&options[0])))
	if errno != 0 {
		return errno
	}
	return nil
}

func ioctl(fd uintptr, name string, number uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, fd, number, uintptr(argument)); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}
