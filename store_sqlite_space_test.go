package diverted

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/matryer/is"
)

// fillSQLite accepts 1,000 events of 16 KiB.
func fillSQLite(t *testing.T, s *SQLiteStore) Webhook {
	t.Helper()
	is := is.New(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	for range 10 {
		var ms []Message
		for i := range 100 {
			ms = append(ms, Message{
				Tenant: acme, Webhook: w.Locator, Event: realEvent(t, i).Locator, RequestLocator: w.Locator,
				EventType: "github.push", Body: bytes.Repeat([]byte{' '}, 16<<10),
			})
		}
		_, err = s.Accept(t.Context(), AcceptRequest{Messages: ms})
		is.NoErr(err)
	}
	return w
}

func deliverAll(t *testing.T, s *SQLiteStore) {
	t.Helper()
	is := is.New(t)
	var request WorkRequest
	for {
		request.Claim = claimAll(100)
		res, err := s.Work(t.Context(), request)
		is.NoErr(err)
		request.Outcomes = nil
		for _, c := range res.Claims {
			request.Outcomes = append(request.Outcomes, Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeDelivered})
		}
		if len(res.Claims) == 0 {
			return
		}
	}
}

// freePages returns the free pages and all pages of the database.
func freePages(t *testing.T, s *SQLiteStore) (free, pages int) {
	t.Helper()
	is := is.New(t)
	is.NoErr(s.readers.QueryRow(`PRAGMA freelist_count`).Scan(&free))
	is.NoErr(s.readers.QueryRow(`PRAGMA page_count`).Scan(&pages))
	return free, pages
}

func TestTheFileDoesNotKeepThePeaksSizeForEver(t *testing.T) {
	for name, drain := range map[string]func(*testing.T, *SQLiteStore, Webhook){
		"delivered": func(t *testing.T, s *SQLiteStore, _ Webhook) { deliverAll(t, s) },
		"deleted": func(t *testing.T, s *SQLiteStore, w Webhook) {
			is.New(t).NoErr(s.DeleteWebhook(t.Context(), w.Key(), true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			s, path := openTestStore(t)
			w := fillSQLite(t, s)
			_, peak := freePages(t, s)
			is.True(peak > 4*shrinkFree)
			drain(t, s, w)
			for deadline := time.Now().Add(2 * time.Minute); ; runtime.Gosched() {
				_, pages := freePages(t, s)
				info, err := os.Stat(path)
				is.NoErr(err)
				if pages <= shrinkFree+100 && info.Size() <= int64(shrinkFree+100)*4096 {
					break
				}
				is.True(time.Now().Before(deadline)) // it shrinks while nobody calls
			}
			is.NoErr(s.Check(t.Context()))
			is.NoErr(s.Close())
			info, err := os.Stat(path)
			is.NoErr(err)
			is.True(info.Size() <= int64(shrinkFree+100)*4096)
		})
	}
}

func TestWhatWasFreeBeforeAStartIsGivenBackAfterIt(t *testing.T) {
	is := is.New(t)
	s, path := openTestStore(t)
	fillSQLite(t, s)
	deliverAll(t, s)
	is.NoErr(s.Close()) // before it was quiet
	s, err := OpenSQLite(t.Context(), path)
	is.NoErr(err)
	defer s.Close()
	for deadline := time.Now().Add(2 * time.Minute); ; runtime.Gosched() {
		if free, _ := freePages(t, s); free <= shrinkFree {
			break
		}
		is.True(time.Now().Before(deadline))
	}
}

func TestTheHostsDatabaseIsTheHostsToShrink(t *testing.T) {
	is := is.New(t)
	db := openHost(t, "_auto_vacuum=INCREMENTAL&"+walOptions)
	s, err := NewSQLiteStore(t.Context(), db)
	is.NoErr(err)
	fillSQLite(t, s)
	deliverAll(t, s)
	free, pages := freePages(t, s)
	is.True(free > shrinkFree && free*shrinkShare > pages) // much could be given back
	is.NoErr(s.Close())
	is.Equal(s.writer.freed, int64(0)) // and it was not about to
}
