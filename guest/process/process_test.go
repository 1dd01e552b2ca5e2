package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// users gives the image of a test its users and groups.
func users(t *testing.T, passwd, group string) {
	t.Helper()
	directory := t.TempDir()
	oldPasswd, oldGroup := passwdFile, groupFile
	passwdFile, groupFile = filepath.Join(directory, "passwd"), filepath.Join(directory, "group")
	t.Cleanup(func() { passwdFile, groupFile = oldPasswd, oldGroup })
	for file, content := range map[string]string{passwdFile: passwd, groupFile: group} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

const (
	somePasswd = "# comment\nroot:x:0:0:root:/root:/bin/sh\n\nweb:x:1001:1002:Web:/srv/web:/bin/sh\n1001:x:77:78::/seventy:/bin/sh\nbroken:x:abc:1:::\nshort:x:5\n"
	someGroup  = "root:x:0:\nstaff:x:50:alice,web\nweb:x:1002:\ndisk:x:6:web\nbad:x:zz:web\n"
)

func TestUsersAreLookedUpInTheImage(t *testing.T) {
	users(t, somePasswd, someGroup)
	for spec, want := range map[string]string{
		"":           "0:0 [] /root",
		"root":       "0:0 [] /root",
		"web":        "1001:1002 [50 6] /srv/web",
		"web:staff":  "1001:50 [] /srv/web",
		"web:6":      "1001:6 [] /srv/web",
		"1001":       "77:78 [] /seventy", // a name comes before a number
		"77":         "77:78 [] /seventy",
		"4000":       "4000:0 [] /",
		"4000:5000":  "4000:5000 [] /",
		"4000:staff": "4000:50 [] /",
		"5":          "5:0 [] /",
	} {
		found, err := lookUp(spec)
		if err != nil {
			t.Errorf("%q: %v", spec, err)
			continue
		}
		got := fmt.Sprintf("%d:%d %v %s", found.credential.Uid, found.credential.Gid, found.credential.Groups, found.home)
		if got != want {
			t.Errorf("%q is %s, not %s", spec, got, want)
		}
	}
	for spec, words := range map[string]string{"nobody": "no user nobody", "web:none": "no group none", "broken": "damaged", "-1": "no user", "99999999999": "no user"} {
		if _, err := lookUp(spec); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%q: %v", spec, err)
		}
	}
}

func TestAnImageWithoutUsersHasNumbersAlone(t *testing.T) {
	users(t, "", "")
	if found, err := lookUp(""); err != nil || found.home != "/root" {
		t.Fatal(found, err)
	}
	if found, err := lookUp("12:34"); err != nil || found.credential.Uid != 12 || found.credential.Gid != 34 {
		t.Fatal(found, err)
	}
	if _, err := lookUp("root"); err == nil {
		t.Fatal("a name was found nowhere")
	}
}

func program(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"), mode); err != nil {
		t.Fatal(err)
	}
}

func TestProgramsAreFoundByPath(t *testing.T) {
	directory := t.TempDir()
	program(t, directory+"/one/tool", 0o644)
	program(t, directory+"/two/tool", 0o755)
	program(t, directory+"/one/plain", 0o644)
	program(t, directory+"/here", 0o755)
	if err := os.Mkdir(directory+"/one/folder", 0o755); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"PATH": directory + "/none:" + directory + "/one:" + directory + "/two:"}
	for name, want := range map[string]string{
		"tool":                  directory + "/two/tool",
		"here":                  directory + "/here", // an empty part of PATH is the working directory
		"./here":                directory + "/here",
		"two/tool":              directory + "/two/tool",
		directory + "/two/tool": directory + "/two/tool",
	} {
		resolved, err := Resolve(Command{Argv: []string{name, "x"}, Env: env, Cwd: directory})
		if err != nil || resolved.Path != want || resolved.Argv[0] != name || resolved.Dir != directory {
			t.Errorf("%s: %+v %v", name, resolved, err)
		}
	}
	for name, code := range map[string]int{"nothing": 127, "plain": 126, "folder": 126, "./one": 126, "one/tool/x": 127, "": 127} {
		_, err := Resolve(Command{Argv: []string{name}, Env: env, Cwd: directory})
		var start *StartError
		if !errors.As(err, &start) || start.Code != code || start.Message == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Resolve(Command{}); AsStartError("", err).Code != 127 {
		t.Error(err)
	}
}

func TestPathAndHomeAreSuppliedIfTheEnvironmentLacksThem(t *testing.T) {
	users(t, somePasswd, someGroup)
	resolved, err := Resolve(Command{Argv: []string{"/bin/sh"}, Env: map[string]string{"B": "2", "A": "1=1"}, User: "web"})
	if err != nil || strings.Join(resolved.Env, " ") != "A=1=1 B=2 HOME=/srv/web PATH="+DefaultPath || resolved.Dir != "/" {
		t.Fatal(resolved, err)
	}
	resolved, err = Resolve(Command{Argv: []string{"/bin/sh"}, Env: map[string]string{"HOME": "/h", "PATH": "/p"}})
	if err != nil || strings.Join(resolved.Env, " ") != "HOME=/h PATH=/p" {
		t.Fatal(resolved, err)
	}
}

func TestErrorsOfTheKernelBecomeCodes(t *testing.T) {
	for errno, code := range map[syscall.Errno]int{syscall.ENOENT: 127, syscall.EACCES: 126, syscall.ENOEXEC: 126} {
		if failed := AsStartError("tool", errno); failed.Code != code || !strings.Contains(failed.Message, "tool") {
			t.Error(errno, failed)
		}
	}
}

var reaper = NewReaper()

func start(t *testing.T, script string) (int, <-chan Exit) {
	t.Helper()
	pid, ended, err := reaper.Start("/bin/sh", []string{"sh", "-c", script}, &syscall.ProcAttr{Env: os.Environ(), Files: []uintptr{0, 1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	return pid, ended
}

func TestEveryExitIsTold(t *testing.T) {
	var all []<-chan Exit
	for i := 0; i < 50; i++ {
		_, ended := start(t, fmt.Sprintf("exit %d", i))
		all = append(all, ended)
	}
	for i, ended := range all {
		if exit := <-ended; exit != (Exit{Code: i}) {
			t.Error(i, exit)
		}
	}
	_, ended := start(t, "kill -KILL $$")
	if exit := <-ended; exit != (Exit{Code: 137, Signal: syscall.SIGKILL}) {
		t.Fatal(exit)
	}
	if _, _, err := reaper.Start("/no/such", []string{"x"}, &syscall.ProcAttr{}); !errors.Is(err, syscall.ENOENT) {
		t.Fatal(err)
	}
	if len(reaper.waiting) != 0 {
		t.Fatal(reaper.waiting)
	}
}

func TestOrphansAreCollected(t *testing.T) {
	directory := t.TempDir()
	_, ended := start(t, "(sh -c 'echo $$ >"+directory+"/pid.new; mv "+directory+"/pid.new "+directory+"/pid; while [ ! -e "+directory+"/go ]; do sleep 0.01; done' &)")
	<-ended
	var pid string
	for deadline := time.Now().Add(5 * time.Second); pid == "" && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		content, err := os.ReadFile(directory + "/pid")
		if err == nil {
			pid = strings.TrimSpace(string(content))
		}
	}
	if err := os.WriteFile(directory+"/go", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat("/proc/" + pid); err != nil {
			return // not even a zombie is left
		}
		if time.Now().After(deadline) {
			t.Fatal("the orphan is still there")
		}
	}
}

func TestATerminalHasItsSize(t *testing.T) {
	control, program, err := OpenTerminal(12, 34)
	if err != nil {
		t.Fatal(err)
	}
	defer control.Close()
	defer program.Close()
	if err := Resize(control, 0, 5); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := control.Read(make([]byte, 1))
		ended <- err
	}()
	if err := control.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Fatal("closing a terminal does not end its reader: ", err)
	}
}
