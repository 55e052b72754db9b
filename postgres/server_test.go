package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// mortal is a PostgreSQL server of a test's own, which dies as the test wishes and comes back with its data.
type mortal struct {
	programs string // the directory of initdb and postgres
	dir      string // of the data, the socket and the log
	port     int
	as       *syscall.Credential // nil: as ourselves
	command  *exec.Cmd
	ended    chan struct{}
}

// newMortal starts a server. It skips the test where there are no programs for it, or nobody to run them as.
func newMortal(t *testing.T) *mortal {
	t.Helper()
	m := &mortal{programs: serverPrograms()}
	if m.programs == "" {
		t.Skip("no initdb in /usr/lib/postgresql or the PATH: this test needs a server of its own")
	}
	if os.Getuid() == 0 { // as whom PostgreSQL refuses to run
		u, err := user.Lookup("postgres")
		if err != nil {
			t.Skip("root cannot run a server, and there is no user postgres: this test needs a server of its own")
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		m.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	dir, err := os.MkdirTemp("", "diverted-server-") // not t.TempDir, which only we may enter
	if err != nil {
		t.Fatal(err)
	}
	m.dir = dir
	t.Cleanup(func() { os.RemoveAll(dir) })
	if m.as != nil {
		if err := os.Chown(dir, int(m.as.Uid), int(m.as.Gid)); err != nil {
			t.Skip("not the right to give a directory to the user postgres: this test needs a server of its own")
		}
	}
	out, err := m.program("initdb", "-D", m.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale").CombinedOutput()
	if err != nil {
		t.Fatalf("initdb: %v: %s", err, out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.port = listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	t.Cleanup(m.kill)
	if err := m.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return m
}

// serverPrograms returns the directory of the newest server's programs, "" if there is none.
func serverPrograms() string {
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/initdb", "/usr/pgsql-*/bin/initdb"} {
		if found, _ := filepath.Glob(pattern); len(found) > 0 {
			return filepath.Dir(found[len(found)-1])
		}
	}
	if path, err := exec.LookPath("initdb"); err == nil {
		return filepath.Dir(path)
	}
	return ""
}

func (m *mortal) data() string { return filepath.Join(m.dir, "data") }

func (m *mortal) program(name string, args ...string) *exec.Cmd {
	c := exec.Command(filepath.Join(m.programs, name), args...)
	c.Dir = m.dir
	c.SysProcAttr = &syscall.SysProcAttr{Credential: m.as, Setpgid: true}
	return c
}

// url is that of a database of the server.
func (m *mortal) url(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User("postgres"), Host: fmt.Sprintf("127.0.0.1:%d", m.port), Path: "/" + database}
	return u.String()
}

// start starts the server, and returns when it answers.
func (m *mortal) start(ctx context.Context) error {
	for tick := time.Tick(50 * time.Millisecond); ; {
		if m.command == nil {
			log, err := os.OpenFile(filepath.Join(m.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			c := m.program("postgres", "-D", m.data(), "-p", strconv.Itoa(m.port), "-k", m.dir, "-c", "listen_addresses=127.0.0.1")
			c.Stdout, c.Stderr = log, log
			err = c.Start()
			log.Close()
			if err != nil {
				return err
			}
			ended := make(chan struct{})
			m.command, m.ended = c, ended
			go func() {
				c.Wait()
				close(ended)
			}()
		}
		conn, err := pgx.Connect(ctx, m.url("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-ctx.Done():
			log, _ := os.ReadFile(filepath.Join(m.dir, "log"))
			return fmt.Errorf("it does not start: %w: %w: %s", ctx.Err(), err, log[max(len(log)-2000, 0):])
		case <-m.ended: // as when what is left of the one before still holds its memory
			m.command = nil
			<-tick
		case <-tick:
		}
	}
}

// stop ends the server by a signal: SIGINT is pg_ctl's fast, SIGQUIT its immediate.
func (m *mortal) stop(signal syscall.Signal) error {
	if m.command == nil {
		return errors.New("it does not run")
	}
	if err := m.command.Process.Signal(signal); err != nil {
		return err
	}
	<-m.ended
	m.command = nil
	return nil
}

// kill ends all of the server's processes as a power cut does, but for what the kernel still holds.
func (m *mortal) kill() {
	if m.command == nil {
		return
	}
	workers := childrenOf(m.command.Process.Pid)
	m.command.Process.Kill()
	for _, pid := range workers {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-m.ended
	m.command = nil
}

// childrenOf returns the children of a process, where /proc tells. Elsewhere those of a dead server end by
// themselves soon.
func childrenOf(parent int) (children []int) {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		stat, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		_, after, _ := strings.Cut(string(stat), ") ") // the name, which may hold anything but this
		fields := strings.Fields(after)
		if len(fields) > 1 && fields[1] == strconv.Itoa(parent) {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
				children = append(children, pid)
			}
		}
	}
	return children
}
