// Package modeltest holds a store against a plain model of its contract: long random sequences of calls,
// each of which both must answer alike, and after each of which both must show the same.
//
//	func TestStore(t *testing.T) {
//		modeltest.Run(t, modeltest.Harness{Open: …})
//	}
//
// It is a module of its own, so that nobody who imports the library gets pgregory.net/rapid with it.
package modeltest

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
)

// Harness says how to get at the store under test.
type Harness struct {
	// Open opens the store that is kept in a directory: an empty one where the directory is empty.
	Open func(ctx context.Context, dir string) (diverted.Store, error)
	// Durable says that a store that was closed and is opened again in its directory has what it had.
	Durable bool
	// Shift moves all due times that a closed store keeps by d, those of waits, leases and notices: forwards
	// as if the clock had been set back, backwards as if it had been set forward. Windows of notices that
	// passed in silence it forgets before. Nil: not tried.
	Shift func(ctx context.Context, dir string, d time.Duration) error
	// RealTime is for a store whose clock is not this process's. By default each sequence runs in a bubble of
	// synctest. With RealTime no time passes but by Shift, and times are the same if they are seconds apart.
	RealTime bool
}

// Steps is how many steps [Run] makes by default, about. The environment variable MODEL_STEPS overrides it.
const Steps = 1000

// sequence is the average length of a sequence of calls.
const sequence = 100

// Run tests the store.
func Run(t *testing.T, h Harness) {
	t.Helper()
	steps := testenv.Number(t, "MODEL_STEPS", Steps)
	set := func(name string, value int) {
		if err := flag.Set("rapid."+name, strconv.Itoa(value)); err != nil {
			t.Fatal(err)
		}
	}
	set("steps", sequence)
	set("checks", max(steps/sequence, 1))

	made := 0
	rapid.Check(t, func(t *rapid.T) {
		property := func(t *rapid.T) {
			m := begin(t, h)
			t.Repeat(m.actions())
			made += m.made
		}
		if h.RealTime {
			property(t)
		} else {
			rapid.SyncTest(t, property)
		}
	})
	t.Logf("%d steps", made)
}

// machine is a store and the model, side by side.
type machine struct {
	h     Harness
	dir   string
	ctx   context.Context
	store diverted.Store
	model *model
	made  int

	told    []diverted.Change // to the watcher, since the last step
	watches bool
	issued  []diverted.Claim // the latest, stale ones among them
	notices []diverted.NoticeClaim
	fetched map[diverted.Key]diverted.DivertedEvent // as they once were, for deleteResent
}

func begin(t *rapid.T, h Harness) *machine {
	dir, err := os.MkdirTemp("", "modeltest")
	ok(t, err)
	m := &machine{h: h, dir: dir, ctx: t.Context(), model: &model{webhooks: make(map[diverted.WebhookKey]*webhook)}, fetched: make(map[diverted.Key]diverted.DivertedEvent)}
	if h.RealTime {
		m.model.slack = 5 * time.Second
	}
	t.Cleanup(func() {
		if m.store != nil {
			m.store.Close()
		}
		os.RemoveAll(dir)
	})
	m.open(t)
	return m
}

func (m *machine) open(t *rapid.T) {
	var err error
	m.store, err = m.h.Open(context.Background(), m.dir)
	ok(t, err)
	w, watches := m.store.(diverted.Watcher)
	if m.watches = watches && !m.h.RealTime; m.watches {
		w.Watch(func(c diverted.Change) { m.told = append(m.told, c) })
	}
}

func ok(t *rapid.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails fails the test unless the error of the store is the model's.
func fails(t *rapid.T, got, want error) {
	t.Helper()
	if want == nil && got != nil || !errors.Is(got, want) {
		t.Fatalf("error is %v, want %v", got, want)
	}
}

func equal(t *rapid.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%s is\n\t%+v\nwant\n\t%+v", what, got, want)
	}
}

// actions are the steps. Those that stand twice are drawn twice as often.
func (m *machine) actions() map[string]func(*rapid.T) {
	actions := map[string]func(*rapid.T){
		"":         m.check,
		"accept":   m.accept,
		"accept 2": m.accept,
		"work":     m.work,
		"work 2":   m.work,
		"work 3":   m.work,
		"divert":   m.divert,
		"resend":   m.resend,
		"delete":   m.deleteDiverted,
		"resent":   m.deleteResent,
		"put":      m.putWebhook,
		"create":   m.createWebhook,
		"update":   m.updateWebhook,
		"remove":   m.deleteWebhook,
		"suspend":  m.suspend,
		"unsuspend": func(t *rapid.T) {
			key := drawWebhookKey(t)
			fails(t, m.store.Unsuspend(m.ctx, key), m.model.unsuspend(key))
		},
		"list": m.list,
	}
	maps.Copy(actions, m.operate())
	if m.h.RealTime {
		actions["wait"] = func(t *rapid.T) {
			m.shift(t, -time.Minute*time.Duration(rapid.SampledFrom([]int{1, 5, 60}).Draw(t, "minutes")))
		}
	} else {
		actions["wait"] = func(t *rapid.T) {
			time.Sleep(time.Duration(rapid.Int64Range(1, int64(10*time.Minute)).Draw(t, "wait")))
		}
		actions["wait long"] = func(t *rapid.T) { time.Sleep(25 * time.Hour) }
	}
	if m.h.Durable {
		actions["reopen"] = func(t *rapid.T) { m.shift(t, 0) }
	}
	if m.h.Shift != nil {
		actions["set the clock"] = func(t *rapid.T) {
			m.shift(t, rapid.SampledFrom([]time.Duration{-time.Hour, time.Hour, 365 * 24 * time.Hour}).Draw(t, "back by"))
		}
	}
	return actions
}

// shift closes the store, moves its times, and opens it again.
func (m *machine) shift(t *rapid.T, d time.Duration) {
	ok(t, m.store.Close())
	if d != 0 {
		ok(t, m.h.Shift(m.ctx, m.dir, d))
	}
	m.open(t)
	m.model.shift(d)
}

func (m *machine) accept(t *rapid.T) {
	request := diverted.AcceptRequest{MaxPending: rapid.SampledFrom([]int{0, 0, 1, 3}).Draw(t, "most pending")}
	for range rapid.IntRange(1, 4).Draw(t, "messages") {
		request.Messages = append(request.Messages, drawMessage(t))
	}
	var b bounds
	if rapid.Bool().Draw(t, "claim") {
		request.Claim, b = m.drawClaim(t)
	}
	result, err := m.store.Accept(m.ctx, request)
	ok(t, err)
	equal(t, "number of answers", len(result.Messages), len(request.Messages))
	if request.Claim == nil {
		equal(t, "number of claims", len(result.Claims), 0)
	}
	ok(t, m.model.extend(b))
	handed := make(map[diverted.Key]diverted.Claim)
	size := 0
	for _, c := range result.Claims {
		t.Logf("handed back %s", name(c.Key))
		handed[c.Key] = c
		size += len(c.Body)
		if b.room != nil {
			b.room[c.Key.WebhookKey()]--
		}
	}
	equal(t, "claims within count", len(result.Claims) <= b.count, true)
	equal(t, "claims within bytes", size <= b.bytes || len(result.Claims) == 1, true)
	for _, left := range b.room {
		equal(t, "claims within the room", left >= 0, true)
	}
	for i, message := range request.Messages {
		want, err := m.model.accept(message, request.MaxPending, handed, b.lease)
		ok(t, err)
		got := result.Messages[i]
		fails(t, got.Err, want.Err)
		for i, a := range got.Deliveries {
			if errors.Is(a.Err, diverted.ErrFull) {
				got.Deliveries[i].Err = diverted.ErrFull
			}
		}
		equal(t, "answer", got.Deliveries, want.Deliveries)
	}
	equal(t, "claims of what was not accepted", len(handed), 0)
	m.remember(result.Claims, nil)
}

// remember keeps claims, so that later steps settle them, in time or not.
func (m *machine) remember(claims []diverted.Claim, notices []diverted.NoticeClaim) {
	m.issued = append(m.issued, claims...)
	m.issued = m.issued[max(0, len(m.issued)-24):]
	m.notices = append(m.notices, notices...)
	m.notices = m.notices[max(0, len(m.notices)-6):]
}

var kinds = []diverted.OutcomeKind{
	diverted.OutcomeDelivered, diverted.OutcomeRetry, diverted.OutcomeRetry, diverted.OutcomeDivert,
	diverted.OutcomeHold, diverted.OutcomeDrop, diverted.OutcomeReturn,
}

func (m *machine) drawOutcome(t *rapid.T) diverted.Outcome {
	c := m.issued[len(m.issued)-1-rapid.IntRange(0, len(m.issued)-1).Draw(t, "claim")]
	t.Logf("outcome of %s", name(c.Key))
	o := diverted.Outcome{Key: c.Key, Token: c.Token, Epoch: c.Epoch, Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	if o.Kind != diverted.OutcomeDelivered && o.Kind != diverted.OutcomeReturn {
		o.Failure = drawFailure(t)
		o.Alert = rapid.Bool().Draw(t, "alert")
		o.Suspend = rapid.IntRange(0, 3).Draw(t, "suspend") == 0
	}
	if o.Kind == diverted.OutcomeRetry {
		o.Wait = m.drawTime(t, "wait")
	}
	return o
}

func (m *machine) work(t *rapid.T) {
	request := diverted.WorkRequest{Refresh: rapid.Bool().Draw(t, "refresh")}
	if len(m.issued) > 0 {
		for range rapid.IntRange(0, 4).Draw(t, "outcomes") {
			request.Outcomes = append(request.Outcomes, m.drawOutcome(t))
		}
	}
	if len(m.notices) > 0 {
		for range rapid.IntRange(0, 1).Draw(t, "notices") {
			n := m.notices[rapid.IntRange(0, len(m.notices)-1).Draw(t, "notice")]
			request.Notices = append(request.Notices, diverted.NoticeOutcome{
				Webhook: n.Webhook.Key(), Token: n.Token,
				Done: rapid.Bool().Draw(t, "done"), Wait: m.drawTime(t, "window").Truncate(time.Millisecond),
			})
		}
	}
	var b bounds
	if rapid.IntRange(0, 3).Draw(t, "claim") > 0 {
		request.Claim, b = m.drawClaim(t)
	}
	result, err := m.store.Work(m.ctx, request)
	ok(t, err)

	for _, c := range result.Claims {
		t.Logf("claimed %s", name(c.Key))
	}
	t.Logf("%d notices claimed, next is %s", len(result.Notices), result.Next)
	equal(t, "number of answers", len(result.Settled), len(request.Outcomes))
	for i, o := range request.Outcomes {
		equal(t, fmt.Sprintf("answer %d", i), result.Settled[i], m.model.settle(o))
	}
	for _, o := range request.Notices {
		m.model.settleNotice(o)
	}
	if request.Claim == nil {
		equal(t, "number of claims", len(result.Claims)+len(result.Notices), 0)
		return
	}
	ok(t, m.model.extend(b))
	more, err := m.model.claims(result.Claims, b)
	ok(t, err)
	ok(t, m.model.claimNotices(result.Notices, request.Claim.Notices, b.lease))

	at, ready := m.model.next(b.short, request.Claim.Notices > 0)
	switch wait := at.Sub(now()); {
	case more && result.Next != 0:
		t.Fatalf("more is due than was allowed, and Next is %s", result.Next)
	case !ready && result.Next == 0 && len(result.Claims)+len(result.Notices) == 0:
		t.Fatal("nothing is due, and Next is 0: the caller would come again at once")
	case !at.IsZero() && (result.Next < 0 || result.Next > wait+m.model.slack):
		t.Fatalf("Next is %s, and something is due in %s", result.Next, wait)
	}
	m.remember(result.Claims, result.Notices)
}

func (m *machine) divert(t *rapid.T) {
	e := diverted.DivertedEvent{
		Key: drawKey(t), RequestLocator: events[0], Failure: *drawFailure(t), EventType: types[0],
		Attempts: rapid.IntRange(1, 3).Draw(t, "attempts"), Body: []byte(`{"from":"the host"}`),
	}
	if rapid.Bool().Draw(t, "at now") {
		e.Failure.At = time.Time{}
	}
	fails(t, m.store.Divert(m.ctx, e), m.model.divert(e))
}

func (m *machine) resend(t *rapid.T) {
	key := drawKey(t)
	fails(t, m.store.Resend(m.ctx, key), m.model.resend(key))
}

func (m *machine) deleteDiverted(t *rapid.T) {
	key := drawKey(t)
	fails(t, m.store.DeleteDiverted(m.ctx, key), m.model.deleteDiverted(key))
}

// deleteResent deletes an event as it stands, or as it was once fetched, since when it may have been diverted again.
func (m *machine) deleteResent(t *rapid.T) {
	key := drawKey(t)
	stands, err := m.store.FetchDiverted(m.ctx, key)
	event, old := m.fetched[key]
	delete(m.fetched, key)
	if !old || rapid.Bool().Draw(t, "as it stands") {
		event = stands
		event.Key = key // of none too
	}
	got := m.store.DeleteResent(m.ctx, event)
	if err == nil && !event.DivertedAt.Equal(stands.DivertedAt) {
		fails(t, got, diverted.ErrConflict)
		return
	}
	fails(t, got, m.model.deleteDiverted(key))
}

// drawWebhook draws a webhook that a caller saves.
func drawWebhook(t *rapid.T) diverted.Webhook {
	key := drawWebhookKey(t)
	w := diverted.Webhook{
		Tenant: key.Tenant, Locator: key.Webhook,
		Name:       rapid.SampledFrom([]string{"orders", "Rechnungen"}).Draw(t, "name"),
		Enabled:    rapid.IntRange(0, 3).Draw(t, "enabled") > 0,
		EventTypes: rapid.SampledFrom([][]string{{"*"}, {"order.*"}, {"invoice.sent", "order.paid"}}).Draw(t, "types"),
		Endpoint:   diverted.Endpoint{URL: "https://receiver.example/hook", Secret: rapid.SampledFrom(secrets).Draw(t, "secret")},
	}
	w.Endpoint.HMACEnabled = w.Endpoint.Secret != ""
	// What the store keeps, and a caller cannot set.
	w.SuspendedAt, w.Version = now(), int64(rapid.IntRange(1, 5).Draw(t, "version"))
	return w
}

func (m *machine) putWebhook(t *rapid.T) {
	m.save(t, drawWebhook(t), m.store.PutWebhook, m.model.putWebhook)
}
func (m *machine) createWebhook(t *rapid.T) {
	m.save(t, drawWebhook(t), m.store.CreateWebhook, m.model.createWebhook)
}

func (m *machine) updateWebhook(t *rapid.T) {
	w := drawWebhook(t)
	if stand := m.model.known(w.Key()); stand != nil && rapid.IntRange(0, 3).Draw(t, "stale") > 0 {
		w.Version = stand.value.Version
	}
	m.save(t, w, m.store.UpdateWebhook, m.model.updateWebhook)
}

func (m *machine) save(t *rapid.T, w diverted.Webhook, store func(context.Context, diverted.Webhook) (diverted.Webhook, error), model func(diverted.Webhook) (diverted.Webhook, error)) {
	got, err := store(m.ctx, w)
	want, wantErr := model(w)
	fails(t, err, wantErr)
	if err == nil {
		ok(t, m.model.sameWebhook(got, want))
	}
}

func (m *machine) deleteWebhook(t *rapid.T) {
	key, discard := drawWebhookKey(t), rapid.Bool().Draw(t, "discard")
	if rapid.IntRange(0, 3).Draw(t, "really") > 0 {
		t.Skip("rarely, since it makes everything simple")
	}
	fails(t, m.store.DeleteWebhook(m.ctx, key, discard), m.model.deleteWebhook(key, discard))
}

func (m *machine) suspend(t *rapid.T) {
	key := drawWebhookKey(t)
	fails(t, m.store.Suspend(m.ctx, key), m.model.suspend(key))
}

// list reads pages of everything, anywhere.
func (m *machine) list(t *rapid.T) {
	query := diverted.DivertedQuery{
		Webhook: drawWebhookKey(t),
		Offset:  rapid.IntRange(0, 3).Draw(t, "offset"),
		Limit:   rapid.IntRange(0, 3).Draw(t, "limit"),
	}
	if rapid.Bool().Draw(t, "cursor") {
		query.After = drawEvent(t)
	}
	w := m.model.webhooks[query.Webhook]
	m.lists(t, query, w)

	all := diverted.WebhookQuery{Tenant: query.Webhook.Tenant, After: query.After, Offset: query.Offset, Limit: query.Limit}
	all.EventTypes = rapid.SampledFrom([][]string{nil, {"order.paid"}, {"invoice.sent", "order.cancelled"}}).Draw(t, "types")
	all.Name = rapid.SampledFrom([]string{"", "", "orders"}).Draw(t, "name")
	for _, filter := range []**bool{&all.Enabled, &all.Suspended, &all.Active} {
		*filter = rapid.SampledFrom([]*bool{nil, nil, new(true), new(false)}).Draw(t, "filter")
	}
	page, err := m.store.ListWebhooks(m.ctx, all)
	ok(t, err)
	var want []diverted.Webhook
	for _, key := range keys() {
		if w := m.model.known(key); w != nil && all.Selects(w.value) && key.Webhook.Compare(all.After) > 0 {
			want = append(want, w.value)
		}
	}
	want, more := cut(want, all.Offset, all.Limit)
	equal(t, "more", page.More, more)
	equal(t, "number of webhooks", len(page.Webhooks), len(want))
	for i := range want {
		ok(t, m.model.sameWebhook(page.Webhooks[i], want[i]))
	}
}

// cut is what a page shows of all that a query selects.
func cut[T any](all []T, offset, limit int) ([]T, bool) {
	if limit == 0 {
		limit = diverted.DefaultPage
	}
	all = all[min(offset, len(all)):]
	return all[:min(limit, len(all))], len(all) > limit
}

// lists holds the pages of pending deliveries and of diverted events against the model.
func (m *machine) lists(t *rapid.T, query diverted.DivertedQuery, w *webhook) {
	after := func(all []*delivery) []*delivery {
		return slices.DeleteFunc(all, func(d *delivery) bool { return d.message.Event.Compare(query.After) <= 0 })
	}
	pending, err := m.store.ListPending(m.ctx, query)
	ok(t, err)
	want, more := cut(after(w.pending()), query.Offset, query.Limit)
	equal(t, "more pending", pending.More, more)
	equal(t, "number of pending", len(pending.Deliveries), len(want))
	for i, d := range want {
		got, want := pending.Deliveries[i], w.pendingDelivery(d)
		got.AcceptedAt, got.Due = m.model.near(got.AcceptedAt, want.AcceptedAt), m.model.near(got.Due, want.Due)
		if got.Failure != nil && want.Failure != nil {
			got.Failure.At = m.model.near(got.Failure.At, want.Failure.At)
			equal(t, "failure", *got.Failure, *want.Failure)
			got.Failure = want.Failure
		}
		if err := differ("pending delivery", got, want); err != nil {
			t.Fatalf("%s: %v", name(want.Key), err)
		}
	}

	aside, err := m.store.ListDiverted(m.ctx, query)
	ok(t, err)
	want, more = cut(after(w.aside()), query.Offset, query.Limit)
	equal(t, "more diverted", aside.More, more)
	equal(t, "number of diverted", len(aside.Events), len(want))
	for i, d := range want {
		event := d.divertedEvent()
		event.Body = nil
		m.sameDiverted(t, aside.Events[i], event)
	}
}

func (m *machine) sameDiverted(t *rapid.T, got, want diverted.DivertedEvent) {
	got.AcceptedAt, got.DivertedAt = m.model.near(got.AcceptedAt, want.AcceptedAt), m.model.near(got.DivertedAt, want.DivertedAt)
	got.Failure.At = m.model.near(got.Failure.At, want.Failure.At)
	got.Failures = nil
	if got.Expunged && len(got.Body) == 0 {
		got.Body = nil
	}
	ok(t, differ("diverted event", got, want))
}

// check holds all that the store shows against the model. It comes after every step.
func (m *machine) check(t *rapid.T) {
	m.made++
	if m.watches {
		equal(t, "what the watcher was told", m.told, m.model.changes)
	}
	m.told, m.model.changes = nil, nil
	for _, key := range keys() {
		w := m.model.webhooks[key]
		got, err := m.store.FetchWebhook(m.ctx, key)
		if w == nil || !w.known {
			fails(t, err, diverted.ErrNotFound)
		} else {
			ok(t, err)
			ok(t, m.model.sameWebhook(got, w.value))
		}
		m.lists(t, diverted.DivertedQuery{Webhook: key}, w)
	}
	key := drawKey(t)
	event, err := m.store.FetchDiverted(m.ctx, key)
	if _, d := m.model.find(key); d == nil || !d.diverted {
		fails(t, err, diverted.ErrNotFound)
	} else {
		ok(t, err)
		m.sameFailures(t, event.Failures, d)
		m.sameDiverted(t, event, d.divertedEvent())
		if _, there := m.fetched[key]; !there {
			m.fetched[key] = event
		}
	}
}
