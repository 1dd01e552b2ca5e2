package boot

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"hypeman/guest/agent"
)

// sysTree makes files as the kernel's are below /sys/devices/system.
func sysTree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, content := range files {
		file := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestEveryProcessorAndBlockOfMemoryIsBroughtOnline(t *testing.T) {
	root := sysTree(t, map[string]string{
		"cpu/cpu0/topology/core_id":  "0\n",
		"cpu/cpu1/online":            "1\n",
		"cpu/cpu2/online":            "0\n",
		"cpu/cpufreq/policy":         "",
		"memory/block_size_bytes":    "8000000\n",
		"memory/memory0/state":       "online\n",
		"memory/memory40/state":      "offline\n",
		"memory/auto_online_blocks":  "offline\n",
		"memory/memory40/phys_index": "28\n",
	})
	found, err := takeOnline(root)
	if want := (agent.Growth{Processors: 3, MemoryBytes: 2 * 128 << 20}); err != nil || found != want {
		t.Errorf("%+v %v", found, err)
	}
	for name, want := range map[string]string{"cpu/cpu2/online": "1", "memory/memory40/state": "online", "cpu/cpu1/online": "1\n"} {
		if content, _ := os.ReadFile(filepath.Join(root, name)); string(content) != want {
			t.Errorf("%s: %q", name, content)
		}
	}
}

func TestAKernelWithoutBlocksOfMemoryTellsOfProcessorsAlone(t *testing.T) {
	found, err := takeOnline(sysTree(t, map[string]string{"cpu/cpu0/online": "1\n"}))
	if want := (agent.Growth{Processors: 1}); err != nil || found != want {
		t.Errorf("%+v %v", found, err)
	}
	if isLess(found, agent.Growth{Processors: 1, MemoryBytes: 1 << 30}) {
		t.Error("what such a kernel has is waited for")
	}
}

func TestNothingIsMissingWhenThereIsAsMuchAsWanted(t *testing.T) {
	wanted := agent.Growth{Processors: 2, MemoryBytes: 320 << 20}
	for found, less := range map[agent.Growth]bool{
		{Processors: 2, MemoryBytes: 384 << 20}: false,
		{Processors: 3, MemoryBytes: 320 << 20}: false,
		{Processors: 1, MemoryBytes: 384 << 20}: true,
		{Processors: 2, MemoryBytes: 256 << 20}: true,
	} {
		if isLess(found, wanted) != less {
			t.Errorf("%+v", found)
		}
	}
}

// mayResize tells whether this process may mount (capability 21) and make file systems longer (24).
func mayResize(t *testing.T) bool {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(status), "CapEff:")
	bits, err := strconv.ParseUint(strings.Fields(rest)[0], 16, 64)
	if err != nil {
		t.Fatal(err)
	}
	return bits&(1<<21) != 0 && bits&(1<<24) != 0
}

func run(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	output, err := exec.Command(name, arguments...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, arguments, err, output)
	}
	return strings.TrimSpace(string(output))
}

func TestAMountedFileSystemFillsADiskThatHasBecomeLonger(t *testing.T) {
	if !mayResize(t) {
		t.Skip("needs CAP_SYS_ADMIN and CAP_SYS_RESOURCE, as the agent of a guest has; guests whose disks grow are tested by tests/integration/resize.test.ts")
	}
	directory := t.TempDir()
	image, at := filepath.Join(directory, "disk.raw"), filepath.Join(directory, "at")
	run(t, "mke2fs", "-q", "-t", "ext4", image, "64m")
	if err := os.Mkdir(at, 0o755); err != nil {
		t.Fatal(err)
	}
	loop := run(t, "losetup", "--find", "--show", image)
	defer run(t, "losetup", "--detach", loop)
	if err := syscall.Mount(loop, at, "ext4", syscall.MS_NOATIME, zeroed); err != nil {
		t.Fatal(err)
	}
	defer syscall.Unmount(at, 0)
	device, err := os.Open(loop)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	root, err := os.Open(at)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := fillDisk(device, root, 64<<20); err != nil {
		t.Fatal(err)
	}
	blocks, size, err := ext4Size(device)
	if err != nil || blocks*size != 64<<20 {
		t.Fatal(blocks, size, err)
	}
	if err := os.WriteFile(filepath.Join(at, "kept"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 640<<20); err != nil {
		t.Fatal(err)
	}
	run(t, "losetup", "--set-capacity", loop)
	if err := fillDisk(device, root, 1<<40); err != nil {
		t.Fatal(err)
	}
	var stats syscall.Statfs_t
	if err := syscall.Fstatfs(int(root.Fd()), &stats); err != nil {
		t.Fatal(err)
	}
	if bytes := int64(stats.Blocks) * stats.Bsize; bytes < 600<<20 {
		t.Errorf("the file system has %d bytes", bytes)
	}
	if content, err := os.ReadFile(filepath.Join(at, "kept")); string(content) != "kept" {
		t.Error(string(content), err)
	}
}

func TestADiskWithoutAFileSystemIsAnError(t *testing.T) {
	file, err := os.Create(filepath.Join(t.TempDir(), "zeros"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 20); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ext4Size(file); err == nil {
		t.Error("zeros were taken for a file system")
	}
}
