package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"hypeman/guest/agent"
)

// diskOffset is where the disk's content lies: its length in four bytes, then the content.
const (
	diskOffset  = 65536
	longestText = 4096
)

// memory is all that a guest knows: what a saved machine has, and a forked one inherits.
type memory struct {
	// Content is what was last written to memory.
	Content string `json:"content"`
	// Token is made at boot: forks of one memory share it.
	Token string `json:"token"`
	// Random changes with each entropy that the host gives: no two guests share it.
	Random     string `json:"random"`
	BootID     string `json:"boot_id"`
	InstanceID string `json:"instance_id"`
	Hostname   string `json:"hostname"`
	MachineID  string `json:"machine_id"`
	Mac        string `json:"mac"`
	Generation int    `json:"generation"`
	// Balloon is what the guest has given back of its memory, in bytes.
	Balloon int64 `json:"balloon"`
	// Size is what the machine was given.
	Size size `json:"size"`
}

// size is of a machine: processors, and memory in MiB.
type size struct {
	Vcpus  int   `json:"vcpus"`
	Memory int64 `json:"memory"`
}

type guest struct {
	disk *os.File

	running sync.RWMutex // held for writing while the guest is paused
	pausing sync.Mutex   // guards paused
	paused  bool

	mu     sync.Mutex // guards memory and the disk's content
	memory memory
}

func newGuest(disk string, given size) (*guest, error) {
	file, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &guest{disk: file, memory: memory{Token: randomHex(), Random: randomHex(), BootID: randomHex(), Size: given}}, nil
}

// run does a piece of the guest's work: while it is paused, not before it is resumed.
func (g *guest) run(act func()) {
	g.running.RLock()
	defer g.running.RUnlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	act()
}

// pause returns when no piece of work is under way any more. Pausing a paused guest changes nothing.
func (g *guest) pause() {
	g.pausing.Lock()
	defer g.pausing.Unlock()
	if !g.paused {
		g.running.Lock()
		g.paused = true
	}
}

func (g *guest) resume() {
	g.pausing.Lock()
	defer g.pausing.Unlock()
	if g.paused {
		g.paused = false
		g.running.Unlock()
	}
}

func (g *guest) isPaused() bool {
	g.pausing.Lock()
	defer g.pausing.Unlock()
	return g.paused
}

// save writes the memory of a paused guest to a new file that nobody may change; its last line is a digest of all before.
func (g *guest) save(name string) error {
	if !g.isPaused() {
		return errors.New("only a paused machine can be saved")
	}
	g.mu.Lock()
	content, err := json.Marshal(g.memory)
	g.mu.Unlock()
	if err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(file, "%s\n%x\n", content, sha256.Sum256(content))
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	return err
}

// load replaces the memory by a saved one that nobody has changed since.
func (g *guest) load(file *os.File) error {
	defer file.Close()
	image, err := io.ReadAll(file)
	if err != nil {
		return err
	}
	content, digest, _ := bytes.Cut(image, []byte("\n"))
	if string(digest) != fmt.Sprintf("%x\n", sha256.Sum256(content)) {
		return errors.New("the memory image is not as it was written")
	}
	given := g.memory.Size
	if err := json.Unmarshal(content, &g.memory); err != nil {
		return err
	}
	if saved := g.memory.Size; saved != given {
		return fmt.Errorf("the memory image is of a machine with %d processors and %d MiB, not %d and %d", saved.Vcpus, saved.Memory, given.Vcpus, given.Memory)
	}
	return nil
}

// size tells what the machine was given, also while it is paused.
func (g *guest) size() size {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memory.Size
}

// grow gives the machine more, up to what it was started with room for.
func (g *guest) grow(wanted, most size) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if wanted.Vcpus > most.Vcpus || wanted.Memory > most.Memory {
		return errors.New("it has no room for that")
	}
	g.memory.Size = wanted
	return nil
}

// balloon tells what the guest has given back, also while it is paused.
func (g *guest) balloon() int64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memory.Balloon
}

func (g *guest) setBalloon(bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memory.Balloon = bytes
}

// setMemory returns what was there before.
func (g *guest) setMemory(content string) string {
	before := g.memory.Content
	g.memory.Content = content
	return before
}

func (g *guest) readDisk() (string, error) {
	var size [4]byte
	if _, err := g.disk.ReadAt(size[:], diskOffset); err != nil {
		return "", err
	}
	length := binary.BigEndian.Uint32(size[:])
	if length > longestText {
		return "", fmt.Errorf("the disk names a content of %d bytes", length)
	}
	content := make([]byte, length)
	_, err := g.disk.ReadAt(content, diskOffset+4)
	return string(content), err
}

// writeDisk returns what was there before.
func (g *guest) writeDisk(content string) (string, error) {
	if len(content) > longestText {
		return "", fmt.Errorf("the disk takes at most %d bytes", longestText)
	}
	before, err := g.readDisk()
	if err != nil {
		return "", err
	}
	block := make([]byte, 4, 4+len(content))
	binary.BigEndian.PutUint32(block, uint32(len(content)))
	_, err = g.disk.WriteAt(append(block, content...), diskOffset)
	return before, err
}

// identify gives the guest its name and mixes the host's entropy into what it has.
func (g *guest) identify(request agent.Identity) {
	if request.Reason != "restore" {
		g.memory.InstanceID = request.InstanceID
		g.memory.Hostname = request.Hostname
		g.memory.MachineID = request.MachineID
		if request.Network != nil {
			g.memory.Mac = request.Network.MAC
		}
	}
	g.memory.Generation = request.Generation
	mixed := sha256.Sum256([]byte(g.memory.Random + request.Entropy))
	g.memory.Random = hex.EncodeToString(mixed[:16])
}

// powerOff ends the machine as a guest does that turns itself off: its disk is synced by then.
func (g *guest) powerOff(exitCode int) {
	if err := g.disk.Sync(); err != nil {
		fmt.Fprintf(os.Stderr, "stand-in: the disk can't be synced: %v\n", err)
		os.Exit(1)
	}
	if console, err := os.OpenFile(consoleLog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
		fmt.Fprintf(console, "HYPEMAN-EXIT {\"exit_code\":%d}\n", exitCode)
		console.Close()
	} else {
		fmt.Fprintf(os.Stderr, "stand-in: no console: %v\n", err)
	}
	os.Exit(0)
}

func randomHex() string {
	bytes := make([]byte, 16)
	if _, err := rand.Read(bytes); err != nil {
		panic("getrandom failed: " + err.Error())
	}
	return hex.EncodeToString(bytes)
}
