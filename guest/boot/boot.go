// Package boot is the guest's init up to the point where the agent answers, and its end: kernel file systems, modules, the overlay root, power off.
package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"hypeman/guest/network"
)

// diskWait bounds how long a disk may take to appear; virtio disks are there when their driver is.
const diskWait = 10 * time.Second

// Cgroups is where the control groups are.
const Cgroups = "/sys/fs/cgroup"

// Prepare makes the root of the image the root of this process, with the kernel's file systems mounted and the loopback interface up.
func Prepare() error {
	for _, one := range earlyMounts {
		if err := mount(one); err != nil {
			return err
		}
	}
	if err := readArguments(); err != nil {
		return err
	}
	if err := loadModules("/modules", "order"); err != nil {
		return err
	}
	if hasVirtioDevice(virtioVsock) {
		if err := loadModules("/modules", "order.vsock"); err != nil {
			return err
		}
	}
	rootfs, err := findDisk("rootfs")
	if err != nil {
		return err
	}
	system, err := findDisk("system")
	if err != nil {
		return err
	}
	if system, err = divide(system); err != nil {
		return err
	}
	if err := mountRoot(rootfs, system); err != nil {
		return err
	}
	if err := switchRoot("/root"); err != nil {
		return err
	}
	return network.Up()
}

// quickMoves has a process change its control group without waiting for all processors of the guest: each program is put in its group after it was started.
const quickMoves = "favordynmods"

type mountPoint struct {
	source, target, kind string
	flags                uintptr
	options              string
}

const safe = syscall.MS_NOSUID | syscall.MS_NOEXEC | syscall.MS_NODEV

var earlyMounts = []mountPoint{
	{"proc", "/proc", "proc", safe, ""},
	{"sysfs", "/sys", "sysfs", safe, ""},
	{"devtmpfs", "/dev", "devtmpfs", syscall.MS_NOSUID, "mode=0755"},
}

// lateMounts are made inside the new root; /proc, /sys and /dev are moved there.
var lateMounts = []mountPoint{
	{"devpts", "/dev/pts", "devpts", syscall.MS_NOSUID | syscall.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
	{"tmpfs", "/dev/shm", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=1777"},
	{"tmpfs", "/run", "tmpfs", syscall.MS_NOSUID | syscall.MS_NODEV, "mode=0755"},
	{"cgroup2", Cgroups, "cgroup2", safe, quickMoves},
}

func mount(one mountPoint) error {
	if err := os.MkdirAll(one.target, 0o755); err != nil {
		return err
	}
	err := syscall.Mount(one.source, one.target, one.kind, one.flags, one.options)
	if err == syscall.EINVAL && one.options == quickMoves { // a kernel before 6.0
		err = syscall.Mount(one.source, one.target, one.kind, one.flags, "")
	}
	if err != nil && err != syscall.EBUSY {
		return fmt.Errorf("mount %s at %s: %w", one.kind, one.target, err)
	}
	return nil
}

// loadModules loads what a list names, one file a line, in that order.
func loadModules(directory, list string) error {
	order, err := os.ReadFile(filepath.Join(directory, list))
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(string(order)) {
		content, err := os.ReadFile(filepath.Join(directory, name))
		if err != nil {
			return err
		}
		// ENODEV is an accelerated variant for a CPU that this is not; the plain one is built in.
		if err := initModule(content); err != nil && err != syscall.EEXIST && err != syscall.ENODEV {
			return fmt.Errorf("load the module %s: %w", name, err)
		}
	}
	return nil
}

// virtioVsock is the device type of a socket device (virtio 1.2, section 5).
const virtioVsock = "0x0013"

// hasVirtioDevice tells whether the VMM gave this guest a device of a type that not all of them give.
func hasVirtioDevice(kind string) bool {
	files, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	if err != nil {
		return false
	}
	for _, file := range files {
		if content, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(content)) == kind {
			return true
		}
	}
	return false
}

// disksArgument is the kernel argument that names the disks of a VMM which gives them no serials, in the order in which the kernel finds them: rootfs,system,…
const disksArgument = "hypeman.disks="

// diskByPlace is the device of a disk that the kernel's command line names; empty if it names none by place.
func diskByPlace(id string) string {
	for place, name := range strings.Split(Argument(disksArgument), ",") {
		if name == id && place < 26 {
			return "/dev/vd" + string(rune('a'+place))
		}
	}
	return ""
}

// findDisk waits for the disk with that name, which is its virtio serial or has a place on the kernel's command line, and returns its device.
func findDisk(id string) (string, error) {
	for deadline := time.Now().Add(diskWait); ; time.Sleep(2 * time.Millisecond) {
		if device := diskByPlace(id); device != "" {
			if _, err := os.Stat(device); err == nil {
				return device, nil
			}
		}
		files, err := filepath.Glob("/sys/block/*/serial")
		if err != nil {
			return "", err
		}
		for _, file := range files {
			serial, err := os.ReadFile(file)
			if err == nil && strings.TrimSpace(string(serial)) == id {
				return "/dev/" + filepath.Base(filepath.Dir(file)), nil
			}
		}
		if time.Now().After(deadline) {
			return "", fmt.Errorf("there is no disk %s", id)
		}
	}
}

// zeroed is for disks whose inode tables are zeros already, as those of files full of holes are: a thread of the kernel would write them, and read ahead what describes free blocks,
// for minutes, and so would each fork's.
const zeroed = "noinit_itable,no_prefetch_block_bitmaps"

// mountRoot makes /root the image (read-only) under the instance's own writable layer.
func mountRoot(rootfs, system string) error {
	steps := []mountPoint{
		{rootfs, "/lower", "erofs", syscall.MS_RDONLY, ""},
		{system, "/system", "ext4", syscall.MS_NOATIME, zeroed},
	}
	for _, one := range steps {
		if err := mount(one); err != nil {
			return err
		}
	}
	if err := openSystem(system, "/system"); err != nil {
		return err
	}
	for _, directory := range []string{"/system/upper", "/system/work"} {
		if err := os.MkdirAll(directory, 0o755); err != nil {
			return err
		}
	}
	// Reading changes nothing, also where the layer above it does not say so (the overlay ignores that): what a guest writes, its forks keep and its snapshots save.
	return mount(mountPoint{"overlay", "/root", "overlay", syscall.MS_NOATIME, "lowerdir=/lower,upperdir=/system/upper,workdir=/system/work"})
}

// switchRoot moves the kernel's file systems into the new root and goes there for good.
func switchRoot(root string) error {
	for _, one := range earlyMounts {
		target := root + one.target
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(one.target, target, "", syscall.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", one.target, err)
		}
	}
	// The initramfs holds memory as long as its files exist.
	for _, name := range []string{"/modules", "/init"} {
		if err := os.RemoveAll(name); err != nil {
			return err
		}
	}
	for _, act := range []func() error{
		func() error { return syscall.Chdir(root) },
		func() error { return syscall.Mount(".", "/", "", syscall.MS_MOVE, "") },
		func() error { return syscall.Chroot(".") },
		func() error { return syscall.Chdir("/") },
	} {
		if err := act(); err != nil {
			return fmt.Errorf("switch to the new root: %w", err)
		}
	}
	for _, one := range lateMounts {
		if err := mount(one); err != nil {
			return err
		}
	}
	return linkStandardStreams()
}

func linkStandardStreams() error {
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"} {
		if err := os.Symlink(target, "/dev/"+name); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}
