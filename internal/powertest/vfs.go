package powertest

import (
	"bytes"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"unsafe"

	"modernc.org/libc"
	lib "modernc.org/sqlite/lib"
)

// recording is the one under way, if any.
var recording atomic.Pointer[Recording]

// Record begins a recording of all that SQLite does from now on to files in dir, in this process; it ends with
// the next one.
func Record(dir string) (*Recording, error) {
	if err := register(); err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(dir) // as SQLite names its files
	if err != nil {
		return nil, err
	}
	r := &Recording{dir: dir}
	recording.Store(r)
	return r, nil
}

// original is SQLite's own layer of files. The recording one is a copy of it with another open and delete; the
// files that it opens have another write, truncate, sync and close, and are theirs in all else.
var original *lib.Tsqlite3_vfs

// openFile is what a file of SQLite's is.
type openFile struct {
	recording *Recording
	name      string
	methods   *lib.Tsqlite3_io_methods // the original ones
}

var (
	openFiles sync.Map // by the file's address, *openFile
	methods   sync.Map // the address of our methods by that of the original ones
)

var register = sync.OnceValue(func() error {
	tls := libc.NewTLS() // never closed: the layer is SQLite's for good
	found := lib.Xsqlite3_vfs_find(tls, 0)
	name, err := libc.CString("recording")
	if err != nil {
		return err
	}
	if found == 0 {
		return fmt.Errorf("powertest: SQLite has no layer of files")
	}
	original = at[lib.Tsqlite3_vfs](found)
	address, ours, err := allocate(tls, *original)
	if err != nil {
		return err
	}
	ours.FpNext, ours.FzName = 0, name
	ours.FxOpen, ours.FxDelete = pointer(open), pointer(remove)
	if code := lib.Xsqlite3_vfs_register(tls, address, 1); code != lib.SQLITE_OK {
		return fmt.Errorf("powertest: SQLite refuses the layer: %d", code)
	}
	return nil
})

func open(tls *libc.TLS, vfs, path, file uintptr, flags int32, outFlags uintptr) int32 {
	code := function[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](original.FxOpen)(tls, vfs, path, file, flags, outFlags)
	r := recording.Load()
	if code != lib.SQLITE_OK || path == 0 || r == nil {
		return code
	}
	name, ok := r.name(libc.GoString(path))
	if !ok {
		return code
	}
	its := &at[lib.Tsqlite3_file](file).FpMethods
	openFiles.Store(file, &openFile{r, name, at[lib.Tsqlite3_io_methods](*its)})
	if ours, ok := methods.Load(*its); ok {
		*its = ours.(uintptr)
		return code
	}
	address, ours, err := allocate(tls, *at[lib.Tsqlite3_io_methods](*its))
	if err != nil {
		return lib.SQLITE_NOMEM
	}
	ours.FxClose, ours.FxWrite, ours.FxTruncate, ours.FxSync = pointer(closeFile), pointer(write), pointer(truncate), pointer(syncFile)
	methods.Store(*its, address)
	*its = address
	return code
}

func remove(tls *libc.TLS, vfs, path uintptr, syncDir int32) (code int32) {
	its := function[func(*libc.TLS, uintptr, uintptr, int32) int32](original.FxDelete)
	if r := recording.Load(); r != nil {
		if name, ok := r.name(libc.GoString(path)); ok {
			r.perform(entry{file: name, change: removed}, func() bool {
				code = its(tls, vfs, path, syncDir)
				return code == lib.SQLITE_OK
			})
			return code
		}
	}
	return its(tls, vfs, path, syncDir)
}

func closeFile(tls *libc.TLS, file uintptr) int32 {
	f := opened(file)
	openFiles.Delete(file) // its memory is free for another one
	return function[func(*libc.TLS, uintptr) int32](f.methods.FxClose)(tls, file)
}

func write(tls *libc.TLS, file, data uintptr, size int32, offset int64) (code int32) {
	f := opened(file)
	kept := bytes.Clone(unsafe.Slice(at[byte](data), size))
	f.recording.perform(entry{file: f.name, change: written, offset: offset, data: kept}, func() bool {
		code = function[func(*libc.TLS, uintptr, uintptr, int32, int64) int32](f.methods.FxWrite)(tls, file, data, size, offset)
		return code == lib.SQLITE_OK
	})
	return code
}

func truncate(tls *libc.TLS, file uintptr, size int64) (code int32) {
	f := opened(file)
	f.recording.perform(entry{file: f.name, change: truncated, offset: size}, func() bool {
		code = function[func(*libc.TLS, uintptr, int64) int32](f.methods.FxTruncate)(tls, file, size)
		return code == lib.SQLITE_OK
	})
	return code
}

func syncFile(tls *libc.TLS, file uintptr, flags int32) (code int32) {
	f := opened(file)
	f.recording.sync(f.name, func() bool {
		code = function[func(*libc.TLS, uintptr, int32) int32](f.methods.FxSync)(tls, file, flags)
		return code == lib.SQLITE_OK
	})
	return code
}

func opened(file uintptr) *openFile {
	f, _ := openFiles.Load(file)
	return f.(*openFile)
}

// The library is C that was translated to Go. Its addresses are numbers, its memory is not Go's, and a function's
// address is that of the function value. All functions here are of the package, and so are never moved or freed.

// at returns the value at an address.
func at[T any](address uintptr) *T { return *(**T)(unsafe.Pointer(&address)) }

// function returns the function at an address.
func function[F any](address uintptr) F { return *(*F)(unsafe.Pointer(&address)) }

// pointer returns the address of a function.
func pointer[F any](f F) uintptr { return *(*uintptr)(unsafe.Pointer(&f)) }

// allocate returns a copy of a value in memory of the library's.
func allocate[T any](tls *libc.TLS, value T) (address uintptr, copied *T, err error) {
	address = libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(value)))
	if address == 0 {
		return 0, nil, fmt.Errorf("powertest: out of memory")
	}
	copied = at[T](address)
	*copied = value
	return address, copied, nil
}
