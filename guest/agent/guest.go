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
	// ResetConnections ends what the guest's programs have open to the outside.
	ResetConnections() error
	// MountVolume mounts a disk. What is written goes to the part of the system disk with the number of layer, unless that is 0, and the disk is only read.
	MountVolume(disk, path string, readOnly bool, layer int) error
	// PowerOff syncs, unmounts and turns the VM off. It does not return.
	PowerOff()
}

func syncAll() { syscall.Sync() }
