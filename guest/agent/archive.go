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
	err = addTree(archive, path, filepath.Base(path), follow)
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
			// Links below the top are never followed: they could lead in circles.
			if err := addTree(archive, filepath.Join(path, entry.Name()), name+"/"+entry.Name(), false); err != nil {
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

func addHeader(archive *tar.Writer, info fs.FileInfo, name, link string) error {
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Format = name, tar.FormatPAX
	header.Uname, header.Gname = "", ""
	header.ModTime = info.ModTime()
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
	}
	writeJSON(w, http.StatusOK, map[string]int64{"entries": int64(entries), "bytes_written": written})
	return nil
}

func extract(root string, header *tar.Header, content io.Reader) (int64, error) {
	at, err := placeOf(root, header.Name)
	if err != nil {
		return 0, err
	}
	options := fileOptions{mode: fileMode(uint32(header.Mode)), uid: header.Uid, gid: header.Gid}
	written := int64(0)
	switch header.Typeflag {
	case tar.TypeDir:
		err = os.MkdirAll(at, 0o755)
		if err == nil {
			err = options.apply(at)
		}
	case tar.TypeReg:
		if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			written, err = writeBeside(at, options, content)
		}
	case tar.TypeSymlink:
		err = replaceLink(at, func() error { return os.Symlink(header.Linkname, at) })
	case tar.TypeLink:
		var target string
		if target, err = placeOf(root, header.Linkname); err == nil {
			err = replaceLink(at, func() error { return os.Link(target, at) })
		}
	default:
		return 0, nil // devices and sockets are left out
	}
	if err != nil {
		var refused *Error
		if errors.As(err, &refused) {
			return 0, refused
		}
		return 0, pathError(err)
	}
	if header.Typeflag == tar.TypeReg || header.Typeflag == tar.TypeDir {
		err = os.Chtimes(at, header.ModTime, header.ModTime)
	}
	return written, err
}

func replaceLink(at string, make func() error) error {
	if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
		return err
	}
	if err := os.Remove(at); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return make()
}

// placeOf refuses names that are absolute, climb out, or pass through a symlink.
func placeOf(root, name string) (string, error) {
	unsafe := &Error{http.StatusBadRequest, "unsafe_path", fmt.Sprintf("the archive's entry %q leaves the target", name)}
	if name == "" || filepath.IsAbs(name) {
		return "", unsafe
	}
	at := root
	parts := strings.Split(filepath.Clean(name), "/")
	for i, part := range parts {
		if part == ".." {
			return "", unsafe
		}
		at = filepath.Join(at, part)
		info, err := os.Lstat(at)
		if err == nil && info.Mode()&fs.ModeSymlink != 0 && (i < len(parts)-1) {
			return "", unsafe
		}
	}
	if info, err := os.Lstat(at); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		if err := os.Remove(at); err != nil { // an entry replaces a link, it does not write through it
			return "", err
		}
	}
	return at, nil
}
