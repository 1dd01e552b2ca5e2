package boot

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// layersDirectory is where a volume and its layer are mounted while the one is laid over the other; afterwards the mount of both keeps them, out of sight.
const layersDirectory = "/run/hypeman/layers"

// MountVolume mounts the ext4 volume with that virtio serial. With a layer, which is a part of the system disk, what is written goes there.
func (Guest) MountVolume(disk, path string, readOnly bool, layer int) error {
	device, err := findDisk(disk)
	if err != nil {
		return err
	}
	if layer > 0 {
		err = mountLayered(disk, device, path, layer)
	} else {
		err = mount(volumeAt(device, path, readOnly))
	}
	if err != nil {
		return fmt.Errorf("volume at %s: %w", path, err)
	}
	return nil
}

func volumeAt(device, path string, readOnly bool) mountPoint {
	if readOnly {
		return mountPoint{device, path, "ext4", syscall.MS_NOATIME | syscall.MS_RDONLY, "noload"}
	}
	return mountPoint{device, path, "ext4", syscall.MS_NOATIME, zeroed}
}

// mountLayered mounts a volume that is only read below a layer of the instance's own. Done again, after a later step has failed, it does nothing.
func mountLayered(disk, device, path string, layer int) error {
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for _, one := range mountsOf(string(table)) {
		if one.source == disk && one.target == path {
			return nil
		}
	}
	system, err := findDisk("system")
	if err != nil {
		return err
	}
	lower, over := filepath.Join(layersDirectory, disk, "volume"), filepath.Join(layersDirectory, disk, "layer")
	if err := mount(volumeAt(device, lower, true)); err != nil {
		return err
	}
	defer syscall.Unmount(lower, syscall.MNT_DETACH)
	if err := mount(volumeAt(partDevice(system, layer), over, false)); err != nil {
		return err
	}
	defer syscall.Unmount(over, syscall.MNT_DETACH)
	upper, work := filepath.Join(over, "upper"), filepath.Join(over, "work")
	if err := os.MkdirAll(work, 0o755); err != nil {
		return err
	}
	if err := makeLike(upper, lower); err != nil {
		return err
	}
	return mount(mountPoint{disk, path, "overlay", syscall.MS_NOATIME, "lowerdir=" + lower + ",upperdir=" + upper + ",workdir=" + work})
}

// makeLike makes a directory with the mode and owner of another: the top of a layer is what is seen of both. One that is there keeps what it was given since.
func makeLike(directory, model string) error {
	var stat syscall.Stat_t
	if err := syscall.Stat(model, &stat); err != nil {
		return &os.PathError{Op: "stat", Path: model, Err: err}
	}
	// In place whole or not at all: a guest may be turned off at any time.
	staged := directory + ".new"
	if _, err := os.Lstat(directory); err == nil {
		return nil
	}
	if err := os.MkdirAll(staged, 0o700); err != nil {
		return err
	}
	if err := os.Chown(staged, int(stat.Uid), int(stat.Gid)); err != nil {
		return err
	}
	if err := syscall.Chmod(staged, stat.Mode&0o7777); err != nil {
		return &os.PathError{Op: "chmod", Path: staged, Err: err}
	}
	return os.Rename(staged, directory)
}

// unmountVolumes leaves clean file systems behind: a volume outlives this VM, and may be read next by one that can't repair it.
// Killed programs let go of their files a moment later, so it is tried for a while.
func unmountVolumes() {
	content, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		fmt.Fprintf(os.Stderr, "agent: the volumes could not be unmounted: %v\n", err)
		return
	}
	deadline := time.Now().Add(time.Second)
	for _, path := range volumesOf(string(content)) {
		err := syscall.Unmount(path, 0)
		for err == syscall.EBUSY && time.Now().Before(deadline) {
			time.Sleep(5 * time.Millisecond)
			err = syscall.Unmount(path, 0)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "agent: the volume at %s could not be unmounted: %v\n", path, err)
		}
	}
}

// volumesOf lists where volumes are mounted, with layers or without, by a mount table (proc_mounts(5)), the last mounted first. The system disk is out of sight below the root.
func volumesOf(table string) []string {
	var paths []string
	for _, one := range mountsOf(table) {
		if one.kind == "ext4" || (one.kind == "overlay" && one.target != "/") {
			paths = append([]string{one.target}, paths...)
		}
	}
	return paths
}

// mountsOf reads a mount table.
func mountsOf(table string) []mountPoint {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`)
	var mounts []mountPoint
	for _, line := range strings.Split(table, "\n") {
		if fields := strings.Fields(line); len(fields) >= 3 {
			mounts = append(mounts, mountPoint{source: unescape.Replace(fields[0]), target: unescape.Replace(fields[1]), kind: fields[2]})
		}
	}
	return mounts
}
