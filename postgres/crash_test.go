package postgres_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/crashtest"
	"github.com/divertedevents/diverted/internal/testenv"
)

// The number of kills is CRASH_KILLS, or 20: see make crash.
func TestKillsLoseNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	newPool(t)   // or skip
	t.Parallel() // beside the faults, which mostly wait
	crashtest.Test(t, crashtest.Config{
		Open:  openURL,
		DSN:   urlOf(newSchema()),
		Kills: testenv.Number(t, "CRASH_KILLS", 20),
		Seed:  uint64(os.Getpid()),
		Log:   os.Stderr,
	})
}

// diesAfterCommit is the process that TestACommitSendsThoughTheProcessDies starts.
func diesAfterCommit() {
	dsn := os.Getenv("DIES_AFTER_COMMIT")
	if dsn == "" {
		return
	}
	ctx := context.Background()
	err := func() error {
		s, err := openURL(ctx, dsn)
		if err != nil {
			return err
		}
		store := s.(ownStore)
		tx, err := store.pool.Begin(ctx)
		if err != nil {
			return err
		}
		var event diverted.Event
		p := payload()
		if event, err = diverted.NewEvent(p.Type, p.Data); err != nil {
			return err
		}
		key := strings.Split(os.Getenv("DIES_WEBHOOK"), "/")
		if _, err := store.SendTx(ctx, tx, uuid.MustParse(key[0]), ulid.MustParse(key[1]), event); err != nil {
			return err
		}
		if os.Getenv("DIES_BEFORE") != "" {
			return syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
		if err := tx.Commit(ctx); err != nil {
			return err
		}
		return syscall.Kill(os.Getpid(), syscall.SIGKILL)
	}()
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func TestACommitSendsThoughTheProcessDies(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	for _, before := range []string{"", "yes"} {
		self, err := os.Executable()
		is.NoErr(err)
		command := exec.Command(self)
		command.Env = append(os.Environ(), "DIES_AFTER_COMMIT="+urlOf(schema), "DIES_BEFORE="+before, "DIES_WEBHOOK="+w.Key().String())
		out, err := command.CombinedOutput()
		exit, ok := err.(*exec.ExitError)
		if !ok || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("it was not killed: %v: %s", err, out)
		}
		want := 1
		if before != "" {
			want = 0
		}
		is.Equal(len(claim(t, s)), want)
		is.Equal(len(claim(t, s)), 0)
	}
}
