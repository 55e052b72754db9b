package storetest

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// The times of the tests. With Harness.RealTime they really pass.
const (
	shortest = 600 * time.Millisecond // of a wait or a lease whose end a test awaits
	long     = time.Minute            // one whose end no test sees
)

// kit is a test in progress: a store, a tenant, and what is often asked of them. Its methods fail the test
// where the store fails them.
type kit struct {
	*testing.T
	harness Harness
	store   diverted.Store
	ctx     context.Context
	tenant  uuid.UUID
	events  int
	slowest time.Duration // of the calls of Work
	short   time.Duration // a wait or a lease whose end a test awaits
}

func newKit(t *testing.T, h Harness) *kit {
	return &kit{T: t, harness: h, store: h.Open(t), ctx: t.Context(), tenant: uuid.New(), short: shortest}
}

// pace sets the waits, in which some ten calls have to fit, on a busy machine and over a slow network too.
func (k *kit) pace() {
	k.Helper()
	for range 3 {
		k.work(diverted.WorkRequest{Claim: upTo(1)})
	}
	k.short = min(max(k.short, 20*k.slowest), 10*time.Second).Round(time.Millisecond)
}

// reopen restarts the store.
func (k *kit) reopen() { k.store = k.harness.Reopen(k.T, k.store) }

// ok fails the test on an error.
func (k *kit) ok(err error) {
	k.Helper()
	if err != nil {
		k.Fatalf("error: %v", err)
	}
}

// fails fails the test unless the error is the one that is wanted.
func (k *kit) fails(err, want error) {
	k.Helper()
	if !errors.Is(err, want) {
		k.Fatalf("error is %v, want one that is %v", err, want)
	}
}

// equal fails the test unless both are deeply equal.
func (k *kit) equal(got, want any) {
	k.Helper()
	if !reflect.DeepEqual(got, want) {
		k.Fatalf("got\n\t%+v\nwant\n\t%+v", got, want)
	}
}

// that fails the test, with a message, unless it holds.
func (k *kit) that(holds bool, format string, args ...any) {
	k.Helper()
	if !holds {
		k.Fatalf(format, args...)
	}
}

// at fails the test unless a recorded time is the one that is wanted, to the millisecond where the clock
// is exact.
func (k *kit) at(got, want time.Time) {
	k.Helper()
	tolerance := time.Millisecond
	if k.harness.RealTime {
		tolerance = 10 * time.Second // two clocks, and the time that calls take
	}
	if d := got.Sub(want).Abs(); d >= tolerance {
		k.Fatalf("time is %v, want %v", got, want)
	}
	if !got.Equal(got.Truncate(time.Millisecond)) {
		k.Fatalf("time %v is not kept to the millisecond", got)
	}
}

// webhook creates a webhook of the kit's tenant that subscribes to everything.
func (k *kit) webhook(change ...func(*diverted.Webhook)) diverted.Webhook {
	k.Helper()
	w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
	for _, f := range change {
		f(&w)
	}
	w, err := k.store.CreateWebhook(k.ctx, w)
	k.ok(err)
	return w
}

func disabled(w *diverted.Webhook) { w.Enabled = false }

// event returns a new event of a real payload.
func (k *kit) event() diverted.Event {
	k.Helper()
	p := payloads()[k.events%len(payloads())]
	k.events++
	e, err := diverted.NewEvent(p.Type, p.Data)
	k.ok(err)
	return e
}

// payloads are the smallest of the real ones, so that the suite is quick.
var payloads = sync.OnceValue(func() []testdata.Payload {
	all := slices.Clone(testdata.Payloads())
	slices.SortStableFunc(all, func(a, b testdata.Payload) int { return len(a.Data) - len(b.Data) })
	return all[:min(16, len(all))]
})

// message encodes a new event for a webhook.
func (k *kit) message(w diverted.WebhookKey) diverted.Message {
	k.Helper()
	m, err := diverted.NewMessage(w.Tenant, w.Webhook, k.event())
	k.ok(err)
	return m
}

// messages encodes n new events for a webhook. Their locators descend, so that the order of acceptance
// shows.
func (k *kit) messages(w diverted.Webhook, n int) []diverted.Message {
	k.Helper()
	messages := make([]diverted.Message, n)
	for i := range messages {
		messages[i] = k.message(w.Key())
	}
	slices.SortFunc(messages, func(a, b diverted.Message) int { return b.Event.Compare(a.Event) })
	return messages
}

// accept has the store accept messages, of which none may be refused, and returns the answers.
func (k *kit) accept(messages ...diverted.Message) []diverted.MessageResult {
	k.Helper()
	r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: messages})
	k.ok(err)
	k.equal(len(r.Messages), len(messages))
	k.equal(len(r.Claims), 0)
	for _, m := range r.Messages {
		k.ok(m.Err)
	}
	return r.Messages
}

// send accepts n new events for a webhook and returns their locators in the order of acceptance.
func (k *kit) send(w diverted.Webhook, n int) []ulid.ULID {
	k.Helper()
	messages := k.messages(w, n)
	var locators []ulid.ULID
	for i, r := range k.accept(messages...) {
		k.equal(r.Deliveries, []diverted.Acceptance{{Webhook: w.Locator, Status: diverted.Accepted}})
		locators = append(locators, messages[i].Event)
	}
	return locators
}

// upTo returns a request to claim that many deliveries, for a lease whose end no test sees.
func upTo(count int) *diverted.ClaimRequest {
	return &diverted.ClaimRequest{Count: count, Bytes: 32 << 20, Lease: long}
}

// leased returns the request with another lease.
func leased(r *diverted.ClaimRequest, lease time.Duration) *diverted.ClaimRequest {
	r.Lease = lease
	return r
}

func (k *kit) work(r diverted.WorkRequest) diverted.WorkResult {
	k.Helper()
	began := time.Now()
	result, err := k.store.Work(k.ctx, r)
	k.slowest = max(k.slowest, time.Since(began))
	k.ok(err)
	k.equal(len(result.Settled), len(r.Outcomes))
	if k.harness.RealTime && len(r.Outcomes)+len(r.Notices) > 0 {
		// What waits for no time is due at the next whole millisecond, and a store learns its server's time as late
		// as an answer takes, which on a busy machine is long.
		time.Sleep(k.slowest + 20*time.Millisecond)
	}
	return result
}

// claim claims at most that many deliveries.
func (k *kit) claim(count int) []diverted.Claim {
	k.Helper()
	return k.work(diverted.WorkRequest{Claim: upTo(count)}).Claims
}

// claimOne claims the one delivery that is due.
func (k *kit) claimOne() diverted.Claim {
	k.Helper()
	claims := k.claim(100)
	if len(claims) != 1 {
		k.Fatalf("%d deliveries are due, want 1", len(claims))
	}
	return claims[0]
}

// claims fails the test unless exactly these events are due, in this order.
func (k *kit) claims(want ...ulid.ULID) []diverted.Claim {
	k.Helper()
	claims := k.claim(len(want) + 10)
	if got := locators(claims); !slices.Equal(got, want) {
		k.Fatalf("due are\n\t%v\nwant\n\t%v", got, want)
	}
	return claims
}

// settle settles outcomes, of which none may be stale.
func (k *kit) settle(outcomes ...diverted.Outcome) []diverted.Settled {
	k.Helper()
	settled := k.work(diverted.WorkRequest{Outcomes: outcomes}).Settled
	for i, s := range settled {
		k.that(!s.Stale, "outcome %d is stale", i)
	}
	return settled
}

// stale fails the test unless the outcome is.
func (k *kit) stale(o diverted.Outcome) {
	k.Helper()
	k.equal(k.work(diverted.WorkRequest{Outcomes: []diverted.Outcome{o}}).Settled, []diverted.Settled{{Stale: true}})
}

func locators(claims []diverted.Claim) []ulid.ULID {
	var l []ulid.ULID
	for _, c := range claims {
		l = append(l, c.Key.Event)
	}
	return l
}

func (k *kit) fetch(w diverted.Webhook) diverted.Webhook {
	k.Helper()
	w, err := k.store.FetchWebhook(k.ctx, w.Key())
	k.ok(err)
	return w
}

func (k *kit) pending(w diverted.Webhook) []diverted.PendingDelivery {
	k.Helper()
	page, err := k.store.ListPending(k.ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: diverted.MaxPage})
	k.ok(err)
	k.that(!page.More, "more pending than a page holds")
	return page.Deliveries
}

func (k *kit) diverted(w diverted.Webhook) []diverted.DivertedEvent {
	k.Helper()
	page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: diverted.MaxPage})
	k.ok(err)
	k.that(!page.More, "more diverted than a page holds")
	return page.Events
}

// suspend and unsuspend change the webhook's suspension.
func (k *kit) suspend(w diverted.Webhook) {
	k.Helper()
	k.ok(k.store.Suspend(k.ctx, w.Key()))
}

func (k *kit) unsuspend(w diverted.Webhook) {
	k.Helper()
	k.ok(k.store.Unsuspend(k.ctx, w.Key()))
}

// aside sends a new event and has it diverted.
func (k *kit) aside(w diverted.Webhook) diverted.Key {
	k.Helper()
	event := k.send(w, 1)[0]
	for _, c := range k.claim(100) {
		if c.Key.Event == event {
			k.settle(diverted.Outcome{Key: c.Key, Token: c.Token, Kind: diverted.OutcomeDivert, Failure: unavailable()})
			return c.Key
		}
	}
	k.Fatal("an accepted event is not due")
	return diverted.Key{}
}

// unavailable is a failure with every field set.
func unavailable() *diverted.Failure {
	return &diverted.Failure{
		Trigger: "503",
		Message: "503 Service Unavailable: “later”, says \\xff",
		Status:  503,
		Excerpt: "<h1>Überlast</h1>\\n",
		At:      time.Date(2026, 11, 23, 17, 58, 0, 123_000_000, time.UTC),

		Attempt:    3,
		Duration:   1_234_567_890 * time.Nanosecond,
		RetryAfter: 90 * time.Second,
	}
}

// of returns an outcome for a claim, with a failure where the kind has one.
func of(c diverted.Claim, kind diverted.OutcomeKind) diverted.Outcome {
	o := diverted.Outcome{Key: c.Key, Token: c.Token, Kind: kind, Epoch: c.Epoch}
	if kind != diverted.OutcomeDelivered && kind != diverted.OutcomeReturn {
		o.Failure = unavailable()
	}
	return o
}

func delivered(c diverted.Claim) diverted.Outcome { return of(c, diverted.OutcomeDelivered) }

// retry returns an outcome that waits.
func retry(c diverted.Claim, wait time.Duration) diverted.Outcome {
	o := of(c, diverted.OutcomeRetry)
	o.Wait = wait
	return o
}

// hold returns the outcome that suspends the webhook and holds the delivery with its spent budget.
func hold(c diverted.Claim) diverted.Outcome {
	o := of(c, diverted.OutcomeHold)
	o.Suspend = true
	return o
}

// utc returns a failure whose time compares.
func utc(f diverted.Failure) diverted.Failure {
	f.At = f.At.UTC().Round(0)
	return f
}

// plain returns a webhook in a form that compares: times in UTC, empty lists nil.
func plain(w diverted.Webhook) diverted.Webhook {
	utc := func(t time.Time) time.Time {
		if t.IsZero() {
			return time.Time{}
		}
		return t.UTC().Round(0)
	}
	endpoint := func(e diverted.Endpoint) diverted.Endpoint {
		if len(e.Headers) == 0 {
			e.Headers = nil
		}
		var old []diverted.OldSecret
		for _, s := range e.OldSecrets {
			old = append(old, diverted.OldSecret{Secret: s.Secret, Until: utc(s.Until)})
		}
		e.OldSecrets = old
		return e
	}
	w.SuspendedAt = utc(w.SuspendedAt)
	w.Endpoint = endpoint(w.Endpoint)
	if w.FailureHandling != nil {
		h := *w.FailureHandling
		if len(h.Triggers) == 0 {
			h.Triggers = nil
		}
		if h.Alert != nil {
			a := endpoint(*h.Alert)
			h.Alert = &a
		}
		w.FailureHandling = &h
	}
	return w
}

// sameWebhook fails the test unless both webhooks are the same. It tells no more than the field at fault, since %v
// masks what matters.
func (k *kit) sameWebhook(got, want diverted.Webhook) {
	k.Helper()
	got, want = plain(got), plain(want)
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if !reflect.DeepEqual(g.Field(i).Interface(), w.Field(i).Interface()) {
			k.Fatalf("the webhook's %s is\n\t%+v\nwant\n\t%+v", g.Type().Field(i).Name, g.Field(i), w.Field(i))
		}
	}
}

// pages reads a list page by page, and fails the test where one is too long or says wrongly that there is
// more. between is called after every page.
func pages[T any](k *kit, limit int, page func(after ulid.ULID) (items []T, more bool), locator func(T) ulid.ULID, between func(page []T)) []ulid.ULID {
	k.Helper()
	var got []ulid.ULID
	var after ulid.ULID
	for {
		items, more := page(after)
		k.that(len(items) <= limit, "a page has %d entries, want at most %d", len(items), limit)
		for _, item := range items {
			after = locator(item)
			got = append(got, after)
		}
		if !more {
			return got
		}
		k.equal(len(items), limit)
		if between != nil {
			between(items)
		}
	}
}

func ascending(l []ulid.ULID) []ulid.ULID {
	return slices.SortedFunc(slices.Values(l), ulid.ULID.Compare)
}
