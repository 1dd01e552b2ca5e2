package boot

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestVolumesAreUnmountedLastFirst(t *testing.T) {
	table := strings.Join([]string{
		"overlay / overlay rw 0 0",
		"proc /proc proc rw 0 0",
		"/dev/vdc /data ext4 rw,noatime 0 0",
		`/dev/vdd /data/with\040space\0431 ext4 ro 0 0`,
		"vol-2 /srv overlay rw,noatime,lowerdir=/run/hypeman/layers/vol-2/volume 0 0",
		"tmpfs /run tmpfs rw 0 0",
		"",
	}, "\n")
	if got := strings.Join(volumesOf(table), "|"); got != "/srv|/data/with space#1|/data" {
		t.Fatal(got)
	}
}

func TestWhatFollowsAPrefixIsOfTheFirstArgumentWithIt(t *testing.T) {
	for line, want := range map[string]string{
		"quiet hypeman.log=hvc0 panic=-1\n":  "hvc0",
		"hypeman.log=hvc0 hypeman.log=ttyS1": "hvc0",
		"no.hypeman.log=hvc0":                "",
		"hypeman.log=":                       "",
		"":                                   "",
	} {
		withArguments(t, line)
		if got := Argument("hypeman.log="); got != want {
			t.Errorf("%s: %q instead of %q", line, got, want)
		}
	}
}

// withArguments is a guest that was booted with that command line, until the end of the test.
func withArguments(t *testing.T, line string) {
	t.Helper()
	before := arguments
	t.Cleanup(func() { arguments = before })
	arguments = strings.Fields(line)
}

func TestPartsOfTheSystemDiskAreThoseOfTheCommandLine(t *testing.T) {
	for list, want := range map[string]string{
		"":                                 "[]",
		"0+1073741824,1073741824+67108864": "[{0 1073741824} {1073741824 67108864}]",
	} {
		if got, err := partsOf(list); err != nil || fmt.Sprint(got) != want {
			t.Error(list, got, err)
		}
	}
	for _, list := range []string{"0", "0+x", "0+1,,1+1"} {
		if got, err := partsOf(list); err == nil {
			t.Error(list, got)
		}
	}
}

func TestTheTopOfALayerIsMadeLikeThatOfItsVolumeOnce(t *testing.T) {
	directory := t.TempDir()
	volume, layer := directory+"/volume", directory+"/layer"
	for name, mode := range map[string]os.FileMode{volume: 0o750, layer + ".new": 0o700} {
		if err := os.Mkdir(name, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, changed := range []os.FileMode{0o711, 0o700} {
		if err := makeLike(layer, volume); err != nil {
			t.Fatal(err)
		}
		if stat, err := os.Stat(layer); err != nil || stat.Mode().Perm() != 0o750 {
			t.Fatal(stat.Mode(), err)
		}
		if err := os.Chmod(volume, changed); err != nil {
			t.Fatal(err)
		}
	}
}

func TestADiskWithoutASerialHasAPlaceOnTheCommandLine(t *testing.T) {
	withArguments(t, "quiet hypeman.disks=rootfs,system,vol-0 hypeman.off=reset")
	for id, device := range map[string]string{"rootfs": "/dev/vda", "system": "/dev/vdb", "vol-0": "/dev/vdc", "vol-1": ""} {
		if got := diskByPlace(id); got != device {
			t.Errorf("%s: %q instead of %q", id, got, device)
		}
	}
	withArguments(t, "quiet")
	if got := diskByPlace("rootfs"); got != "" {
		t.Error(got)
	}
}
