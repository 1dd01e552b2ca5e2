package agent

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func (s *Server) archive(w http.ResponseWriter, r *http.Request) error {
	if r.Method == http.MethodPut {
		return s.putArchive(w, r)
	}
	path, err := pathOf(r)
	if err != nil {
		return err
	}
	follow := r.URL.Query().Get("follow_links") == "true"
	if _, err := lookAt(path, follow); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return &Error{http.StatusNotFound, "not_found", "stat: " + err.Error()}
		}
		return pathError(err)
	}
	w.Header().Set("Content-Type", "application/x-tar")
	archive := tar.NewWriter(w)
	name := filepath.Base(path)
	if path == "/" {
		name = "."
	}
	err = addTree(archive, path, name, follow)
	if err == nil {
		err = archive.Close()
	}
	if err != nil {
		// The status is sent: only a broken connection can still tell the host that the archive is not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func lookAt(path string, follow bool) (fs.FileInfo, error) {
	if follow {
		return os.Stat(path)
	}
	return os.Lstat(path)
}

func addTree(archive *tar.Writer, path, name string, follow bool) error {
	info, err := lookAt(path, follow)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed, or a dangling link, while the tree was walked
		}
		return err
	}
	switch {
	case info.IsDir():
		if err := addHeader(archive, info, name+"/", ""); err != nil {
			return err
		}
		entries, err := os.ReadDir(path) // sorted by name
		if err != nil {
			return err
		}
		for _, entry := range entries {
			below := filepath.Join(path, entry.Name())
			if entry.IsDir() && isKernels(below) {
				continue
			}
			// Links below the top are never followed: they could lead in circles.
			if err := addTree(archive, below, name+"/"+entry.Name(), false); err != nil {
				return err
			}
		}
		return nil
	case info.Mode().IsRegular():
		return addFile(archive, path, name, info)
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		return addHeader(archive, info, name, target)
	}
	return nil // sockets and devices mean nothing elsewhere
}

// isKernels tells /proc, /sys and what lies in them: their files are views of the kernel, some of them endless.
func isKernels(path string) bool {
	const procfs, sysfs, cgroup2, devpts = 0x9fa0, 0x62656572, 0x63677270, 0x1cd1 // statfs(2)
	var stat syscall.Statfs_t
	if err := syscall.Statfs(path, &stat); err != nil {
		return false // whoever reads it next is told
	}
	return stat.Type == procfs || stat.Type == sysfs || stat.Type == cgroup2 || stat.Type == devpts
}

func addHeader(archive *tar.Writer, info fs.FileInfo, name, link string) error {
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Format = name, tar.FormatPAX
	header.Uname, header.Gname = "", ""
	// Other times would cost a block more for each entry.
	header.ModTime, header.AccessTime, header.ChangeTime = info.ModTime(), time.Time{}, time.Time{}
	return archive.WriteHeader(header)
}

// addFile sends exactly the announced size, also when the file changes meanwhile: a longer one is cut, a shorter one padded with zeros.
func addFile(archive *tar.Writer, path, name string, info fs.FileInfo) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := addHeader(archive, info, name, ""); err != nil {
		return err
	}
	padded := io.MultiReader(io.LimitReader(file, info.Size()), zeros{})
	_, err = io.CopyBuffer(archive, io.LimitReader(padded, info.Size()), make([]byte, 65536))
	return err
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 0
	}
	return len(p), nil
}

func (s *Server) putArchive(w http.ResponseWriter, r *http.Request) error {
	root, err := pathOf(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return pathError(err)
	}
	entries, written := 0, int64(0)
	var directories []*tar.Header
	for archive := tar.NewReader(r.Body); ; entries++ {
		header, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return &Error{http.StatusBadRequest, "bad_archive", err.Error()}
		}
		size, err := extract(root, header, archive)
		if err != nil {
			return err
		}
		written += size
		if header.Typeflag == tar.TypeDir {
			directories = append(directories, header)
		}
	}
	// What was extracted into the directories has changed their times.
	for i := len(directories) - 1; i >= 0; i-- {
		at := filepath.Join(root, directories[i].Name)
		if err := os.Chtimes(at, directories[i].ModTime, directories[i].ModTime); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return pathError(err)
		}
	}
	writeJSON(w, http.StatusOK, map[string]int64{"entries": int64(entries), "bytes_written": written})
	return nil
}

func extract(root string, header *tar.Header, content io.Reader) (int64, error) {
	written, err := extractEntry(root, header, content)
	var refused *Error
	if err == nil || errors.As(err, &refused) {
		return written, err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, tar.ErrHeader) {
		return 0, &Error{http.StatusBadRequest, "bad_archive", fmt.Sprintf("the archive breaks off in %q", header.Name)}
	}
	return 0, pathError(err)
}

func extractEntry(root string, header *tar.Header, content io.Reader) (int64, error) {
	at, err := placeOf(root, header.Name)
	if err != nil {
		return 0, err
	}
	options := fileOptions{mode: fileMode(uint32(header.Mode)), uid: header.Uid, gid: header.Gid}
	switch header.Typeflag {
	case tar.TypeDir:
		if isLink(at) {
			return 0, unsafePath(header.Name) // what comes next in the archive would pass through it
		}
		if err := os.MkdirAll(at, 0o755); err != nil {
			return 0, err
		}
		return 0, options.apply(at)
	case tar.TypeReg:
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			return 0, err
		}
		if info, err := os.Lstat(at); err == nil && info.IsDir() {
			return 0, &Error{http.StatusConflict, "is_directory", at + " is a directory"}
		}
		written, err := writeBeside(at, options, content)
		if err != nil {
			return written, err
		}
		return written, os.Chtimes(at, header.ModTime, header.ModTime)
	case tar.TypeSymlink:
		if err := makeWay(at); err != nil {
			return 0, err
		}
		if err := os.Symlink(header.Linkname, at); err != nil {
			return 0, err
		}
		return 0, os.Lchown(at, header.Uid, header.Gid)
	case tar.TypeLink:
		target, err := placeOf(root, header.Linkname)
		if err != nil {
			return 0, err
		}
		if target == at {
			return 0, nil
		}
		if err := makeWay(at); err != nil {
			return 0, err
		}
		return 0, os.Link(target, at)
	}
	return 0, nil // devices and pipes are left out
}

// makeWay makes the parents of an entry and removes what it replaces, links too: an entry never writes through one.
func makeWay(at string) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	info, err := os.Lstat(at)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.IsDir():
		return &Error{http.StatusConflict, "is_directory", at + " is a directory"}
	}
	return os.Remove(at)
}

// placeOf refuses names that are absolute, climb out, or pass through a symlink.
func placeOf(root, name string) (string, error) {
	if name == "" || filepath.IsAbs(name) {
		return "", unsafePath(name)
	}
	for _, part := range strings.Split(name, "/") {
		if part == ".." {
			return "", unsafePath(name)
		}
	}
	at := root
	parts := strings.Split(filepath.Clean(name), "/")
	for _, part := range parts[:len(parts)-1] {
		at = filepath.Join(at, part)
		if isLink(at) {
			return "", unsafePath(name)
		}
	}
	return filepath.Join(at, parts[len(parts)-1]), nil
}

func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

func unsafePath(name string) *Error {
	return &Error{http.StatusBadRequest, "unsafe_path", fmt.Sprintf("the archive's entry %q leaves the target", name)}
}
