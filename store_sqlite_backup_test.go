package diverted

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

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

// pendingDiverters are the stores that can divert what is pending.
func pendingDiverters(t *testing.T) map[string]interface {
	Store
	DivertPending(context.Context, DivertPendingRequest) (int, error)
} {
	sqlite, _ := openTestStore(t)
	return map[string]interface {
		Store
		DivertPending(context.Context, DivertPendingRequest) (int, error)
	}{"SQLite": sqlite, "memory": NewMemoryStore()}
}

func TestDivertPendingSetsAsideWhatARestoreWouldSendAgain(t *testing.T) {
	for name, s := range pendingDiverters(t) {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			ctx := t.Context()
			w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
			is.NoErr(err)
			held, err := s.CreateWebhook(ctx, NewWebhook(acme, "held", "https://example.com/held", "*"))
			is.NoErr(err)
			is.NoErr(s.Suspend(ctx, held.Key()))
			var ms []Message
			for i := range divertStep + 10 { // more than one step
				m := Message{
					Tenant: acme, Webhook: w.Locator, Event: realEvent(t, i).Locator, RequestLocator: w.Locator,
					EventType: "github.push", Body: []byte(`{}`),
				}
				ms = append(ms, m)
			}
			m := realMessage(t, held, 0)
			ms = append(ms, m)
			_, err = s.Accept(ctx, AcceptRequest{Messages: ms})
			is.NoErr(err)
			// One is claimed, as by the process whose database was restored; one waits for a retry.
			res, err := s.Work(ctx, WorkRequest{Claim: claimAll(2)})
			is.NoErr(err)
			is.Equal(len(res.Claims), 2)
			failure := Failure{Trigger: "503", Message: "no", Status: 503}
			claimed, retried := res.Claims[0], res.Claims[1]
			_, err = s.Work(ctx, WorkRequest{Outcomes: []Outcome{{
				Key: retried.Key, Token: retried.Token, Kind: OutcomeRetry, Wait: time.Minute, Failure: &failure,
			}}})
			is.NoErr(err)

			_, err = s.DivertPending(ctx, DivertPendingRequest{})
			is.True(errors.Is(err, ErrInvalid)) // before when?
			n, err := s.DivertPending(ctx, DivertPendingRequest{Before: time.Now().Add(-time.Hour)})
			is.NoErr(err)
			is.Equal(n, 0)
			n, err = s.DivertPending(ctx, DivertPendingRequest{Webhook: held.Key(), Before: time.Now().Add(time.Second)})
			is.NoErr(err)
			is.Equal(n, 1)
			n, err = s.DivertPending(ctx, DivertPendingRequest{Before: time.Now().Add(time.Second)})
			is.NoErr(err)
			is.Equal(n, divertStep+10)
			n, err = s.DivertPending(ctx, DivertPendingRequest{Before: time.Now().Add(time.Second)})
			is.NoErr(err)
			is.Equal(n, 0) // and is safe to repeat

			res, err = s.Work(ctx, WorkRequest{
				Outcomes: []Outcome{{Key: claimed.Key, Token: claimed.Token, Kind: OutcomeDelivered}},
				Claim:    claimAll(10), Refresh: true,
			})
			is.NoErr(err)
			is.True(res.Settled[0].Stale) // the attempt that was under way changes nothing
			is.Equal(len(res.Claims), 0)
			d, err := s.FetchDiverted(ctx, retried.Key)
			is.NoErr(err)
			is.Equal(d.Attempts, 1)
			is.Equal(d.Failure.Trigger, TriggerTimeout)
			t.Log(d.Failure.Message)
			is.True(!d.DivertedAt.IsZero() && !d.Failure.At.IsZero())

			is.NoErr(s.Resend(ctx, retried.Key)) // what was wanted after all
			is.NoErr(s.Unsuspend(ctx, held.Key()))
			is.NoErr(s.Resend(ctx, Key{acme, held.Locator, m.Event}))
			res, err = s.Work(ctx, WorkRequest{Claim: claimAll(10)})
			is.NoErr(err)
			is.Equal(len(res.Claims), 2)
			for _, c := range res.Claims {
				is.True(c.Diverted)
				is.Equal(c.Attempts, 0)
			}
		})
	}
}
