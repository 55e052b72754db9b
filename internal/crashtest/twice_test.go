//go:build unix

package crashtest_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"
)

// Another process, which asks as SQLite does whether somebody uses the file: by the lock on its shared bytes.
func TestPassingProcess(t *testing.T) {
	dsn := os.Getenv("PASSINGTEST_DSN")
	if dsn == "" {
		t.Skip("a part of the test below")
	}
	is := is.New(t)
	file, err := os.OpenFile(dsn, os.O_RDWR, 0)
	is.NoErr(err)
	lock := syscall.Flock_t{Type: syscall.F_WRLCK, Whence: io.SeekStart, Start: 1<<30 + 2, Len: 510}
	is.NoErr(syscall.FcntlFlock(file.Fd(), syscall.F_GETLK, &lock))
	fmt.Println("in use:", lock.Type != syscall.F_UNLCK)
}

// Locks of POSIX are a process's: whoever closes the file anywhere in it drops those of all. A process that
// opens its store once more must not, or the next one that comes by (a look with the command sqlite3 is enough)
// thinks that it is alone and removes the write-ahead log, and what is accepted from then on goes into a file
// without a name.
func TestAProcessThatOpensItsStoreTwiceKeepsItsLocks(t *testing.T) {
	is := is.New(t)
	dsn := filepath.Join(t.TempDir(), "webhooks.db")
	self, err := os.Executable()
	is.NoErr(err)
	for range 3 {
		store, err := openSQLite(t.Context(), dsn)
		is.NoErr(err)
		defer store.Close()
		passing := exec.CommandContext(t.Context(), self, "-test.run=^TestPassingProcess$")
		passing.Env = append(os.Environ(), "PASSINGTEST_DSN="+dsn)
		out, err := passing.CombinedOutput()
		is.NoErr(err)
		is.True(strings.Contains(string(out), "in use: true"))
	}
}
