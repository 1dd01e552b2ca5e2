package agent

import (
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

type pathInfo struct {
	Exists     bool   `json:"exists"`
	IsDir      bool   `json:"is_dir"`
	IsFile     bool   `json:"is_file"`
	IsSymlink  bool   `json:"is_symlink"`
	LinkTarget string `json:"link_target,omitempty"`
	Mode       uint32 `json:"mode"`
	Size       int64  `json:"size"`
	UID        uint32 `json:"uid"`
	GID        uint32 `json:"gid"`
	MtimeUnix  int64  `json:"mtime_unix"`
	Error      string `json:"error,omitempty"`
}

func (s *Server) stat(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	look := os.Lstat
	if r.URL.Query().Get("follow_links") == "true" {
		look = os.Stat
	}
	info, err := look(path)
	if err != nil {
		answer := pathInfo{}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			answer.Error = err.Error()
		}
		writeJSON(w, http.StatusOK, answer)
		return nil
	}
	uid, gid := ownerOf(info)
	answer := pathInfo{
		Exists: true, IsDir: info.IsDir(), IsFile: info.Mode().IsRegular(), IsSymlink: info.Mode()&fs.ModeSymlink != 0,
		Mode: permissions(info.Mode()), Size: info.Size(), UID: uid, GID: gid, MtimeUnix: info.ModTime().Unix(),
	}
	if answer.IsSymlink {
		if answer.LinkTarget, err = os.Readlink(path); err != nil {
			answer.Error = err.Error()
		}
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

// fileOptions are mode and owner of what is written; an owner of -1 stays as it is made.
type fileOptions struct {
	mode     os.FileMode
	uid, gid int
}

func optionsOf(r *http.Request, mode os.FileMode) (fileOptions, error) {
	options := fileOptions{mode: mode, uid: -1, gid: -1}
	query := r.URL.Query()
	if text := query.Get("mode"); text != "" {
		bits, err := strconv.ParseUint(text, 8, 32)
		if err != nil {
			return options, &Error{http.StatusBadRequest, "bad_request", "mode is not an octal number"}
		}
		options.mode = fileMode(uint32(bits))
	}
	for name, into := range map[string]*int{"uid": &options.uid, "gid": &options.gid} {
		if text := query.Get(name); text != "" {
			id, err := strconv.ParseUint(text, 10, 31)
			if err != nil {
				return options, &Error{http.StatusBadRequest, "bad_request", name + " is not a number"}
			}
			*into = int(id)
		}
	}
	return options, nil
}

func (o fileOptions) apply(path string) error {
	if o.uid >= 0 || o.gid >= 0 {
		if err := os.Lchown(path, o.uid, o.gid); err != nil {
			return err
		}
	}
	return os.Chmod(path, o.mode) // after chown, which drops setuid bits
}

func (s *Server) putFile(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	options, err := optionsOf(r, 0o644)
	if err != nil {
		return err
	}
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		if info.IsDir() {
			return &Error{http.StatusConflict, "is_directory", path + " is a directory"}
		}
		return &Error{http.StatusConflict, "conflict", path + " is a device, pipe or socket, which a file can't replace"}
	}
	if target, err := filepath.EvalSymlinks(path); err == nil {
		path = target // as a shell's redirection would
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return pathError(err)
	}
	written, err := writeBeside(path, options, r.Body)
	if err != nil {
		return pathError(err)
	}
	writeJSON(w, http.StatusOK, map[string]int64{"bytes_written": written})
	return nil
}

// writeBeside writes a temporary file and renames it: a body that breaks off leaves nothing.
func writeBeside(path string, options fileOptions, body io.Reader) (int64, error) {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".hypeman-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(temporary.Name()) // after the rename there is nothing left to remove
	written, err := io.CopyBuffer(struct{ io.Writer }{temporary}, body, make([]byte, 65536))
	if err == nil {
		err = options.apply(temporary.Name())
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return 0, err
	}
	return written, os.Rename(temporary.Name(), path)
}

func (s *Server) putDirectory(w http.ResponseWriter, r *http.Request) error {
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	options, err := optionsOf(r, 0o755)
	if err != nil {
		return err
	}
	switch info, err := os.Stat(path); {
	case err == nil && !info.IsDir():
		return &Error{http.StatusConflict, "not_directory", path + " is not a directory"}
	case err != nil:
		if err := os.MkdirAll(path, 0o755); err != nil {
			return pathError(err)
		}
		if err := options.apply(path); err != nil {
			return pathError(err)
		}
	}
	writeJSON(w, http.StatusOK, struct{}{})
	return nil
}

func pathOf(r *http.Request) (string, error) {
	path := r.URL.Query().Get("path")
	if path == "" || strings.ContainsRune(path, 0) {
		return "", &Error{http.StatusBadRequest, "bad_request", "path is missing"}
	}
	return filepath.Clean("/" + path), nil
}

// pathError puts an error of the file system in the caller's terms.
func pathError(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return &Error{http.StatusInsufficientStorage, "no_space", err.Error()}
	case errors.Is(err, fs.ErrNotExist):
		return &Error{http.StatusNotFound, "not_found", err.Error()}
	case errors.Is(err, syscall.ENOTDIR), errors.Is(err, syscall.EISDIR), errors.Is(err, syscall.ENOTEMPTY), errors.Is(err, fs.ErrExist):
		return &Error{http.StatusConflict, "conflict", err.Error()}
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS), errors.Is(err, syscall.ENAMETOOLONG), errors.Is(err, syscall.ELOOP):
		return &Error{http.StatusBadRequest, "refused", err.Error()}
	}
	return err
}

func ownerOf(info fs.FileInfo) (uid, gid uint32) {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Uid, stat.Gid
	}
	return 0, 0
}

// permissions are the twelve bits of chmod(2); fileMode is the way back.
func permissions(mode fs.FileMode) uint32 {
	bits := uint32(mode.Perm())
	for flag, bit := range specialBits {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

func fileMode(bits uint32) os.FileMode {
	mode := os.FileMode(bits & 0o777)
	for flag, bit := range specialBits {
		if bits&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

var specialBits = map[os.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000}
