package freezer

import (
	"os"
	"strconv"
	"strings"
)

// members lists the processes of a group.
func members(directory string) ([]int, error) {
	content, err := os.ReadFile(directory + "/cgroup.procs")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, word := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(word); err == nil && pid > 0 { // 0: of another pid namespace
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// kthreadd makes all threads of the kernel.
const kthreadd = 2

// kernelThreads lists, with one look, the threads of the kernel that there are; none where the kernel does not tell.
func kernelThreads() map[int]bool {
	content, err := os.ReadFile("/proc/" + strconv.Itoa(kthreadd) + "/task/" + strconv.Itoa(kthreadd) + "/children")
	if err != nil {
		return nil
	}
	words := strings.Fields(string(content))
	threads := make(map[int]bool, len(words))
	for _, word := range words {
		if pid, err := strconv.Atoi(word); err == nil {
			threads[pid] = true
		}
	}
	return threads
}

// ofTheKernel tells whether a process is a thread of the kernel, which stands still for nobody, or is gone.
func ofTheKernel(pid int) bool {
	if pid == kthreadd {
		return true
	}
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	// "pid (name) state ppid …"; the name may have anything in it.
	fields := strings.Fields(string(content[strings.LastIndexByte(string(content), ')')+1:]))
	return len(fields) < 2 || fields[1] == strconv.Itoa(kthreadd)
}
