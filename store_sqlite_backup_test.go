package diverted

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/matryer/is"
)

func TestABackupOfARunningStoreHoldsAllThatWasAcknowledgedBeforeIt(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)

	running, stop := context.WithCancel(ctx)
	defer stop()
	var (
		mu           sync.Mutex
		acknowledged []Key
		group        sync.WaitGroup
	)
	begun := make(chan struct{})
	group.Go(func() { // others work on meanwhile
		for i := 0; running.Err() == nil; i++ {
			m := realMessage(t, w, i)
			if _, err := s.Accept(ctx, AcceptRequest{Messages: []Message{m}}); err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			acknowledged = append(acknowledged, Key{acme, w.Locator, m.Event})
			mu.Unlock()
			if i == 20 {
				close(begun)
			}
		}
	})
	<-begun
	mu.Lock()
	before := slices.Clone(acknowledged)
	mu.Unlock()
	backup := filepath.Join(filepath.Dir(path), "100% of #1? ü.backup")
	is.NoErr(s.Backup(ctx, backup))
	stop()
	group.Wait()

	info, err := os.Stat(backup)
	is.NoErr(err)
	is.Equal(info.Mode().Perm(), os.FileMode(0o600))
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.partial*"))
	is.NoErr(err)
	is.Equal(len(left), 0)

	restored, err := OpenSQLite(ctx, backup)
	is.NoErr(err)
	defer restored.Close()
	res, err := restored.Work(ctx, WorkRequest{Claim: claimAll(10_000)})
	is.NoErr(err)
	is.True(len(res.Claims) >= len(before))
	for i, key := range before {
		is.Equal(res.Claims[i].Key, key)
	}
	var vacuum int
	is.NoErr(restored.readers.QueryRow(`PRAGMA auto_vacuum`).Scan(&vacuum))
	is.Equal(vacuum, 2) // INCREMENTAL, as in any new file
}

func TestABackupReplacesNoFileAndLeavesNoneBehind(t *testing.T) {
	is := is.New(t)
	s, path := openTestStore(t)
	dir := t.TempDir()
	there := filepath.Join(dir, "there.db")
	is.NoErr(os.WriteFile(there, nil, 0o644)) // empty, which SQLite itself would write into
	err := s.Backup(t.Context(), there)
	t.Log(err)
	is.True(errors.Is(err, os.ErrExist))
	is.True(errors.Is(s.Backup(t.Context(), path), os.ErrExist)) // itself
	is.True(errors.Is(s.Backup(t.Context(), ""), ErrInvalid))
	is.True(errors.Is(s.Backup(t.Context(), filepath.Join(dir, "none", "x.db")), os.ErrNotExist))

	gone, cancel := context.WithCancel(t.Context())
	cancel()
	is.True(errors.Is(s.Backup(gone, filepath.Join(dir, "gone.db")), context.Canceled))

	is.NoErr(s.Close())
	is.True(errors.Is(s.Backup(t.Context(), filepath.Join(dir, "closed.db")), ErrClosed))
	entries, err := os.ReadDir(dir)
	is.NoErr(err)
	is.Equal(len(entries), 1)
	content, err := os.ReadFile(there)
	is.NoErr(err)
	is.Equal(len(content), 0)
}

func TestABackupOfTheHostsDatabaseHoldsItsTablesToo(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	db := openHost(t, walOptions)
	_, err := db.Exec(`CREATE TABLE orders (id INTEGER PRIMARY KEY)`)
	is.NoErr(err)
	s, err := NewSQLiteStore(ctx, db)
	is.NoErr(err)
	defer s.Close()
	backup := filepath.Join(t.TempDir(), "host.backup")
	is.NoErr(s.Backup(ctx, backup))
	_, err = OpenSQLite(ctx, backup)
	is.True(errors.Is(err, ErrForeign)) // it is the host's to open
}
