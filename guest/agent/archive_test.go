package agent

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// entriesOf reads a tar to its end: name, type, size and content of each entry.
func entriesOf(t *testing.T, content []byte) []string {
	t.Helper()
	var all []string
	archive := tar.NewReader(bytes.NewReader(content))
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(archive)
		if err != nil || int64(len(body)) != header.Size {
			t.Fatal(header.Name, len(body), err)
		}
		all = append(all, fmt.Sprintf("%s %c %s%.20s", header.Name, header.Typeflag, header.Linkname, body))
	}
}

func TestAnArchiveHoldsATreeInOrder(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	root := filepath.Join(directory, "top")
	write(t, filepath.Join(root, "b"), "bbb")
	write(t, filepath.Join(root, "a/file"), "aaa")
	link(t, "../outside", filepath.Join(root, "c"))
	if err := syscall.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	status, content := r.do("GET", "/v1/archive?"+query(root), nil)
	want := "top/ 5 |top/a/ 5 |top/a/file 0 aaa|top/b 0 bbb|top/c 2 ../outside"
	if got := strings.Join(entriesOf(t, content), "|"); status != 200 || got != want {
		t.Fatal(status, got)
	}
	if _, content = r.do("GET", "/v1/archive?"+query(filepath.Join(root, "b")), nil); strings.Join(entriesOf(t, content), "|") != "b 0 bbb" {
		t.Fatal(entriesOf(t, content))
	}
	link(t, "top", filepath.Join(directory, "way"))
	if _, content = r.do("GET", "/v1/archive?"+query(filepath.Join(directory, "way"), "follow_links=false"), nil); strings.Join(entriesOf(t, content), "|") != "way 2 top" {
		t.Fatal(entriesOf(t, content))
	}
	if _, content = r.do("GET", "/v1/archive?"+query(filepath.Join(directory, "way"), "follow_links=true"), nil); len(entriesOf(t, content)) != 5 {
		t.Fatal(entriesOf(t, content))
	}
	answer := r.ask(404, "GET", "/v1/archive?"+query("/no/such"), nil)
	if answer["code"] != "not_found" || !strings.HasPrefix(answer["message"].(string), "stat: ") {
		t.Fatal(answer)
	}
}

// shrinking is a file that gets shorter while it is read.
func TestAFileThatChangesIsSentWithItsAnnouncedSize(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, now := range []int64{0, 1000, 5000, 9000} {
		write(t, path, strings.Repeat("x", 5000))
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, now); err != nil {
			t.Fatal(err)
		}
		var content bytes.Buffer
		archive := tar.NewWriter(&content)
		if err := addFile(archive, path, "file", info); err != nil {
			t.Fatal(err)
		}
		if err := archive.Close(); err != nil {
			t.Fatal(err)
		}
		entriesOf(t, content.Bytes())
	}
}

func TestAnArchiveThatFailsOnItsWayIsBrokenOffNotEnded(t *testing.T) {
	// A file of the kernel that says it has 4096 bytes, and can't be read.
	files, err := filepath.Glob("/sys/bus/*/drivers_probe")
	if err != nil || len(files) == 0 {
		t.Skip("this machine has no file that can't be read")
	}
	r := newRig(t)
	answer, err := r.client.Get("http://guest/v1/archive?" + query(files[0]))
	if err != nil {
		return // not even a status came
	}
	defer answer.Body.Close()
	if content, err := io.ReadAll(answer.Body); err == nil {
		t.Fatalf("it ended as if it were whole: %d %q", answer.StatusCode, content)
	}
}

func TestTheViewsOfTheKernelAreLeftOut(t *testing.T) {
	if !isKernels("/proc") || isKernels(t.TempDir()) {
		t.Fatal("proc is not told from files")
	}
}

type entry struct {
	kind          byte
	name, content string
	mode          int64
}

func tarOf(t *testing.T, entries ...entry) []byte {
	t.Helper()
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, one := range entries {
		header := &tar.Header{Typeflag: one.kind, Name: one.name, Mode: one.mode, ModTime: time.Unix(1000000000, 0), Uid: os.Getuid(), Gid: os.Getgid()}
		if one.mode == 0 {
			header.Mode = 0o755
		}
		if one.kind == tar.TypeReg {
			header.Size = int64(len(one.content))
		} else {
			header.Linkname = one.content
		}
		if err := archive.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if one.kind == tar.TypeReg {
			if _, err := io.WriteString(archive, one.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return content.Bytes()
}

func TestAnArchiveIsExtractedWithModesTimesAndLinks(t *testing.T) {
	r, root := newRig(t), filepath.Join(t.TempDir(), "new/place")
	answer := r.ask(200, "PUT", "/v1/archive?"+query(root), tarOf(t,
		entry{tar.TypeDir, "./", "", 0o750},
		entry{tar.TypeDir, "dir/", "", 0o700},
		entry{tar.TypeReg, "dir/file", "hello", 0o4755},
		entry{tar.TypeReg, "without/parent", "x", 0o644},
		entry{tar.TypeSymlink, "dir/link", "../../anywhere", 0},
		entry{tar.TypeLink, "hard", "dir/file", 0},
		entry{tar.TypeChar, "device", "", 0},
	))
	if answer["bytes_written"] != 6.0 || answer["entries"] != 7.0 {
		t.Fatal(answer)
	}
	for path, mode := range map[string]os.FileMode{".": 0o750 | os.ModeDir, "dir": 0o700 | os.ModeDir, "dir/file": 0o755 | os.ModeSetuid, "without": 0o755 | os.ModeDir, "hard": 0o755 | os.ModeSetuid} {
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil || info.Mode() != mode {
			t.Error(path, info.Mode(), err)
		}
		if (path == "dir" || path == "dir/file") && info.ModTime().Unix() != 1000000000 {
			t.Error(path, info.ModTime())
		}
	}
	if target, err := os.Readlink(filepath.Join(root, "dir/link")); err != nil || target != "../../anywhere" {
		t.Error(target, err)
	}
	if names(t, root) != "dir hard without" {
		t.Error(names(t, root))
	}
}

func TestEntriesThatLeaveTheTargetAreRefused(t *testing.T) {
	outside := t.TempDir()
	for name, entries := range map[string][]entry{
		"absolute":             {{tar.TypeReg, "/etc/evil", "x", 0}},
		"climbing":             {{tar.TypeReg, "../evil", "x", 0}},
		"climbing inside":      {{tar.TypeReg, "a/../../evil", "x", 0}},
		"through a link":       {{tar.TypeSymlink, "way", outside, 0}, {tar.TypeReg, "way/evil", "x", 0}},
		"a directory for link": {{tar.TypeSymlink, "way", outside, 0}, {tar.TypeDir, "way/", "", 0}},
		"hard link out":        {{tar.TypeLink, "evil", "../../etc/passwd", 0}},
		"hard link by a link":  {{tar.TypeSymlink, "way", outside, 0}, {tar.TypeLink, "evil", "way/secret", 0}},
	} {
		r, root := newRig(t), t.TempDir()
		entries = append(entries, entry{tar.TypeReg, "after", "x", 0})
		if answer := r.ask(400, "PUT", "/v1/archive?"+query(root), tarOf(t, entries...)); answer["code"] != "unsafe_path" {
			t.Error(name, answer)
		}
		if strings.Contains(names(t, root), "after") || strings.Contains(names(t, root), "evil") || names(t, outside) != "" {
			t.Errorf("%s: %s, outside %s", name, names(t, root), names(t, outside))
		}
	}
}

func TestAnEntryReplacesALinkAndDoesNotWriteThroughIt(t *testing.T) {
	r, root := newRig(t), t.TempDir()
	write(t, filepath.Join(root, "precious"), "precious")
	link(t, "precious", filepath.Join(root, "link"))
	r.ask(200, "PUT", "/v1/archive?"+query(root), tarOf(t, entry{tar.TypeReg, "link", "new", 0}))
	if read(t, filepath.Join(root, "precious")) != "precious" || read(t, filepath.Join(root, "link")) != "new" {
		t.Fatal("written through the link")
	}
	if err := os.MkdirAll(filepath.Join(root, "full/of"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []byte{tar.TypeReg, tar.TypeSymlink} {
		r.ask(409, "PUT", "/v1/archive?"+query(root), tarOf(t, entry{kind, "full", "x", 0}))
	}
}

func TestAnArchiveThatIsNoneOrBreaksOffIsRefused(t *testing.T) {
	r, root := newRig(t), t.TempDir()
	whole := tarOf(t, entry{tar.TypeReg, "file", strings.Repeat("x", 2000), 0})
	for _, content := range [][]byte{bytes.Repeat([]byte("no tar "), 200), whole[:1500], whole[:700]} {
		if answer := r.ask(400, "PUT", "/v1/archive?"+query(root), content); answer["code"] != "bad_archive" {
			t.Error(answer)
		}
		if names(t, root) != "" {
			t.Error(names(t, root))
		}
	}
}
