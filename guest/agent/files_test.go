package agent

import (
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func query(path string, more ...string) string {
	text := "path=" + url.QueryEscape(path)
	for _, one := range more {
		text += "&" + one
	}
	return text
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// names lists a directory; what starts with a dot is a temporary file that should be gone.
func names(t *testing.T, directory string) string {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, entry := range entries {
		all = append(all, entry.Name())
	}
	return strings.Join(all, " ")
}

func TestAFileIsWrittenWithItsParentsModeAndOwner(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	path := filepath.Join(directory, "a/b/file")
	more := []string{"mode=4750"}
	if os.Getuid() == 0 {
		more = append(more, "uid=12", "gid=34")
	}
	answer := r.ask(200, "PUT", "/v1/file?"+query(path, more...), "content")
	if answer["bytes_written"] != 7.0 || read(t, path) != "content" {
		t.Fatal(answer)
	}
	info := r.ask(200, "GET", "/v1/stat?"+query(path), nil)
	if info["mode"] != float64(0o4750) || info["size"] != 7.0 || info["is_file"] != true {
		t.Fatal(info)
	}
	if os.Getuid() == 0 && (info["uid"] != 12.0 || info["gid"] != 34.0) {
		t.Fatal(info)
	}
	if names(t, filepath.Dir(path)) != "file" {
		t.Fatal(names(t, filepath.Dir(path)))
	}
}

func TestAFileIsReplacedAtOnceAndThroughALink(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	path := filepath.Join(directory, "file")
	write(t, path, "old")
	link(t, "file", filepath.Join(directory, "link"))
	held, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	r.ask(200, "PUT", "/v1/file?"+query(filepath.Join(directory, "link")), "new")
	old, err := io.ReadAll(held)
	if err != nil || string(old) != "old" || read(t, path) != "new" {
		t.Fatal(string(old), read(t, path), err)
	}
	if target, err := os.Readlink(filepath.Join(directory, "link")); err != nil || target != "file" {
		t.Fatal(target, err)
	}
}

func TestABodyThatBreaksOffLeavesNothing(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	write(t, filepath.Join(directory, "file"), "old")
	for _, framing := range []string{"Content-Length: 100\r\n\r\nshort", "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"} {
		conn, err := net.Dial("unix", r.socket)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT /v1/file?%s HTTP/1.1\r\nHost: guest\r\n%s", query(filepath.Join(directory, "file")), framing)
		waitUntil(t, "the temporary file is there", func() bool { return strings.Contains(names(t, directory), ".hypeman-") })
		conn.Close()
		waitUntil(t, "the temporary file is gone", func() bool { return names(t, directory) == "file" })
		if read(t, filepath.Join(directory, "file")) != "old" {
			t.Fatal("the old file was touched")
		}
	}
}

func TestWhatAFileCannotReplaceIsRefused(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(directory, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(directory, "file"), "x")
	for path, code := range map[string]string{directory: "is_directory", filepath.Join(directory, "fifo"): "conflict", filepath.Join(directory, "file/below"): "conflict"} {
		if answer := r.ask(409, "PUT", "/v1/file?"+query(path), "x"); answer["code"] != code {
			t.Error(path, answer)
		}
	}
	r.ask(400, "PUT", "/v1/file", "x")
	r.ask(400, "PUT", "/v1/file?"+query("/x", "mode=9"), "x")
	r.ask(400, "PUT", "/v1/file?"+query("/x", "uid=-1"), "x")
	r.ask(405, "GET", "/v1/file?"+query("/x"), nil)
}

func TestAFullDiskIsSaid(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root can mount a small file system")
	}
	directory := t.TempDir()
	if err := syscall.Mount("tmpfs", directory, "tmpfs", 0, "size=64k"); err != nil {
		t.Skipf("a small file system can't be mounted here: %v", err)
	}
	defer func() { _ = syscall.Unmount(directory, syscall.MNT_DETACH) }()
	answer := newRig(t).ask(507, "PUT", "/v1/file?"+query(filepath.Join(directory, "file")), make([]byte, 1<<17))
	if answer["code"] != "no_space" || names(t, directory) != "" {
		t.Fatal(answer, names(t, directory))
	}
}

func TestADirectoryIsMadeAndAnExistingOneKept(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	path := filepath.Join(directory, "a/b")
	r.ask(200, "PUT", "/v1/directory?"+query(path, "mode=1777"), nil)
	r.ask(200, "PUT", "/v1/directory?"+query(path, "mode=700"), nil)
	if info := r.ask(200, "GET", "/v1/stat?"+query(path), nil); info["mode"] != float64(0o1777) || info["is_dir"] != true {
		t.Fatal(info)
	}
	write(t, filepath.Join(directory, "file"), "x")
	if answer := r.ask(409, "PUT", "/v1/directory?"+query(filepath.Join(directory, "file")), nil); answer["code"] != "not_directory" {
		t.Fatal(answer)
	}
}

func TestStatTellsLinksFromWhatTheyPointTo(t *testing.T) {
	r, directory := newRig(t), t.TempDir()
	write(t, filepath.Join(directory, "file"), "12345")
	link(t, "file", filepath.Join(directory, "link"))
	link(t, "nowhere", filepath.Join(directory, "dangling"))
	link(t, "loop", filepath.Join(directory, "loop"))
	at := func(name, more string) map[string]any {
		return r.ask(200, "GET", "/v1/stat?"+query(filepath.Join(directory, name), more), nil)
	}
	if info := at("link", "follow_links=false"); info["is_symlink"] != true || info["link_target"] != "file" || info["is_file"] != false {
		t.Error(info)
	}
	if info := at("link", "follow_links=true"); info["is_symlink"] != false || info["size"] != 5.0 {
		t.Error(info)
	}
	for name, more := range map[string]string{"missing": "", "dangling": "follow_links=true", "file/below": ""} {
		if info := at(name, more); info["exists"] != false || info["error"] != nil {
			t.Error(name, info)
		}
	}
	if info := at("loop", "follow_links=true"); info["exists"] != false || info["error"] == nil {
		t.Error(info)
	}
}

func TestStatsAreThoseOfAMachine(t *testing.T) {
	stats := newRig(t).ask(200, "GET", "/v1/stats", nil)
	for _, name := range []string{"memory_total_bytes", "memory_available_bytes", "processes", "disk_total_bytes", "disk_used_bytes"} {
		if value, ok := stats[name].(float64); !ok || value <= 0 {
			t.Errorf("%s: %v", name, stats[name])
		}
	}
}

func TestTrafficIsThatOfTheInterface(t *testing.T) {
	table := "Inter-|   Receive  |  Transmit\n face |bytes packets|bytes\n    lo:  11 1 0 0 0 0 0 0 22 1\n  eth0: 123 4 0 0 0 0 0 0 456 7 0 0 0 0 0 0\n"
	if received, sent := traffic(table, "eth0"); received != 123 || sent != 456 {
		t.Fatal(received, sent)
	}
	if received, sent := traffic(table, "eth1"); received != 0 || sent != 0 {
		t.Fatal(received, sent)
	}
}
