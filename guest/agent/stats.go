package agent

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"syscall"
)

type guestStats struct {
	MemoryTotal     uint64  `json:"memory_total_bytes"`
	MemoryAvailable uint64  `json:"memory_available_bytes"`
	Load1           float64 `json:"load1"`
	CPUSeconds      float64 `json:"cpu_seconds"`
	Processes       int     `json:"processes"`
	DiskTotal       uint64  `json:"disk_total_bytes"`
	DiskUsed        uint64  `json:"disk_used_bytes"`
	NetworkReceived uint64  `json:"network_received_bytes"`
	NetworkSent     uint64  `json:"network_sent_bytes"`
}

func (s *Server) stats(w http.ResponseWriter, _ *http.Request) error {
	var answer guestStats
	if err := readMemory(&answer); err != nil {
		return err
	}
	var info syscall.Sysinfo_t
	if err := syscall.Sysinfo(&info); err != nil {
		return err
	}
	answer.Load1, answer.Processes = float64(info.Loads[0])/65536, int(info.Procs)
	if err := readCPU(&answer); err != nil {
		return err
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs("/", &disk); err != nil {
		return err
	}
	answer.DiskTotal = disk.Blocks * uint64(disk.Bsize)
	answer.DiskUsed = (disk.Blocks - disk.Bfree) * uint64(disk.Bsize)
	content, err := os.ReadFile("/proc/net/dev")
	if err != nil {
		return err
	}
	answer.NetworkReceived, answer.NetworkSent = traffic(string(content), "eth0")
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// traffic reads the bytes of an interface from proc_net_dev(5): the first number of a line is what it received, the ninth what it sent.
func traffic(table, name string) (received, sent uint64) {
	for _, line := range strings.Split(table, "\n") {
		interfaceName, numbers, found := strings.Cut(line, ":")
		fields := strings.Fields(numbers)
		if !found || strings.TrimSpace(interfaceName) != name || len(fields) < 9 {
			continue
		}
		received, _ = strconv.ParseUint(fields[0], 10, 64)
		sent, _ = strconv.ParseUint(fields[8], 10, 64)
	}
	return received, sent
}

func readMemory(into *guestStats) error {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return err
	}
	defer file.Close()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue // a line of another form
		}
		switch fields[0] {
		case "MemTotal:":
			into.MemoryTotal = kib * 1024
		case "MemAvailable:":
			into.MemoryAvailable = kib * 1024
		}
	}
	return lines.Err()
}

// readCPU adds user, nice and system time of all CPUs; proc(5) gives hundredths of a second.
func readCPU(into *guestStats) error {
	content, err := os.ReadFile("/proc/stat")
	if err != nil {
		return err
	}
	fields := strings.Fields(strings.SplitN(string(content), "\n", 2)[0])
	for i := 1; i <= 3 && i < len(fields); i++ {
		ticks, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return fmt.Errorf("/proc/stat has an unknown form: %w", err)
		}
		into.CPUSeconds += float64(ticks) / 100
	}
	return nil
}
