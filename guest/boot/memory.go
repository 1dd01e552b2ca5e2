package boot

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// tmpfsMagic is the type of a tmpfs(5), as statfs(2) tells it.
const tmpfsMagic = 0x01021994

// KeepInMemory makes a directory for root alone whose files are never on a disk: where it lies on another file system than tmpfs(5), one is mounted there. A link is refused,
// since it would lead elsewhere.
func (Guest) KeepInMemory(path string) error {
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s is no directory; remove what is there", path)
	}
	inMemory, err := isTmpfs(path)
	if err != nil {
		return err
	}
	if !inMemory {
		if err := mount(mountPoint{"tmpfs", path, "tmpfs", safe, "mode=0700"}); err != nil {
			return err
		}
	}
	// Programs of root may have made it, or lent it to others.
	if err := os.Chown(path, 0, 0); err != nil {
		return err
	}
	return os.Chmod(path, 0o700)
}

func isTmpfs(path string) (bool, error) {
	var found syscall.Statfs_t
	if err := syscall.Statfs(path, &found); err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return int64(found.Type) == tmpfsMagic, nil
}
