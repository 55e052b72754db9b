package diverted

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// setClock makes the wall clock of a store one that is set by as much as jump says.
func setClock(t *testing.T, s *SQLiteStore) (jump *atomic.Int64) {
	t.Helper()
	jump = new(atomic.Int64)
	err := s.write(t.Context(), "set clock", func(tx *sqliteTx) error {
		tx.wall = func() time.Time { return time.Now().Add(time.Duration(jump.Load())) }
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return jump
}

// aroundTheClock returns a store with one delivery in the hands of the caller, one whose claim was lost with its
// process, and one that waits ten minutes for a retry.
func aroundTheClock(t *testing.T) (s *SQLiteStore, jump *atomic.Int64, held, lost, waiting Claim) {
	t.Helper()
	is := is.New(t)
	s, _ = openTestStore(t)
	jump = setClock(t, s)
	w, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.Accept(t.Context(), AcceptRequest{Messages: []Message{realMessage(t, w, 0), realMessage(t, w, 1), realMessage(t, w, 2)}})
	is.NoErr(err)
	res, err := s.Work(t.Context(), WorkRequest{Claim: claimAll(3)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 3)
	held, lost, waiting = res.Claims[0], res.Claims[1], res.Claims[2]
	_, err = s.Work(t.Context(), WorkRequest{Outcomes: []Outcome{{
		Key: waiting.Key, Token: waiting.Token, Kind: OutcomeRetry, Wait: 10 * time.Minute,
		Failure: &Failure{Trigger: TriggerTimeout, Message: "no answer"},
	}}})
	is.NoErr(err)
	return s, jump, held, lost, waiting
}

// workHolding claims as a process that has one delivery in its hands.
func workHolding(t *testing.T, s *SQLiteStore, held Claim) (WorkResult, []ulid.ULID) {
	t.Helper()
	request := claimAll(10)
	request.InFlight = func(k Key) bool { return k == held.Key }
	res, err := s.Work(t.Context(), WorkRequest{Claim: request})
	is.New(t).NoErr(err)
	var events []ulid.ULID
	for _, c := range res.Claims {
		events = append(events, c.Key.Event)
	}
	return res, events
}

func TestAClockThatJumpsAheadMakesDueWhatIsDueThenAndNothingTwice(t *testing.T) {
	is := is.New(t)
	s, jump, held, lost, waiting := aroundTheClock(t)
	_, events := workHolding(t, s, held)
	is.Equal(len(events), 0)

	jump.Store(int64(time.Hour))
	_, events = workHolding(t, s, held)
	is.Equal(events, []ulid.ULID{lost.Key.Event, waiting.Key.Event}) // and not the one that is in our hands
	_, events = workHolding(t, s, held)
	is.Equal(len(events), 0) // once

	res, err := s.Work(t.Context(), WorkRequest{Outcomes: []Outcome{{Key: held.Key, Token: held.Token, Kind: OutcomeDelivered}}})
	is.NoErr(err)
	is.True(!res.Settled[0].Stale)
}

func TestAClockThatIsSetBackVoidsLeasesAndDelaysWaitsByNoMoreThanItsJump(t *testing.T) {
	is := is.New(t)
	s, jump, held, lost, waiting := aroundTheClock(t)
	jump.Store(int64(-time.Hour))
	res, events := workHolding(t, s, held)
	is.Equal(events, []ulid.ULID{lost.Key.Event}) // its lease would have lasted an hour longer
	is.True(res.Next > 0 && res.Next <= time.Minute)

	settled, err := s.Work(t.Context(), WorkRequest{Outcomes: []Outcome{
		{Key: held.Key, Token: held.Token, Kind: OutcomeDelivered},
		{Key: res.Claims[0].Key, Token: res.Claims[0].Token, Kind: OutcomeDelivered},
	}})
	is.NoErr(err)
	is.True(!settled.Settled[0].Stale)
	is.True(!settled.Settled[1].Stale)

	jump.Add(int64(time.Hour))
	_, events = workHolding(t, s, held)
	is.Equal(len(events), 0) // its own wait, and the jump
	jump.Add(int64(10 * time.Minute))
	_, events = workHolding(t, s, held)
	is.Equal(events, []ulid.ULID{waiting.Key.Event})
}

func TestAClockThatWasSetBackIsSeenAgainIfThatTransactionIsLost(t *testing.T) {
	is := is.New(t)
	s, jump, held, lost, _ := aroundTheClock(t)
	jump.Store(int64(-time.Hour))
	err := s.write(t.Context(), "fail", func(tx *sqliteTx) error {
		tx.fault = errors.New("disk trouble")
		return nil
	})
	is.True(err != nil)
	_, events := workHolding(t, s, held)
	is.Equal(events, []ulid.ULID{lost.Key.Event})
}

// The clock of a dispatcher at work goes an hour ahead, and an hour back.
func TestADispatcherGoesOnWhateverTheClockDoes(t *testing.T) {
	is := is.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	s, _ := openTestStore(t)
	jump := setClock(t, s)

	var mu sync.Mutex
	posts := make(map[string]int)
	hold, arrived := make(chan struct{}), make(chan string, 100)
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("webhook-id")
		mu.Lock()
		posts[id]++
		first := posts[id] == 1
		mu.Unlock()
		arrived <- id
		switch {
		case r.URL.Path == "/held":
			<-hold
		case first:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	defer receiver.Close()
	held := NewWebhook(acme, "held", receiver.URL+"/held", "*")
	fails := NewWebhook(acme, "fails once", receiver.URL+"/fails", "*")
	fails.FailureHandling = &FailureHandling{Retry: &RetryStrategy{Attempts: 3, Interval: 50 * time.Minute, Type: Linear}, Divert: true}
	for _, w := range []Webhook{held, fails} {
		_, err := s.CreateWebhook(ctx, w)
		is.NoErr(err)
	}
	d, err := NewDispatcher(s, Config{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	is.NoErr(err)
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- d.Run(running) }()
	next := func() string {
		select {
		case id := <-arrived:
			return id
		case <-ctx.Done():
			t.Fatal("nothing arrived")
			return ""
		}
	}
	send := func(w Webhook) string {
		event := realEvent(t, 0)
		_, err := d.Send(ctx, acme, w.Locator, event)
		is.NoErr(err)
		return event.Locator.String()
	}
	inHand := send(held)
	is.Equal(next(), inHand)
	failed := send(fails)
	is.Equal(next(), failed)
	for ready := false; !ready; { // its retry waits
		page, err := s.ListPending(ctx, DivertedQuery{Webhook: fails.Key()})
		is.NoErr(err)
		ready = len(page.Deliveries) == 1 && page.Deliveries[0].Attempts == 1
	}
	jump.Store(int64(time.Hour))
	is.Equal(next(), failed) // found by the look of each second
	jump.Store(0)
	fresh := send(fails)
	is.Equal(next(), fresh) // what is new depends on no clock
	close(hold)
	for {
		page, err := s.ListPending(ctx, DivertedQuery{Webhook: held.Key()})
		is.NoErr(err)
		if len(page.Deliveries) == 0 {
			break
		}
	}
	stop()
	is.NoErr(<-ran)
	mu.Lock()
	defer mu.Unlock()
	is.Equal(posts, map[string]int{inHand: 1, failed: 2, fresh: 1})
}
