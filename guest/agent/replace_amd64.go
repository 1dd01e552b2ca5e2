package agent

// renameat2(2), which the package syscall is older than.
const sysRenameat2 = 316
