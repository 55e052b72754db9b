package postgres_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

// Two stores on one schema stand for two processes: they share nothing but the database.
func twoProcesses(t *testing.T) (a, b *postgres.Store) {
	t.Helper()
	schema := newSchema()
	return open(t, newPool(t), schema), open(t, newPool(t), schema)
}

func accept(t testing.TB, s *postgres.Store, messages ...diverted.Message) []diverted.MessageResult {
	t.Helper()
	r, err := s.Accept(context.Background(), diverted.AcceptRequest{Messages: messages})
	if err != nil {
		t.Fatal(err)
	}
	return r.Messages
}

func settle(t testing.TB, s *postgres.Store, outcomes ...diverted.Outcome) []diverted.Settled {
	t.Helper()
	r, err := s.Work(context.Background(), diverted.WorkRequest{Outcomes: outcomes})
	if err != nil {
		t.Fatal(err)
	}
	return r.Settled
}

func delivered(c diverted.Claim) diverted.Outcome {
	return diverted.Outcome{Key: c.Key, Token: c.Token, Epoch: c.Epoch, Kind: diverted.OutcomeDelivered}
}

// allDelivered returns the outcomes of claims that are all delivered.
func allDelivered(claims []diverted.Claim) (outcomes []diverted.Outcome) {
	for _, c := range claims {
		outcomes = append(outcomes, delivered(c))
	}
	return outcomes
}

func TestWhatOneProcessChangesOfAWebhookHoldsAtTheNextCallOfAnother(t *testing.T) {
	is := is.New(t)
	a, b := twoProcesses(t)
	w := newWebhook(t, a, uuid.New())
	accept(t, b, message(t, w))
	is.Equal(len(claim(t, b)), 1) // so that b knows the webhook

	w.Endpoint.URL = "https://moved.example/"
	w, err := a.UpdateWebhook(t.Context(), w)
	is.NoErr(err)
	accept(t, b, message(t, w))
	c := claim(t, b)
	is.Equal(len(c), 1)
	is.Equal(c[0].Webhook.Endpoint.URL, "https://moved.example/")

	is.NoErr(a.Suspend(t.Context(), w.Key()))
	accept(t, b, message(t, w))
	is.Equal(len(claim(t, b)), 0)
	is.NoErr(a.Unsuspend(t.Context(), w.Key()))
	c = claim(t, b)
	is.Equal(len(c), 1)

	second := newWebhook(t, a, w.Tenant)
	published := message(t, diverted.Webhook{Tenant: w.Tenant})
	is.Equal(len(accept(t, b, published)[0].Deliveries), 2)

	is.NoErr(a.DeleteWebhook(t.Context(), w.Key(), true))
	is.True(isError(accept(t, b, message(t, w))[0].Err, diverted.ErrNotFound))
	again, err := b.CreateWebhook(t.Context(), w)
	is.NoErr(err)
	is.NoErr(accept(t, a, message(t, again))[0].Err)
	is.Equal(settle(t, b, delivered(c[0])), []diverted.Settled{{Stale: true}}) // its webhook's namesake is another
	keys := map[diverted.WebhookKey]int{}
	for _, c := range claim(t, b) {
		keys[c.Key.WebhookKey()]++
	}
	is.Equal(keys, map[diverted.WebhookKey]int{w.Key(): 1, second.Key(): 1})
}

func TestAProcessThatKnowsOfNoReceiverLooksWhetherThereIsOneByNow(t *testing.T) {
	is := is.New(t)
	a, b := twoProcesses(t)
	tenant := uuid.New()
	published := func() int {
		t.Helper()
		r := accept(t, b, message(t, diverted.Webhook{Tenant: tenant}))[0]
		is.NoErr(r.Err)
		return len(r.Deliveries)
	}
	is.Equal(published(), 0) // so that b knows the tenant

	w := newWebhook(t, a, tenant)
	is.NoErr(accept(t, b, message(t, w))[0].Err)
	is.NoErr(a.DeleteWebhook(t.Context(), w.Key(), true))
	is.Equal(published(), 0)

	w = newWebhook(t, a, tenant, func(w *diverted.Webhook) { w.Enabled = false })
	is.Equal(published(), 0)
	w.Enabled = true
	w, err := a.UpdateWebhook(t.Context(), w)
	is.NoErr(err)
	is.Equal(published(), 1)
	is.Equal(len(claim(t, b)), 1)
}

func TestAProcessForgetsWebhooksThatWerePurgedWhileItDidNotLook(t *testing.T) {
	is := is.New(t)
	a, b := twoProcesses(t)
	tenant := uuid.New()
	gone, stays := newWebhook(t, a, tenant), newWebhook(t, a, tenant)
	accept(t, b, message(t, gone), message(t, stays))
	is.Equal(len(claim(t, b)), 2)
	is.NoErr(a.DeleteWebhook(t.Context(), gone.Key(), true))
	pool := newPool(t)
	testenv.Await(t, "nothing tells any more that it ever was", func() bool {
		return holds(t, pool, `SELECT count(*) = 1 FROM `+a.Schema()+`.webhooks`)
	})
	r := accept(t, b, message(t, gone), message(t, stays))
	is.True(isError(r[0].Err, diverted.ErrNotFound))
	is.NoErr(r[1].Err)
}

func TestProcessesShareTheWorkAndNoneHasWhatAnotherHas(t *testing.T) {
	is := is.New(t)
	schema := newSchema()
	const processes, events = 3, 600
	var stores []*postgres.Store
	for range processes {
		stores = append(stores, open(t, newPool(t), schema))
	}
	tenant := uuid.New()
	var webhooks []diverted.Webhook
	for range 5 {
		webhooks = append(webhooks, newWebhook(t, stores[0], tenant))
	}
	fill(t, stores[0], webhooks, events)
	var mu sync.Mutex
	seen := map[diverted.Key]int{}
	var group sync.WaitGroup
	for _, s := range stores {
		group.Go(func() {
			request := diverted.WorkRequest{Refresh: true}
			for idle := 0; idle < 3; {
				s.ScanAtOnce()
				request.Claim = &diverted.ClaimRequest{Count: 16, Bytes: 32 << 20, Lease: time.Minute}
				r, err := s.Work(context.Background(), request)
				if err != nil {
					t.Error(err)
					return
				}
				for _, settled := range r.Settled {
					if settled.Stale {
						t.Error("an outcome is stale")
					}
				}
				if request.Outcomes = nil; len(r.Claims) == 0 {
					idle++
				}
				mu.Lock()
				for _, c := range r.Claims {
					seen[c.Key]++
					request.Outcomes = append(request.Outcomes, delivered(c))
				}
				mu.Unlock()
			}
		})
	}
	group.Wait()
	is.Equal(len(seen), events)
	for _, n := range seen {
		is.Equal(n, 1)
	}
}

func TestALostLeaseIsAnothersAndTheOutcomeOfTheFirstIsStale(t *testing.T) {
	is := is.New(t)
	a, b := twoProcesses(t)
	w := newWebhook(t, a, uuid.New())
	// On a busy machine the calls may take longer than a lease lasts, and then nobody saw it hold. So each is longer
	// than the one before, until one was seen.
	for lease, seen := 50*time.Millisecond, false; !seen; lease *= 2 {
		accept(t, a, message(t, w))
		began := time.Now()
		r, err := a.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 1, Bytes: 1, Lease: lease}})
		is.NoErr(err)
		is.Equal(len(r.Claims), 1)
		var c []diverted.Claim
		testenv.Await(t, "the delivery is another's", func() bool {
			c = claim(t, b)
			seen = seen || len(c) == 0
			return len(c) > 0
		})
		is.True(time.Since(began) >= lease) // and not sooner
		is.Equal(len(c), 1)
		is.Equal(c[0].Losses, 1)
		is.Equal(settle(t, a, delivered(r.Claims[0])), []diverted.Settled{{Stale: true}})
		is.Equal(settle(t, b, delivered(c[0])), []diverted.Settled{{}})
	}
}

func TestOfManyProcessesThatSuspendAWebhookOneSaysSo(t *testing.T) {
	is := is.New(t)
	schema := newSchema()
	var stores []*postgres.Store
	for range 4 {
		stores = append(stores, open(t, newPool(t, poolOf(2)), schema))
	}
	w := newWebhook(t, stores[0], uuid.New())
	for range 5 {
		fill(t, stores[0], []diverted.Webhook{w}, len(stores))
		claims := claim(t, stores[0])
		is.Equal(len(claims), len(stores))
		settled := make([]diverted.Settled, len(stores))
		var group sync.WaitGroup
		for i, s := range stores {
			group.Go(func() {
				o := diverted.Outcome{Key: claims[i].Key, Token: claims[i].Token, Epoch: claims[i].Epoch, Kind: diverted.OutcomeDivert, Suspend: true, Alert: true}
				o.Failure = &diverted.Failure{Trigger: "500", Status: 500, Message: "500 Internal Server Error"}
				settled[i] = settle(t, s, o)[0]
			})
		}
		group.Wait()
		suspended := 0
		for _, s := range settled {
			is.Equal(s.Stale, false)
			if s.Suspended {
				suspended++
			}
		}
		is.Equal(suspended, 1)
		is.NoErr(stores[3].Unsuspend(t.Context(), w.Key()))
	}
	r, err := stores[1].Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 5, Lease: time.Minute}})
	is.NoErr(err)
	is.Equal(len(r.Notices), 1)
	is.Equal(r.Notices[0].Notice.Failures, 20)
	is.Equal(r.Notices[0].Notice.Diverted, 20)
}

func TestAProcessHearsOfTheWorkOfOthers(t *testing.T) {
	is := is.New(t)
	a, b := twoProcesses(t)
	w := newWebhook(t, a, uuid.New())
	is.Equal(len(claim(t, b)), 0)
	told := make(chan diverted.Change, 100)
	defer b.Watch(func(c diverted.Change) { told <- c })()
	waitForListener(t, b)
	hears := func() []diverted.Claim {
		t.Helper()
		for {
			select {
			case <-told:
			case <-time.After(time.Minute):
				t.Fatal("it is not told")
			}
			// Without a refresh.
			r, err := b.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{Count: 10, Bytes: 32 << 20, Lease: time.Minute}})
			is.NoErr(err)
			if len(r.Claims) > 0 {
				return r.Claims
			}
		}
	}
	accept(t, a, message(t, w))
	c := hears()
	is.Equal(len(c), 1)

	o := delivered(c[0])
	o.Kind, o.Failure = diverted.OutcomeDivert, &diverted.Failure{Trigger: "500", Status: 500}
	settle(t, b, o)
	is.NoErr(a.Resend(t.Context(), c[0].Key))
	settle(t, b, delivered(hears()[0]))

	is.NoErr(a.Suspend(t.Context(), w.Key()))
	accept(t, a, message(t, w))
	is.NoErr(a.Unsuspend(t.Context(), w.Key()))
	is.Equal(len(hears()), 1)
}

func TestWithoutNotifyTheWorkOfOthersIsFoundByARefresh(t *testing.T) {
	is := is.New(t)
	schema := newSchema()
	open := func() *postgres.Store {
		s, err := postgres.Open(t.Context(), newPool(t), postgres.Config{Schema: schema, NoNotify: true})
		is.NoErr(err)
		t.Cleanup(func() { s.Close() })
		return s
	}
	a, b := open(), open()
	w := newWebhook(t, a, uuid.New())
	is.Equal(len(claim(t, b)), 0)
	accept(t, a, message(t, w))
	is.Equal(len(claim(t, b)), 1)
}

func TestTheRowsOfADeletedWebhookArePurgedByWhoeverIsThere(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	a := open(t, pool, schema)
	w, other := newWebhook(t, a, uuid.New()), newWebhook(t, a, uuid.New())
	fill(t, a, []diverted.Webhook{w, other}, 2600)
	is.NoErr(a.DeleteWebhook(t.Context(), w.Key(), true))
	is.NoErr(a.Close()) // perhaps before it is done
	open(t, pool, schema)
	testenv.Await(t, "its rows are gone, and no other's", func() bool {
		var rows, webhooks int
		is.NoErr(pool.QueryRow(t.Context(), fmt.Sprintf(`SELECT (SELECT count(*) FROM %[1]s.deliveries), (SELECT count(*) FROM %[1]s.webhooks)`, schema)).Scan(&rows, &webhooks))
		is.True(rows >= 1300 && webhooks >= 1)
		return rows == 1300 && webhooks == 1
	})
}

func TestNoGoroutineOutlivesAStore(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	s := open(t, pool, newSchema())
	w := newWebhook(t, s, uuid.New())
	accept(t, s, message(t, w))
	is.NoErr(s.Close())
	stacks := make([]byte, 1<<20)
	for _, stack := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
		for _, mine := range []string{").accept(", ").purge(", ").listen(", ").announce(", ").announceOwed(", ").gather("} {
			if strings.Contains(stack, "postgres.(*Store"+mine) && strings.Contains(stack, fmt.Sprintf("%p", s)) {
				t.Error(stack)
			}
		}
	}
	is.NoErr(pool.Ping(t.Context())) // it stays the host's
}

func TestAWebhookThatIsForgottenWhileACallIsAboutItIsLookedUpAgain(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	accept(t, s, message(t, w)) // so that the store knows it
	for range 2 {
		many := newWebhook(t, s, uuid.New())
		accept(t, s, message(t, many))
	}
	s.RememberAtMost(2)

	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	_, err = tx.Exec(t.Context(), `LOCK TABLE `+schema+`.deliveries IN ACCESS EXCLUSIVE MODE`)
	is.NoErr(err)
	results := make(chan diverted.AcceptResult, 1)
	go func() { // it has looked at what it knows, and counts what is pending
		published := message(t, diverted.Webhook{Tenant: w.Tenant})
		r, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{published}, MaxPending: 10})
		if err != nil {
			t.Error(err)
		}
		results <- r
	}()
	waitForWaiter(t, pool, schema)
	stranger := diverted.Webhook{Tenant: uuid.New(), Locator: w.Locator} // for whom there is no room to remember
	is.True(isError(accept(t, s, message(t, stranger))[0].Err, diverted.ErrNotFound))
	is.NoErr(tx.Rollback(t.Context()))
	is.Equal(len((<-results).Messages[0].Deliveries), 1)
}

func TestAProcessForgetsWebhooksThatAFailoverLost(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	moved, err := s.UpdateWebhook(t.Context(), w)
	is.NoErr(err)
	lost := newWebhook(t, s, w.Tenant)
	accept(t, s, message(t, moved), message(t, lost)) // so that the store knows them
	is.Equal(len(claim(t, s)), 2)

	// A standby that lags behind takes over: the last two changes never were.
	execute(t, pool, `DELETE FROM `+schema+`.webhooks WHERE locator = $1`, uuid.UUID(lost.Locator))
	execute(t, pool, `UPDATE `+schema+`.webhooks SET version = 1, changed = changed - 1`)
	execute(t, pool, `UPDATE `+schema+`.state SET generation = generation - 2`)

	r := accept(t, s, message(t, moved), message(t, lost), message(t, diverted.Webhook{Tenant: w.Tenant}))
	is.NoErr(r[0].Err)
	is.True(isError(r[1].Err, diverted.ErrNotFound)) // and not into rows that nobody ever looks at
	is.Equal(len(r[2].Deliveries), 1)
	c := claim(t, s)
	is.Equal(len(c), 2)
	is.Equal(c[0].Webhook.Version, int64(1))
}
