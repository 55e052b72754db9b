package diverted

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// What befalls a database file, and what this library makes of it.

// taker is a receiver that takes everything, and counts.
type taker struct {
	mu    sync.Mutex
	taken map[string]int
}

func (r *taker) RoundTrip(request *http.Request) (*http.Response, error) {
	io.Copy(io.Discard, request.Body)
	request.Body.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.taken == nil {
		r.taken = make(map[string]int)
	}
	r.taken[request.Header.Get("webhook-id")]++
	return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: request}, nil
}

// Each of these goes away, and then work goes on without a restart, and nothing was lost or sent twice.
func TestADispatcherOutlivesTheFaultsOfItsDatabase(t *testing.T) {
	for _, fault := range []struct {
		name       string
		want       error
		start, end func(t *testing.T, s *SQLiteStore, path string)
	}{
		{"full", ErrFull, func(t *testing.T, s *SQLiteStore, _ string) {
			var pages int
			pragma(t, s, "PRAGMA page_count", &pages)
			pragma(t, s, fmt.Sprintf("PRAGMA max_page_count = %d", pages), &pages)
		}, func(t *testing.T, s *SQLiteStore, _ string) {
			var pages int
			pragma(t, s, "PRAGMA max_page_count = 1000000", &pages)
		}},
		{"read-only", ErrReadOnly, func(t *testing.T, s *SQLiteStore, _ string) {
			if _, err := s.writer.conn.ExecContext(t.Context(), "PRAGMA query_only = 1"); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, s *SQLiteStore, _ string) {
			if _, err := s.writer.conn.ExecContext(t.Context(), "PRAGMA query_only = 0"); err != nil {
				t.Fatal(err)
			}
		}},
		{"locked by another process", ErrLocked, func(t *testing.T, s *SQLiteStore, path string) {
			if _, err := s.writer.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 10"); err != nil {
				t.Fatal(err)
			}
			db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
			if err != nil {
				t.Fatal(err)
			}
			db.SetMaxOpenConns(1)
			t.Cleanup(func() { db.Close() })
			tx, err := db.Begin()
			if err != nil {
				t.Fatal(err)
			}
			locks.Store(path, tx)
		}, func(t *testing.T, _ *SQLiteStore, path string) {
			tx, _ := locks.LoadAndDelete(path)
			if err := tx.(*sql.Tx).Rollback(); err != nil {
				t.Fatal(err)
			}
		}},
		{"moved away", ErrReadOnly, func(t *testing.T, _ *SQLiteStore, path string) {
			if err := os.Rename(path, path+".away"); err != nil {
				t.Fatal(err)
			}
		}, func(t *testing.T, _ *SQLiteStore, path string) {
			if err := os.Rename(path+".away", path); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(fault.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				path := filepath.Join(t.TempDir(), "webhooks.db")
				s, err := OpenSQLite(t.Context(), path)
				is.NoErr(err)
				w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
				is.NoErr(err)
				disabled := NewWebhook(acme, "held", "https://example.com/held", "*")
				disabled.Enabled = false
				held, err := s.CreateWebhook(t.Context(), disabled)
				is.NoErr(err)
				var log sharedLog
				var receiver taker
				d, err := NewDispatcher(s, Config{Transport: &receiver, Logger: slog.New(slog.NewTextHandler(&log, nil))})
				is.NoErr(err)
				ctx, stop := context.WithCancel(t.Context())
				ran := make(chan error, 1)
				go func() { ran <- d.Run(ctx) }()
				defer s.Close()
				defer func() { stop(); <-ran }()
				accepted, waiting := 0, 0
				send := func(e Event) error {
					_, err := d.Send(ctx, acme, w.Locator, e)
					if err == nil {
						accepted++
					}
					return err
				}
				for i := range 20 {
					is.NoErr(send(realEvent(t, i)))
				}
				synctest.Wait()

				fault.start(t, s, path)
				for i := 0; err == nil && i < 200; i++ { // some may fit into a full database still
					if _, err = d.Send(ctx, acme, held.Locator, realEvent(t, i)); err == nil {
						waiting++
					}
				}
				t.Log(waiting, err)
				is.True(errors.Is(err, fault.want))
				e := realEvent(t, 0)
				err = send(e)
				time.Sleep(time.Minute)
				synctest.Wait()
				errorsBefore := strings.Count(log.String(), "level=ERROR")
				is.True(errorsBefore <= 1)

				fault.end(t, s, path)
				time.Sleep(10 * time.Second)
				if err != nil { // as its sender does
					is.NoErr(send(e))
				}
				is.NoErr(send(realEvent(t, 0)))
				synctest.Wait()
				stop()
				err = <-ran
				ran <- err
				is.NoErr(err)
				is.Equal(len(receiver.taken), accepted)
				for event, n := range receiver.taken {
					if n != 1 {
						t.Errorf("%s was sent %d times", event, n)
					}
				}
				page, err := s.ListPending(t.Context(), DivertedQuery{Webhook: w.Key()})
				is.NoErr(err)
				is.Equal(len(page.Deliveries), 0)
				page, err = s.ListPending(t.Context(), DivertedQuery{Webhook: held.Key(), Limit: MaxPage})
				is.NoErr(err)
				is.Equal(len(page.Deliveries), waiting)
			})
		})
	}
}

var locks sync.Map // the transactions that hold a database locked, by its path

// pragma sets up the writing connection of a store.
func pragma(t *testing.T, s *SQLiteStore, query string, answer any) {
	t.Helper()
	if err := s.writer.conn.QueryRowContext(t.Context(), query).Scan(answer); err != nil {
		t.Fatal(err)
	}
}

func TestADatabaseWhoseFileWasRemovedOrReplacedTakesNothing(t *testing.T) {
	for name, tamper := range map[string]func(path string) error{
		"removed": os.Remove,
		"replaced": func(path string) error {
			if err := os.WriteFile(path+".new", nil, 0o600); err != nil {
				return err
			}
			return os.Rename(path+".new", path)
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s, path := openTestStore(t)
			w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
			is.NoErr(err)
			is.NoErr(tamper(path))
			_, err = s.Accept(t.Context(), AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
			t.Log(err)
			is.True(errors.Is(err, ErrReadOnly))
			_, err = s.FetchWebhook(t.Context(), w.Key()) // not from a file that is not this store's
			is.True(errors.Is(err, ErrReadOnly))
			if name == "removed" {
				_, err = os.Stat(path)
				is.True(errors.Is(err, os.ErrNotExist)) // and none is begun in its place
			}
		})
	}
}

// Whatever bytes are wrong, no call panics or hangs, and a call that fails says that the database is
// damaged.
func TestDamagedPagesAreAnErrorAndNeverACrash(t *testing.T) {
	ctx := t.Context()
	whole, path := openTestStore(t)
	w, err := whole.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	if err != nil {
		t.Fatal(err)
	}
	var messages []Message
	for i := range 100 {
		messages = append(messages, realMessage(t, w, i))
	}
	if _, err := whole.Accept(ctx, AcceptRequest{Messages: messages}); err != nil {
		t.Fatal(err)
	}
	if err := whole.Close(); err != nil {
		t.Fatal(err)
	}
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	random := rand.New(rand.NewPCG(7, 9))
	found := 0
	for range 100 {
		bad := append([]byte(nil), good...)
		for range 1 + random.IntN(4) { // bytes, or pieces of pages, in any page
			at := random.IntN(len(bad))
			for i := range min(1+random.IntN(2048)*random.IntN(2), len(bad)-at) {
				bad[at+i] = byte(random.Uint32())
			}
		}
		copied := filepath.Join(t.TempDir(), "webhooks.db")
		if err := os.WriteFile(copied, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		fails := func(what string, err error) {
			if err == nil {
				return
			}
			found++
			if strings.Contains(err.Error(), `"locator"`) {
				t.Errorf("%s: the error quotes a payload: %v", what, err)
			}
			if sqliteCode(err) == sqliteGenericError {
				return // a name is missing from the schema
			}
			for _, want := range []error{ErrDamaged, ErrForeign, ErrTooNew, ErrNotFound, ErrFull, ErrUnsupported} {
				if errors.Is(err, want) {
					return
				}
			}
			t.Errorf("%s: %v", what, err)
		}
		s, err := OpenSQLite(ctx, copied)
		if err != nil {
			fails("open", err)
			continue
		}
		_, err = s.ListPending(ctx, DivertedQuery{Webhook: w.Key(), Limit: MaxPage})
		fails("list", err)
		_, err = s.ListDiverted(ctx, DivertedQuery{Webhook: w.Key()})
		fails("list diverted", err)
		_, err = s.ListWebhooks(ctx, WebhookQuery{Tenant: acme})
		fails("list webhooks", err)
		_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
		fails("accept", err)
		work, err := s.Work(ctx, WorkRequest{Claim: claimAll(1000)})
		fails("work", err)
		var outcomes []Outcome
		for _, c := range work.Claims {
			outcomes = append(outcomes, Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeDivert, Failure: &Failure{Trigger: "503"}})
		}
		_, err = s.Work(ctx, WorkRequest{Outcomes: outcomes, Claim: claimAll(1000)})
		fails("settle", err)
		fails("delete", s.DeleteWebhook(ctx, w.Key(), true))
		fails("check", s.Check(ctx))
		fails("close", s.Close())
	}
	if found == 0 {
		t.Error("the test proves nothing: no damage was found")
	}
}

// sharedLog is a log that is read while it is written.
type sharedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *sharedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *sharedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
