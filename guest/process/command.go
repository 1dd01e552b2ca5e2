package process

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
)

// DefaultPath is for a program whose environment has no PATH.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Where users and groups are looked up: the image's own files.
var passwdFile, groupFile = "/etc/passwd", "/etc/group"

// Command is a program to start, as a user of the guest would name it.
type Command struct {
	Argv []string
	Env  map[string]string
	Cwd  string // empty: /
	User string // empty, uid[:gid] or name[:group]
}

// StartError is a program that could not be started: Code is 126 (not executable, no such user or directory) or 127 (not found).
type StartError struct {
	Code    int
	Message string
}

func (e *StartError) Error() string { return e.Message }

// Resolved is a Command that can be started.
type Resolved struct {
	Path       string
	Argv       []string
	Env        []string
	Dir        string
	Credential *syscall.Credential
}

// Resolve looks up program, user and directory.
func Resolve(c Command) (*Resolved, error) {
	if len(c.Argv) == 0 || c.Argv[0] == "" {
		return nil, &StartError{127, "no command given, and the image has none"}
	}
	account, err := lookUp(c.User)
	if err != nil {
		return nil, &StartError{126, err.Error()}
	}
	env := map[string]string{"PATH": DefaultPath, "HOME": account.home}
	for key, value := range c.Env {
		env[key] = value
	}
	dir := c.Cwd
	if dir == "" {
		dir = "/"
	}
	if info, err := os.Stat(dir); err != nil || !info.IsDir() {
		return nil, &StartError{126, fmt.Sprintf("the working directory %s is missing, or is none", dir)}
	}
	path, err := findProgram(c.Argv[0], env["PATH"], dir)
	if err != nil {
		return nil, err
	}
	list := make([]string, 0, len(env))
	for key, value := range env {
		list = append(list, key+"="+value)
	}
	sort.Strings(list)
	return &Resolved{Path: path, Argv: c.Argv, Env: list, Dir: dir, Credential: account.credential}, nil
}

// AsStartError puts an error of Start in words.
func AsStartError(program string, err error) *StartError {
	var start *StartError
	if errors.As(err, &start) {
		return start
	}
	code := 126
	if errors.Is(err, syscall.ENOENT) {
		code = 127
	}
	return &StartError{code, fmt.Sprintf("can't run %s: %v", program, err)}
}

func findProgram(name, path, dir string) (string, error) {
	if strings.Contains(name, "/") {
		at := name
		if !filepath.IsAbs(at) {
			at = filepath.Join(dir, at)
		}
		if err := executable(at, name); err != nil {
			return "", err
		}
		return at, nil
	}
	denied := false
	for _, directory := range strings.Split(path, ":") {
		if directory == "" {
			directory = dir
		}
		at := filepath.Join(directory, name)
		switch err := executable(at, name); {
		case err == nil:
			return at, nil
		case err.Code == 126:
			denied = true
		}
	}
	if denied {
		return "", &StartError{126, name + ": not executable"}
	}
	return "", &StartError{127, name + ": command not found"}
}

func executable(at, name string) *StartError {
	info, err := os.Stat(at)
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
		return &StartError{127, name + ": command not found"}
	case err != nil:
		return &StartError{126, fmt.Sprintf("%s: %v", name, err)}
	case info.IsDir():
		return &StartError{126, name + ": is a directory"}
	case info.Mode()&0o111 == 0:
		return &StartError{126, name + ": not executable"}
	}
	return nil
}

type account struct {
	home       string
	credential *syscall.Credential
}

// lookUp finds a user in the image's own /etc/passwd and /etc/group.
func lookUp(spec string) (*account, error) {
	if spec == "" {
		spec = "0"
	}
	user, group, hasGroup := strings.Cut(spec, ":")
	users, groups := readTable(passwdFile), readTable(groupFile)
	result := &account{home: "/", credential: &syscall.Credential{}}
	name := user
	row := find(users, user, 2)
	switch {
	case row != nil && len(row) >= 6:
		uid, errU := strconv.ParseUint(row[2], 10, 32)
		gid, errG := strconv.ParseUint(row[3], 10, 32)
		if errU != nil || errG != nil {
			return nil, fmt.Errorf("the entry of the user %s in /etc/passwd is damaged", user)
		}
		name, result.home = row[0], row[5]
		result.credential.Uid, result.credential.Gid = uint32(uid), uint32(gid)
	default:
		uid, err := strconv.ParseUint(user, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("there is no user %s in the image", user)
		}
		result.credential.Uid = uint32(uid)
	}
	if result.credential.Uid == 0 && (result.home == "" || result.home == "/") {
		result.home = "/root"
	}
	if hasGroup {
		gid, err := groupID(groups, group)
		if err != nil {
			return nil, err
		}
		result.credential.Gid = gid
		return result, nil
	}
	for _, row := range groups {
		if len(row) < 4 || !contains(strings.Split(row[3], ","), name) {
			continue
		}
		if gid, err := strconv.ParseUint(row[2], 10, 32); err == nil {
			result.credential.Groups = append(result.credential.Groups, uint32(gid))
		}
	}
	return result, nil
}

func groupID(groups [][]string, group string) (uint32, error) {
	if row := find(groups, group, 2); row != nil {
		group = row[2]
	}
	gid, err := strconv.ParseUint(group, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("there is no group %s in the image", group)
	}
	return uint32(gid), nil
}

// find returns the row whose name, or else whose number (column), is key.
func find(table [][]string, key string, column int) []string {
	for _, row := range table {
		if row[0] == key && len(row) > column {
			return row
		}
	}
	for _, row := range table {
		if len(row) > column && row[column] == key {
			return row
		}
	}
	return nil
}

func readTable(file string) [][]string {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil // an image without users has root alone, by number
	}
	var rows [][]string
	for _, line := range strings.Split(string(content), "\n") {
		if line != "" && line[0] != '#' {
			rows = append(rows, strings.Split(line, ":"))
		}
	}
	return rows
}

func contains(list []string, wanted string) bool {
	for _, one := range list {
		if one == wanted {
			return true
		}
	}
	return false
}
