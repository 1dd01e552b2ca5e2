package agent

import (
	"syscall"
	"time"

	"hypeman/guest/network"
)

// Guest is what only a VM of its own can be asked for.
type Guest interface {
	// AddEntropy credits bytes to the kernel's pool and reseeds its generator.
	AddEntropy(bytes []byte) error
	SetClock(now time.Time) error
	SetHostname(name string) error
	// ReplaceBootID shows a fresh boot id to all programs.
	ReplaceBootID(id string) error
	SetNetwork(config network.Config) error
	// ForgetNeighbours drops what is known of the network's other machines; mac is what the interface has.
	ForgetNeighbours(mac string) error
	// LookForConnections is asked when programs have come to stand still, ResetConnections before they go on. What nothing was received for since need not be looked for again.
	LookForConnections()
	// ResetConnections ends what the guest's programs have open to the outside; network.ErrNoReset of a kernel that can't.
	ResetConnections() error
	// MountVolume mounts a disk. What is written goes to the part of the system disk with the number of layer, unless that is 0, and the disk is only read.
	MountVolume(disk, path string, readOnly bool, layer int) error
	// KeepInMemory makes a directory for root alone whose files are never on a disk.
	KeepInMemory(path string) error
	// Grow takes what the VMM has added into use and tells what there is then, even with an error; it waits at most that long until there is as much as wanted.
	Grow(wanted Growth, limit time.Duration) (Growth, error)
	// PowerOff syncs, unmounts and turns the VM off. It does not return.
	PowerOff()
}

// Growth is what a guest has, or shall have: processors and memory that are in use, and the size of the system disk, of which its file system takes as much as there is.
type Growth struct {
	Processors  int   `json:"cpus"`
	MemoryBytes int64 `json:"memory_bytes"`
	DiskBytes   int64 `json:"disk_bytes"`
}

// Programs is all that runs in the guest but the agent.
type Programs interface {
	// Freeze has them stand still, Thaw has them go on. Doing either twice is no error.
	Freeze() error
	Thaw() error
	Frozen() bool
	// Start has start make one of them, which waits while they stand still.
	Start(start func() (pid int, err error)) error
	// StartHook has start make a process that runs meanwhile; HooksEnded is told when hooks have left the rest to run in the background.
	StartHook(start func() (pid int, err error)) error
	HooksEnded() error
}

func syncAll() { syscall.Sync() }
