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
	return numbersIn(string(content)), nil
}

// kthreadd makes all threads of the kernel. Programs that the kernel starts (a handler of core dumps, say) are its children, too.
const kthreadd = 2

// ofTheKernel is the flag that a thread of the kernel has in /proc/PID/stat (PF_KTHREAD of the kernel's sched.h).
const ofTheKernel = 0x00200000

// threads are those of the kernel, which stand still for nobody. There are dozens, so what one is was read once; that is trusted while kthreadd has it.
type threads struct {
	known map[int]bool
}

// look forgets those that kthreadd has no more, with one look; all of them where the kernel does not list its children.
func (t *threads) look() {
	children := childrenOf(kthreadd)
	kept := make(map[int]bool, len(children))
	for _, pid := range children {
		if t.known[pid] {
			kept[pid] = true
		}
	}
	t.known = kept
}

// has tells whether a process is a thread of the kernel, or is gone.
func (t *threads) has(pid int) bool {
	if t.known[pid] {
		return true
	}
	content, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true
	}
	if !isOfTheKernel(string(content)) {
		return false
	}
	t.known[pid] = true
	return true
}

func childrenOf(pid int) []int {
	name := strconv.Itoa(pid)
	content, err := os.ReadFile("/proc/" + name + "/task/" + name + "/children")
	if err != nil {
		return nil
	}
	return numbersIn(string(content))
}

// isOfTheKernel reads a process's stat: "pid (name) state ppid pgrp session tty tpgid flags …"; the name may have anything in it.
func isOfTheKernel(stat string) bool {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 7 {
		return false
	}
	flags, err := strconv.ParseUint(fields[6], 10, 64)
	return err == nil && flags&ofTheKernel != 0
}

func numbersIn(text string) []int {
	var numbers []int
	for _, word := range strings.Fields(text) {
		if number, err := strconv.Atoi(word); err == nil && number > 0 { // 0: of another pid namespace
			numbers = append(numbers, number)
		}
	}
	return numbers
}
