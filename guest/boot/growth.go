package boot

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"hypeman/guest/agent"
)

const (
	// ioctl_ext4: make a mounted file system as many blocks long.
	ext4ResizeFS = 0x40086610
	// blkgetsize64 tells the bytes of a block device.
	blkgetsize64 = 0x80081272
	// growthLook is how long to wait until what the VMM has announced is looked for again.
	growthLook = 5 * time.Millisecond
)

// systemDisk is the disk under the root's writable layer, and its file system: both are open from the boot on, since no path leads there any more.
var systemDisk, systemRoot *os.File

// systemArgument is the kernel argument with the bytes that the system disk's own file system shall have; what was made shorter is made that long.
const systemArgument = "hypeman.system="

// openSystem keeps what Grow needs of the disk that was just mounted, and has its file system fill as much of the disk as the kernel's command line says, which may be longer than when it was made.
func openSystem(device, mountPoint string) (err error) {
	if systemDisk, err = os.Open(device); err != nil {
		return err
	}
	if systemRoot, err = os.Open(mountPoint); err != nil {
		return err
	}
	argument := Argument(systemArgument)
	if argument == "" {
		return nil
	}
	bytes, err := strconv.ParseInt(argument, 10, 64)
	if err != nil {
		return fmt.Errorf("%s%s: %w", systemArgument, argument, err)
	}
	return fillDisk(systemDisk, systemRoot, bytes)
}

// Grow takes into use what the VMM has added: processors and blocks of memory that are not online, until there are as many as wanted, and so much of the system disk.
func (Guest) Grow(wanted agent.Growth, limit time.Duration) (agent.Growth, error) {
	deadline := time.Now().Add(limit)
	found, err := takeOnline("/sys/devices/system")
	// What the kernel is busy with just now it may take a moment later.
	for err != nil || isLess(found, wanted) {
		if time.Now().After(deadline) {
			if err != nil {
				return found, err
			}
			return found, fmt.Errorf("after %v there are %d processors and %d bytes of memory in use, not %d and %d",
				limit, found.Processors, found.MemoryBytes, wanted.Processors, wanted.MemoryBytes)
		}
		time.Sleep(growthLook)
		found, err = takeOnline("/sys/devices/system")
	}
	if err := fillDisk(systemDisk, systemRoot, wanted.DiskBytes); err != nil {
		return found, err
	}
	found.DiskBytes, err = deviceBytes(systemDisk)
	return found, err
}

// isLess tells whether something is missing yet. A kernel that tells of no blocks of memory has what it booted with, and can't be given more.
func isLess(found, wanted agent.Growth) bool {
	return found.Processors < wanted.Processors || found.MemoryBytes != 0 && found.MemoryBytes < wanted.MemoryBytes
}

// takeOnline brings every processor and every block of memory online that is there, and tells what is in use then: memory by whole blocks, the smallest parts that the kernel takes.
func takeOnline(system string) (agent.Growth, error) {
	var found agent.Growth
	processors, err := filepath.Glob(filepath.Join(system, "cpu", "cpu[0-9]*"))
	if err != nil {
		return found, err
	}
	for _, one := range processors {
		isOnline, err := bring(filepath.Join(one, "online"), "1")
		if err != nil {
			return found, err
		}
		if isOnline {
			found.Processors++
		}
	}
	blockSize, err := os.ReadFile(filepath.Join(system, "memory", "block_size_bytes"))
	if os.IsNotExist(err) {
		return found, nil // a kernel without memory that comes and goes
	}
	if err != nil {
		return found, err
	}
	size, err := strconv.ParseInt(strings.TrimSpace(string(blockSize)), 16, 64)
	if err != nil {
		return found, fmt.Errorf("the size of a block of memory: %w", err)
	}
	blocks, err := filepath.Glob(filepath.Join(system, "memory", "memory[0-9]*"))
	if err != nil {
		return found, err
	}
	for _, one := range blocks {
		isOnline, err := bring(filepath.Join(one, "state"), "online")
		if err != nil {
			return found, err
		}
		if isOnline {
			found.MemoryBytes += size
		}
	}
	return found, nil
}

// bring writes a word to a file unless it says so already, and tells whether it says so in the end. A file that is not there is of something that is always so, as the first processor is, or has just gone.
func bring(file, word string) (bool, error) {
	content, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		_, err := os.Stat(filepath.Dir(file))
		return err == nil, nil
	}
	if err != nil {
		return false, err
	}
	if strings.TrimSpace(string(content)) == word {
		return true, nil
	}
	if err := os.WriteFile(file, []byte(word), 0); err != nil {
		// Whoever else does the same at this moment, as udev in the image may, is as good.
		again, _ := os.ReadFile(file)
		if strings.TrimSpace(string(again)) == word {
			return true, nil
		}
		return false, err
	}
	return true, nil
}

// fillDisk makes an ext4 so many bytes long while it is mounted, or as long as its device where that is shorter. One that is no shorter by a block is left alone.
func fillDisk(device, root *os.File, bytes int64) error {
	there, err := deviceBytes(device)
	if err != nil {
		return err
	}
	if there < bytes {
		bytes = there
	}
	blocks, blockSize, err := ext4Size(device)
	if err != nil {
		return err
	}
	wanted := uint64(bytes) / blockSize
	if wanted <= blocks {
		return nil
	}
	if err := ioctl(root.Fd(), "EXT4_IOC_RESIZE_FS", ext4ResizeFS, unsafe.Pointer(&wanted)); err != nil {
		return fmt.Errorf("the file system can't be made %d blocks long: %w", wanted, err)
	}
	return nil
}

func deviceBytes(device *os.File) (int64, error) {
	var bytes int64
	err := ioctl(device.Fd(), "BLKGETSIZE64", blkgetsize64, unsafe.Pointer(&bytes))
	return bytes, err
}

// ext4Size reads how many blocks a file system has, and of how many bytes, from its superblock (at byte 1024: s_blocks_count_lo at 4, s_log_block_size at 24, s_blocks_count_hi at 336, all little-endian).
func ext4Size(device interface {
	ReadAt(into []byte, at int64) (int, error)
}) (blocks, blockSize uint64, err error) {
	block := make([]byte, 1024)
	if _, err := device.ReadAt(block, 1024); err != nil {
		return 0, 0, err
	}
	if magic := binary.LittleEndian.Uint16(block[56:]); magic != 0xef53 {
		return 0, 0, &os.PathError{Op: "read the superblock", Path: "system", Err: syscall.EINVAL}
	}
	low, high := binary.LittleEndian.Uint32(block[4:]), binary.LittleEndian.Uint32(block[336:])
	const incompat64Bit = 0x80
	if binary.LittleEndian.Uint32(block[96:])&incompat64Bit == 0 {
		high = 0
	}
	return uint64(high)<<32 | uint64(low), 1024 << binary.LittleEndian.Uint32(block[24:]), nil
}
