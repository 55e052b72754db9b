package diverted

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/matryer/is"
)

// A call that comes while another is applied does not wait for a commit that is not its own.
func TestACallThatComesMeanwhileSharesTheTransaction(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	var first, second *sqliteTx
	var other sync.WaitGroup
	is.NoErr(s.write(t.Context(), "first", func(tx *sqliteTx) error {
		first = tx
		other.Go(func() {
			if err := s.write(t.Context(), "second", func(tx *sqliteTx) error { second = tx; return nil }); err != nil {
				t.Error(err)
			}
		})
		for !tx.awaited() {
			runtime.Gosched()
		}
		return nil
	}))
	other.Wait()
	is.True(first == second)
}

// A caller whose context ended may use its memory for something else, while the writer is still at its call.
func TestAcceptKeepsNothingOfACallerThatIsGone(t *testing.T) {
	is := is.New(t)
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.Work(t.Context(), WorkRequest{Claim: claimAll(1)}) // so that Accept may hand back what it accepts
	is.NoErr(err)
	m := realMessage(t, w, 0)
	body := bytes.Clone(m.Body)
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	claim := claimAll(1)
	claim.Reserve = func(WebhookKey, int) int {
		cancel()
		<-gone
		return 0
	}
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{m}, Claim: claim})
	is.True(errors.Is(err, context.Canceled))
	clear(m.Body)
	close(gone)
	work, err := s.Work(t.Context(), WorkRequest{Claim: claimAll(1)})
	is.NoErr(err)
	is.Equal(len(work.Claims), 1)
	is.Equal(string(work.Claims[0].Body), string(body))
}

// Whoever waits while a transaction cannot begin hears of it, and does not try for as long again.
func TestAllThatWaitHearThatATransactionCannotBegin(t *testing.T) {
	is := is.New(t)
	s, path := openTestStore(t)
	const patience, callers = 500 * time.Millisecond, 20
	_, err := s.writer.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 500")
	is.NoErr(err)
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	is.NoErr(err)
	defer db.Close()
	lock, err := db.Begin()
	is.NoErr(err)
	defer lock.Rollback()
	began := time.Now()
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			if err := s.write(t.Context(), "wait", func(*sqliteTx) error { return nil }); !errors.Is(err, ErrLocked) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	is.True(time.Since(began) < callers*patience/2) // once or twice, not each, and a busy machine has time
}
