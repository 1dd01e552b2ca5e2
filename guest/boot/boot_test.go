package boot

import (
	"strings"
	"testing"
)

func TestVolumesAreUnmountedLastFirst(t *testing.T) {
	table := strings.Join([]string{
		"overlay / overlay rw 0 0",
		"proc /proc proc rw 0 0",
		"/dev/vdc /data ext4 rw,noatime 0 0",
		`/dev/vdd /data/with\040space ext4 ro 0 0`,
		"tmpfs /run tmpfs rw 0 0",
		"",
	}, "\n")
	if got := strings.Join(volumesOf(table), "|"); got != "/data/with space|/data" {
		t.Fatal(got)
	}
}
