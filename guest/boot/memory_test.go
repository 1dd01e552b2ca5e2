package boot

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// mounted is a directory with a file system of that kind.
func mounted(t *testing.T, kind string) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	directory := t.TempDir()
	if err := syscall.Mount(kind, directory, kind, 0, ""); err != nil {
		t.Skipf("a %s can't be mounted here: %v", kind, err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(directory, 0); err != nil {
			t.Error(err)
		}
	})
	return directory
}

func TestADirectoryInMemoryIsMadeForRootAlone(t *testing.T) {
	path := filepath.Join(mounted(t, "tmpfs"), "secrets")
	for _, before := range []func() error{
		func() error { return nil },
		func() error { return os.Chmod(path, 0o777) },
		func() error { return os.Chown(path, 12, 34) },
	} {
		if err := before(); err != nil {
			t.Fatal(err)
		}
		if err := (Guest{}).KeepInMemory(path); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode() != os.ModeDir|0o700 || info.Sys().(*syscall.Stat_t).Uid != 0 {
			t.Fatal(info, err)
		}
	}
	if table, err := os.ReadFile("/proc/self/mounts"); err != nil || strings.Contains(string(table), " "+path+" ") {
		t.Fatal("it was mounted over, though it is in memory", err)
	}
}

func TestADirectoryOnAnotherFileSystemHasATmpfsMountedOverItOnce(t *testing.T) {
	path := filepath.Join(mounted(t, "ramfs"), "secrets")
	if err := os.Mkdir(path, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(path, 0) })
	for again := 0; again < 2; again++ {
		if err := (Guest{}).KeepInMemory(path); err != nil {
			t.Fatal(err)
		}
	}
	if inMemory, err := isTmpfs(path); err != nil || !inMemory {
		t.Fatal(inMemory, err)
	}
	table, err := os.ReadFile("/proc/self/mounts")
	if err != nil || strings.Count(string(table), " "+path+" tmpfs ") != 1 {
		t.Fatal(string(table), err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != os.ModeDir|0o700 {
		t.Fatal(info, err)
	}
}

func TestALinkOrAFileInPlaceOfADirectoryIsRefused(t *testing.T) {
	directory := t.TempDir()
	for name, make := range map[string]func(path string) error{
		"link": func(path string) error { return os.Symlink("/tmp", path) },
		"file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
	} {
		path := filepath.Join(directory, name)
		if err := make(path); err != nil {
			t.Fatal(err)
		}
		if err := (Guest{}).KeepInMemory(path); err == nil || err.Error() != path+" is no directory; remove what is there" {
			t.Error(name, err)
		}
	}
}
