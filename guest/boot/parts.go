package boot

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"
)

// partsArgument is the kernel argument that divides the system disk: OFFSET+SIZE,… in bytes. The first part is the instance's own layer, the others lie over volumes.
const partsArgument = "hypeman.parts="

// blkpg(4): the number of the request, and the operation that adds a partition.
const (
	blkpg             = 0x1269
	blkpgAddPartition = 1
)

// part is a stretch of a disk, in bytes.
type part struct{ offset, size int64 }

// divide makes the parts of the system disk that the kernel's command line names, and returns the device of the first. Without any the disk is one.
// They are in no table on the disk, whose file system begins where that would be.
func divide(device string) (string, error) {
	parts, err := partsOf(Argument(partsArgument))
	if err != nil || len(parts) == 0 {
		return device, err
	}
	disk, err := os.Open(device)
	if err != nil {
		return "", err
	}
	defer disk.Close()
	for index, one := range parts {
		if err := addPart(disk, index+1, one); err != nil {
			return "", fmt.Errorf("part %d of the system disk: %w", index+1, err)
		}
	}
	return partDevice(device, 1), nil
}

func partDevice(device string, number int) string {
	return device + strconv.Itoa(number)
}

func partsOf(list string) ([]part, error) {
	if list == "" {
		return nil, nil
	}
	var parts []part
	for _, one := range strings.Split(list, ",") {
		offset, size, _ := strings.Cut(one, "+")
		from, err := strconv.ParseInt(offset, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s%s: a part has the form OFFSET+SIZE", partsArgument, list)
		}
		length, err := strconv.ParseInt(size, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("%s%s: a part has the form OFFSET+SIZE", partsArgument, list)
		}
		parts = append(parts, part{from, length})
	}
	return parts, nil
}

func addPart(disk *os.File, number int, one part) error {
	// struct blkpg_partition: start, length, number, two names that the kernel does not read.
	partition := struct {
		start, length int64
		number        int32
		names         [128]byte
	}{start: one.offset, length: one.size, number: int32(number)}
	// struct blkpg_ioctl_arg.
	argument := struct {
		operation, flags, length int32
		data                     unsafe.Pointer
	}{operation: blkpgAddPartition, length: int32(unsafe.Sizeof(partition)), data: unsafe.Pointer(&partition)}
	return ioctl(disk.Fd(), "BLKPG", blkpg, unsafe.Pointer(&argument))
}
