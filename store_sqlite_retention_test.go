package diverted

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

func TestPurgeSparesWhatWasAcceptedSinceItLooked(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	jump := setClock(t, s)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	is.NoErr(s.Suspend(t.Context(), w.Key()))
	again := realMessage(t, w, 0)
	accept := func(m Message) {
		result, err := s.Accept(t.Context(), AcceptRequest{Messages: []Message{m}})
		is.NoErr(err)
		is.Equal(result.Messages[0].Deliveries[0].Status, Accepted)
	}
	accept(again)
	accept(realMessage(t, w, 1))
	jump.Store(int64(2 * time.Hour))

	retention, id := Retention{MaxAge: time.Hour}, rowOf(t, s, w.Key())
	found, err := s.findOld(t.Context(), s.readers, id, true, retention, 100) // one process looks
	is.NoErr(err)
	is.Equal(len(found), 2)
	purged, err := s.Purge(t.Context(), PurgeRequest{Retention: retention}) // another purges
	is.NoErr(err)
	is.Equal(purged.Webhooks, []Purged{{Webhook: w.Key(), Pending: 2}})
	accept(again) // SQLite gives it the row id that was freed
	accept(realMessage(t, w, 2))
	var n int
	is.NoErr(s.write(t.Context(), "purge", func(tx *sqliteTx) error {
		_, n = tx.purgeOld(id, true, retention, found)
		return nil
	}))
	is.Equal(n, 0)
	page, err := s.ListPending(t.Context(), DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(page.Deliveries), 2)
}

func TestPurgeSparesWhatIsWithinTheCapByNow(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	webhook := WebhookKey{acme, ulid.Make()}
	keys := divertSome(t, s, webhook, 6)
	retention, id := Retention{MaxPerWebhook: 3}, rowOf(t, s, webhook)
	found, err := s.findOld(t.Context(), s.readers, id, false, retention, 100)
	is.NoErr(err)
	is.Equal(len(found), 3)
	for _, key := range keys[4:] { // an operator deletes the youngest meanwhile
		is.NoErr(s.DeleteDiverted(t.Context(), key))
	}
	var n int
	is.NoErr(s.write(t.Context(), "purge", func(tx *sqliteTx) error {
		_, n = tx.purgeOld(id, false, retention, found)
		return nil
	}))
	is.Equal(n, 1)
	page, err := s.ListDiverted(t.Context(), DivertedQuery{Webhook: webhook})
	is.NoErr(err)
	is.Equal(len(page.Events), 3)
}

func TestPurgeLooksNoFurtherOnceItsLimitIsUsedUp(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	const webhooks = 20
	for range webhooks {
		divertSome(t, s, WebhookKey{acme, ulid.Make()}, 2)
	}
	var looks atomic.Int64 // each of which looks at the clock
	is.NoErr(s.write(t.Context(), "watch the clock", func(tx *sqliteTx) error {
		tx.wall = func() time.Time { looks.Add(1); return time.Now() }
		return nil
	}))
	result, err := s.Purge(t.Context(), PurgeRequest{Retention: Retention{MaxPerWebhook: 1}, Limit: 1})
	is.NoErr(err)
	is.Equal(len(result.Webhooks), 1)
	is.True(result.More)
	is.True(looks.Load() < webhooks)
}

// What has to go may be far fewer than what there is, so nothing is sorted to find it but the leases that are over.
func TestTheOldestAreReadInTheOrderOfAnIndex(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	sorts := func(query string) int {
		return strings.Count(strings.Join(queryPlan(t, s, query, 1, 2, 3), "\n"), "TEMP B-TREE")
	}
	is.Equal(sorts(oldestDiverted), 0)
	before, after, _ := strings.Cut(oldestHeld, "UNION ALL")
	is.Equal(sorts(oldestHeld), 1)
	is.Equal(sorts(before+after[strings.Index(after, "ORDER BY"):]), 0)
}

func TestExpungeKeepsWhatCanBeReadOfDamagedFailures(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	webhook := WebhookKey{acme, ulid.Make()}
	keys := divertSome(t, s, webhook, 2)
	stats := func() map[Trigger]int {
		stats, err := s.Stats(t.Context(), StatsQuery{Tenant: acme, Webhook: webhook.Webhook})
		is.NoErr(err)
		return stats.Diverted
	}
	is.NoErr(s.write(t.Context(), "damage", func(tx *sqliteTx) error {
		tx.exec(`UPDATE diverted_deliveries SET failures = '{"trigger":"404","message":"a secret' || char(10) || failure WHERE event = ?`, keys[0].Event[:])
		tx.exec(`UPDATE diverted_deliveries SET failure = '{"trigger":"503","message":"a secret' WHERE event = ?`, keys[1].Event[:])
		return nil
	}))
	is.Equal(stats(), map[Trigger]int{"503": 2})
	for _, key := range keys {
		is.NoErr(s.Expunge(t.Context(), key))
	}
	for i, want := range [][]Trigger{{TriggerTimeout, "503", "503"}, {TriggerTimeout}} {
		event, err := s.FetchDiverted(t.Context(), keys[i])
		is.NoErr(err)
		is.True(event.Expunged)
		var got []Trigger
		for _, f := range event.Failures {
			got = append(got, f.Trigger)
		}
		is.Equal(got, want)
	}
	want := map[Trigger]int{"503": 1, TriggerTimeout: 1}
	is.Equal(stats(), want)
	is.NoErr(s.write(t.Context(), "forget", func(tx *sqliteTx) error {
		clear(tx.asides)
		return nil
	}))
	is.Equal(stats(), want) // counted anew
}
