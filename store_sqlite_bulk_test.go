package diverted

import (
	"context"
	"database/sql"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// What a step selects is changed only if it still is what was asked for.
func TestABulkStepLeavesWhatWasDivertedAnewSinceItLooked(t *testing.T) {
	for _, bulk := range []sqliteBulk{sqliteResendAll, sqliteDeleteAll} {
		for name, tt := range map[string]struct {
			filter DivertedFilter
			wait   time.Duration
		}{
			"of another status": {DivertedFilter{Trigger: "503"}, 0},
			"of another class":  {DivertedFilter{Trigger: Trigger5xx}, 0},
			"at another time":   {DivertedFilter{Until: time.Now().Add(time.Hour)}, 2 * time.Hour},
		} {
			t.Run(bulk.action+"/"+name, func(t *testing.T) {
				is := is.New(t)
				s, _ := openTestStore(t)
				w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
				is.NoErr(err)
				keys := divertSome(t, s, w.Key(), 3)
				jump := setClock(t, s)
				bulk.selects = func(ctx context.Context, tx *sql.Tx, webhook int64, r *BulkRequest, limit int) ([][]byte, error) {
					events, err := selectForBulk(ctx, tx, webhook, r, limit)
					is.NoErr(err)
					jump.Add(int64(tt.wait))
					again, err := s.FetchDiverted(ctx, keys[1])
					is.NoErr(err)
					again.Failure = Failure{Trigger: "404", Message: "404 Not Found", Status: 404}
					is.NoErr(s.Divert(ctx, again))
					return events, nil
				}
				result, err := s.bulk(t.Context(), BulkRequest{Webhook: w.Key(), Filter: tt.filter, Before: time.Now().Add(24 * time.Hour)}, bulk)
				is.NoErr(err)
				is.Equal([]int{result.Matched, result.Done}, []int{3, 2})
				for i, key := range keys {
					_, err := s.FetchDiverted(t.Context(), key)
					is.Equal(err == nil, i == 1)
				}
			})
		}
	}
}

func TestAnEventWithoutAFailureIsResentAndDeleted(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	keys := divertSome(t, s, w.Key(), 3)
	is.NoErr(s.write(t.Context(), "damage", func(tx *sqliteTx) error {
		tx.exec(`UPDATE diverted_deliveries SET failure = NULL`)
		return nil
	}))
	is.NoErr(s.Resend(t.Context(), keys[0]))
	is.NoErr(s.DeleteDiverted(t.Context(), keys[1]))
	for _, request := range []BulkRequest{
		{Webhook: w.Key(), Filter: DivertedFilter{Trigger: TriggerTimeout}},
		{Webhook: w.Key()},
	} {
		result, err := s.DeleteAll(t.Context(), request)
		is.NoErr(err)
		want := 1
		if request.Filter.Trigger != "" {
			want = 0
		}
		is.Equal(result.Done, want)
	}
}

func TestABulkPartEndsWhereOthersWait(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	const events = 2 * bulkPart
	divertSome(t, s, w.Key(), events)
	var other sync.WaitGroup
	applied, meanwhile := 0, 0
	bulk := sqliteResendAll
	bulk.apply = func(tx *sqliteTx, row *sqliteWebhook, event ulid.ULID, r *BulkRequest) bool {
		if applied++; applied == 1 {
			other.Go(func() {
				if err := s.write(t.Context(), "other", func(*sqliteTx) error { meanwhile = applied; return nil }); err != nil {
					t.Error(err)
				}
			})
			for !tx.awaited() {
				runtime.Gosched()
			}
		}
		return sqliteResendAll.apply(tx, row, event, r)
	}
	result, err := s.bulk(t.Context(), BulkRequest{Webhook: w.Key()}, bulk)
	is.NoErr(err)
	other.Wait()
	is.Equal(meanwhile, bulkShare)
	is.Equal([]int{result.Matched, result.Done}, []int{events, events})
}
