package diverted_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// tenant owns the webhooks of these tests.
var tenant = uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")

// stores are those that behaviour is tested on.
var stores = []struct {
	name string
	open func(t *testing.T) diverted.Store
}{
	{"memory", func(*testing.T) diverted.Store { return diverted.NewMemoryStore() }},
	{"sqlite", func(t *testing.T) diverted.Store {
		store, err := diverted.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "webhooks.db"))
		if err != nil {
			t.Fatal(err)
		}
		return store
	}},
}

// inFakeTime runs a test on every store, in a bubble of its own.
func inFakeTime(t *testing.T, f func(t *testing.T, w *world)) {
	for _, s := range stores {
		t.Run(s.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{t: t, is: is.New(t), ctx: t.Context(), store: s.open(t), receiver: &receiver{}}
				w.config = diverted.Config{Transport: w.receiver, Jitter: -1, Logger: slog.New(slog.NewTextHandler(&w.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
				store := w.store
				t.Cleanup(func() { w.is.NoErr(store.Close()) })
				t.Cleanup(w.stop)
				f(t, w)
			})
		})
	}
}

// world is a store, a dispatcher on it, and the receiver of its messages.
type world struct {
	t        *testing.T
	is       *is.I
	ctx      context.Context
	store    diverted.Store
	config   diverted.Config
	receiver *receiver
	log      lockedBuffer
	d        *diverted.Dispatcher
	cancel   context.CancelFunc
	ran      chan error
	sent     int

	mu       sync.Mutex
	observed map[string]int
}

// observe has an observer count what happens; seen says how often something did.
func (w *world) observe() {
	w.observed = map[string]int{}
	count := func(what string) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.observed[what]++
	}
	attempt := func(what string) func(diverted.Attempt) { return func(diverted.Attempt) { count(what) } }
	key := func(what string) func(diverted.Key) { return func(diverted.Key) { count(what) } }
	webhook := func(what string) func(diverted.WebhookKey) { return func(diverted.WebhookKey) { count(what) } }
	w.config.Observer = diverted.Observer{
		Accepted: key("accepted"), Resent: key("resent"), Deleted: key("deleted"),
		Attempted: attempt("attempted"), Delivered: attempt("delivered"), Retried: attempt("retried"),
		Held: attempt("held"), Diverted: attempt("diverted"), Dropped: attempt("dropped"),
		Suspended: webhook("suspended"), Unsuspended: webhook("unsuspended"),
		Alerted: func(_ diverted.WebhookKey, _ diverted.Notice, err error) {
			if err != nil {
				count("alert given up")
			} else {
				count("alerted")
			}
		},
	}
}

func (w *world) seen(what string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.observed[what]
}

// tampered is a store, without the power to tell of changes, whose calls of Work can be tampered with.
type tampered struct {
	diverted.Store
	// before fails a call before it does anything; after fails one that is done.
	before, after func(diverted.WorkRequest) error
	result        func(*diverted.WorkResult)
	// accepted is called when a call of Accept is done, before it returns.
	accepted func(diverted.AcceptResult)
	works    atomic.Int64
	mu       sync.Mutex // guards the functions once the dispatcher runs
}

// do changes how the store is tampered with.
func (s *tampered) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *tampered) Accept(ctx context.Context, request diverted.AcceptRequest) (diverted.AcceptResult, error) {
	result, err := s.Store.Accept(ctx, request)
	if s.accepted != nil {
		s.accepted(result)
	}
	return result, err
}

func (s *tampered) Work(ctx context.Context, request diverted.WorkRequest) (diverted.WorkResult, error) {
	s.works.Add(1)
	s.mu.Lock()
	before, after, tamper := s.before, s.after, s.result
	s.mu.Unlock()
	if before != nil {
		if err := before(request); err != nil {
			return diverted.WorkResult{}, err
		}
	}
	result, err := s.Store.Work(ctx, request)
	if err == nil && after != nil {
		err = after(request)
	}
	if err != nil {
		return diverted.WorkResult{}, err
	}
	if tamper != nil {
		tamper(&result)
	}
	return result, nil
}

// dispatcher returns the dispatcher, made with the configuration at its first use.
func (w *world) dispatcher() *diverted.Dispatcher {
	if w.d == nil {
		var err error
		w.d, err = diverted.NewDispatcher(w.store, w.config)
		w.is.NoErr(err)
	}
	return w.d
}

// run has the dispatcher run, until stop.
func (w *world) run() {
	d := w.dispatcher()
	ctx, cancel := context.WithCancel(w.ctx)
	w.cancel, w.ran = cancel, make(chan error, 1)
	go func() { w.ran <- d.Run(ctx) }()
	synctest.Wait()
}

// tamper puts a tampered store in the place of the store.
func (w *world) tamper() *tampered {
	s := &tampered{Store: w.store}
	w.store = s
	return s
}

// stop ends run, if it runs.
func (w *world) stop() {
	if w.cancel == nil {
		return
	}
	w.cancel()
	w.cancel = nil
	w.is.NoErr(<-w.ran)
}

// sleep lets time pass, and everything happen that happens by then.
func (w *world) sleep(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// webhook saves a webhook to https://receiver.example/NAME for all event types.
func (w *world) webhook(name string, change ...func(*diverted.Webhook)) diverted.WebhookKey {
	w.t.Helper()
	hook := diverted.NewWebhook(tenant, name, "https://receiver.example/"+name, "*")
	for _, f := range change {
		f(&hook)
	}
	_, err := w.store.PutWebhook(w.ctx, hook)
	w.is.NoErr(err)
	return hook.Key()
}

// handling sets a webhook's failure handling.
func handling(h diverted.FailureHandling) func(*diverted.Webhook) {
	return func(w *diverted.Webhook) { w.FailureHandling = &h }
}

// disabled makes a webhook that is not enabled.
func disabled(w *diverted.Webhook) { w.Enabled = false }

// retries is a strategy of n retries, one every minute.
func retries(n int) *diverted.RetryStrategy {
	return &diverted.RetryStrategy{Attempts: n, Interval: time.Minute, Type: diverted.Linear}
}

// event returns the next of the real payloads as an event.
func (w *world) event() diverted.Event {
	w.t.Helper()
	payloads := testdata.Payloads()
	p := payloads[w.sent%len(payloads)]
	w.sent++
	event, err := diverted.NewEvent(p.Type, p.Data)
	w.is.NoErr(err)
	return event
}

// send sends a new event to a webhook, and lets happen what happens at once.
func (w *world) send(webhook diverted.WebhookKey) diverted.Key {
	w.t.Helper()
	event := w.event()
	a, err := w.dispatcher().Send(w.ctx, webhook.Tenant, webhook.Webhook, event)
	w.is.NoErr(err)
	w.is.Equal(a.Status, diverted.Accepted)
	synctest.Wait()
	return diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: event.Locator}
}

// pending returns the pending deliveries of a webhook, diverted its diverted events.
func (w *world) pending(webhook diverted.WebhookKey) []diverted.PendingDelivery {
	w.t.Helper()
	page, err := w.store.ListPending(w.ctx, diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	w.is.NoErr(err)
	return page.Deliveries
}

func (w *world) diverted(webhook diverted.WebhookKey) []diverted.DivertedEvent {
	w.t.Helper()
	page, err := w.store.ListDiverted(w.ctx, diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
	w.is.NoErr(err)
	return page.Events
}

// gone says that a webhook has neither.
func (w *world) gone(webhook diverted.WebhookKey) bool {
	w.t.Helper()
	return len(w.pending(webhook)) == 0 && len(w.diverted(webhook)) == 0
}

func (w *world) suspended(webhook diverted.WebhookKey) bool {
	w.t.Helper()
	hook, err := w.store.FetchWebhook(w.ctx, webhook)
	w.is.NoErr(err)
	return hook.Suspended()
}

// receiver is a scripted transport. It answers 200 unless answer says otherwise.
type receiver struct {
	mu       sync.Mutex
	messages []message
	// answer is told the message, which is the nth of that path, from 1. It may take its time.
	answer func(m message, n int) response
	counts map[string]int
	// inTurn has answer called under mu.
	inTurn bool
}

// message is a request that arrived.
type message struct {
	at      time.Time
	path    string
	id      string
	body    []byte
	header  http.Header
	context context.Context
}

// response is what a receiver answers.
type response struct {
	status int
	after  time.Duration
	header http.Header
	reader io.Reader
	err    error
}

func status(code int) func(message, int) response {
	return func(message, int) response { return response{status: code} }
}

func (r *receiver) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	req.Body.Close()
	m := message{
		at: time.Now(), path: req.URL.Path, id: req.Header.Get("webhook-id"), body: body, header: req.Header,
		context: req.Context(),
	}
	r.mu.Lock()
	r.messages = append(r.messages, m)
	if r.counts == nil {
		r.counts = map[string]int{}
	}
	r.counts[m.path]++
	n, answer := r.counts[m.path], r.answer
	a := response{status: http.StatusOK}
	if answer != nil && r.inTurn {
		a = answer(m, n)
	}
	inTurn := r.inTurn
	r.mu.Unlock()
	if answer != nil && !inTurn {
		a = answer(m, n)
	}
	if a.after > 0 {
		select {
		case <-time.After(a.after):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	if a.err != nil {
		return nil, a.err
	}
	if a.header == nil {
		a.header = http.Header{}
	}
	if a.reader == nil {
		a.reader = http.NoBody
	}
	return &http.Response{StatusCode: a.status, Header: a.header, Body: io.NopCloser(a.reader), Request: req}, nil
}

func (r *receiver) do(f func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f()
}

// answers sets what is answered from now on.
func (r *receiver) answers(answer func(m message, n int) response) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

// got returns the messages that arrived at a path, in order, or all of them.
func (r *receiver) got(path ...string) []message {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(path) == 0 {
		return slices.Clone(r.messages)
	}
	return slices.DeleteFunc(slices.Clone(r.messages), func(m message) bool { return m.path != "/"+path[0] })
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *lockedBuffer) count(text string) int {
	return bytes.Count([]byte(b.String()), []byte(text))
}

func TestADispatcherNeedsAStoreAndAValidConfig(t *testing.T) {
	is := is.New(t)
	_, err := diverted.NewDispatcher(nil, diverted.Config{})
	is.True(errors.Is(err, diverted.ErrInvalid))
	_, err = diverted.NewDispatcher(diverted.NewMemoryStore(), diverted.Config{MaxInFlight: -1})
	is.True(errors.Is(err, diverted.ErrInvalid))
	for _, agent := range []string{"shop\n1", " shop", strings.Repeat("x", 257)} { // no request would go out with it
		is.True(errors.Is(diverted.Config{UserAgent: agent}.Validate(), diverted.ErrInvalid))
	}
}

func TestSendRefusesWhatCannotBeSent(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		d := w.dispatcher()
		for _, tt := range []struct {
			name    string
			tenant  uuid.UUID
			webhook ulid.ULID
			event   diverted.Event
			want    error
		}{
			{"unknown webhook", tenant, ulid.Make(), w.event(), diverted.ErrNotFound},
			{"webhook of another tenant", uuid.New(), hook.Webhook, w.event(), diverted.ErrNotFound},
			{"no webhook", tenant, ulid.ULID{}, w.event(), diverted.ErrInvalid},
			{"no tenant", uuid.Nil, hook.Webhook, w.event(), diverted.ErrInvalid},
			{"no event", tenant, hook.Webhook, diverted.Event{}, diverted.ErrInvalid},
		} {
			_, err := d.Send(w.ctx, tt.tenant, tt.webhook, tt.event)
			if !errors.Is(err, tt.want) {
				t.Errorf("%s: got %v, want %v", tt.name, err, tt.want)
			}
		}
		ctx, cancel := context.WithCancel(w.ctx)
		cancel()
		_, err := d.Send(ctx, tenant, hook.Webhook, w.event())
		w.is.True(errors.Is(err, context.Canceled))
		w.is.True(w.gone(hook))
	})
}

func TestAFreshEventIsAttemptedAtOnceWhileRunRuns(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		w.run()
		began := time.Now()
		key := w.send(hook)
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(w.receiver.got()[0].id, key.Event.String())
		w.is.Equal(time.Since(began), time.Duration(0)) // no poll
		w.is.True(w.gone(hook))
	})
}

func TestACallerThatCanBeCancelledIsServedAsWell(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		w.run()
		ctx, cancel := context.WithCancel(w.ctx)
		defer cancel()
		_, err := w.dispatcher().Send(ctx, tenant, hook.Webhook, w.event())
		w.is.NoErr(err)
		synctest.Wait()
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.True(w.gone(hook))
	})
}

func TestOneRunOrFlushAtATimeAndRunAgainAfterItEnded(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		w.run()
		w.is.True(errors.Is(w.d.Run(w.ctx), diverted.ErrConflict))
		w.is.True(errors.Is(w.d.Flush(w.ctx), diverted.ErrConflict))
		w.stop()
		w.send(hook)
		w.is.Equal(len(w.receiver.got()), 0)
		w.run()
		w.is.Equal(len(w.receiver.got()), 1)
	})
}

// settling is a store whose second call of Work settles, and fails before it has claimed.
type settling struct {
	diverted.Store
	works int
}

func (s *settling) Work(ctx context.Context, request diverted.WorkRequest) (diverted.WorkResult, error) {
	if s.works++; s.works != 2 {
		return s.Store.Work(ctx, request)
	}
	request.Claim = nil
	result, err := s.Store.Work(ctx, request)
	result.Next = 0 // more may be due
	return result, err
}

func TestFlushLooksAgainAfterAClaimThatFailedBesideASettlement(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.config.MaxInFlight = 1
		w.store = &settling{Store: w.store}
		hook := w.webhook("a")
		w.send(hook)
		w.send(hook)
		w.is.NoErr(w.d.Flush(w.ctx))
		w.is.Equal(len(w.receiver.got("a")), 2)
		w.is.True(w.gone(hook))
	})
}

func TestFlushAttemptsWhatIsDueAndLeavesRetriesThatWait(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		good, bad := w.webhook("good"), w.webhook("bad")
		w.receiver.answers(func(m message, n int) response {
			if m.path == "/bad" {
				return response{status: 503}
			}
			return response{status: 200, after: time.Second}
		})
		for range 50 {
			w.send(good)
			w.send(bad)
		}
		w.is.NoErr(w.dispatcher().Flush(w.ctx))
		w.is.True(w.gone(good))
		w.is.Equal(len(w.pending(bad)), 50)
		w.is.Equal(len(w.receiver.got("bad")), 50)
		w.is.NoErr(w.dispatcher().Flush(w.ctx)) // nothing is due
		w.is.Equal(len(w.receiver.got()), 100)
	})
}
