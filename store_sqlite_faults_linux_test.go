package diverted

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"
)

// These tests run in a process of their own: with a disk, or without the rights, that this one does not have.

const childVariable = "DIVERTED_TEST_CHILD"

// inChild runs a test in a child process that command was set up for, and fails as it does. It says
// whether it is that child.
func inChild(t *testing.T, setUp func(*exec.Cmd)) bool {
	t.Helper()
	if os.Getenv(childVariable) != "" {
		return true
	}
	command := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	command.Dir = t.TempDir()
	command.Env = append(os.Environ(), childVariable+"="+command.Dir)
	setUp(command)
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Skipf("no such process can be started here: %v", err)
	case strings.Contains(string(out), "--- SKIP"):
		t.Skipf("skipped by the child: %s", out)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestAFullDiskIsErrFullAndWorkGoesOnWhenThereIsRoom(t *testing.T) {
	// A disk of 2 MiB, in a name space where this user may mount one.
	if !inChild(t, func(command *exec.Cmd) {
		command.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}},
		}
	}) {
		return
	}
	is := is.New(t)
	ctx := t.Context()
	disk := os.Getenv(childVariable)
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=2m"); err != nil {
		t.Skipf("cannot mount: %v", err)
	}
	ballast := filepath.Join(disk, "ballast")
	is.NoErr(os.WriteFile(ballast, make([]byte, 1<<20), 0o600))
	s, err := OpenSQLite(ctx, filepath.Join(disk, "webhooks.db"))
	is.NoErr(err)
	defer s.Close()
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	accepted := make(map[string]bool)
	for i := 0; ; i++ {
		m := realMessage(t, w, i)
		_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{m}})
		if err != nil {
			break
		}
		accepted[m.Event.String()] = true
	}
	t.Log(len(accepted), err)
	is.True(errors.Is(err, ErrFull))
	is.True(len(accepted) > 10)
	for range 10 { // again and again: no harm is done
		_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
		if err != nil {
			is.True(errors.Is(err, ErrFull))
		}
	}

	is.NoErr(os.Remove(ballast))
	delivered := 0
	for {
		work, err := s.Work(ctx, WorkRequest{Claim: claimAll(1000)})
		is.NoErr(err)
		var outcomes []Outcome
		for _, c := range work.Claims {
			if accepted[c.Key.Event.String()] {
				delivered++
			}
			outcomes = append(outcomes, Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeDelivered})
		}
		if len(outcomes) == 0 {
			break
		}
		_, err = s.Work(ctx, WorkRequest{Outcomes: outcomes})
		is.NoErr(err)
	}
	is.Equal(delivered, len(accepted))
	is.NoErr(s.Check(ctx))
}

func TestAFileThatCannotBeWrittenToIsErrReadOnly(t *testing.T) {
	// Root may write to everything.
	if os.Geteuid() == 0 {
		if !inChild(t, func(*exec.Cmd) {}) {
			return
		}
		if err := errors.Join(syscall.Setgid(65534), syscall.Setuid(65534)); err != nil {
			t.Skip(err)
		}
	}
	is := is.New(t)
	ctx := t.Context()
	dir, err := os.MkdirTemp("", "diverted")
	is.NoErr(err)
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "webhooks.db")
	s, err := OpenSQLite(ctx, path)
	is.NoErr(err)
	is.NoErr(s.Close())

	is.NoErr(os.Chmod(path, 0o400))
	_, err = OpenSQLite(ctx, path)
	t.Log(err)
	is.True(errors.Is(err, ErrReadOnly))

	is.NoErr(os.Chmod(path, 0o600))
	is.NoErr(os.Chmod(dir, 0o500)) // where the write-ahead log would be
	defer os.Chmod(dir, 0o700)
	_, err = OpenSQLite(ctx, path)
	t.Log(err)
	is.True(err != nil)
	_, err = OpenSQLite(ctx, filepath.Join(dir, "new.db"))
	t.Log(err)
	is.True(errors.Is(err, ErrReadOnly))
}
