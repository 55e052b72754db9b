package faultstore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/faultstore"
	"github.com/divertedevents/diverted/internal/testdata"
)

// methods are all methods of a store that a fault can befall.
var methods = []string{
	"Accept", "Work", "ListPending",
	"Divert", "FetchDiverted", "ListDiverted", "Resend", "DeleteDiverted", "DeleteResent",
	"PutWebhook", "CreateWebhook", "UpdateWebhook", "FetchWebhook", "ListWebhooks", "DeleteWebhook", "Suspend", "Unsuspend",
	"ResendAll", "DeleteAll", "DivertAll", "Stats", "Purge", "Expunge",
}

var errDisk = errors.New("the disk is on fire")

// faults are what goes wrong with a method, for half a minute.
var faults = []struct {
	name  string
	fault faultstore.Fault
}{
	{"fails", faultstore.Fault{Err: errDisk}},
	{"answer lost", faultstore.Fault{Err: errDisk, After: true}},
	{"locked", faultstore.Fault{Err: diverted.ErrLocked}},
	{"full", faultstore.Fault{Err: diverted.ErrFull}},
	{"read-only", faultstore.Fault{Err: diverted.ErrReadOnly}},
	{"damaged", faultstore.Fault{Err: diverted.ErrDamaged}},
	{"slow", faultstore.Fault{Delay: 3 * time.Second}},
	{"slow, fails", faultstore.Fault{Delay: 3 * time.Second, Err: errDisk}},
	{"slow, answer lost", faultstore.Fault{Delay: 3 * time.Second, Err: errDisk, After: true}},
	{"hangs", faultstore.Fault{Hang: true}},
	{"hangs after", faultstore.Fault{Hang: true, After: true}},
	{"content refused", faultstore.Fault{Err: diverted.ErrInvalid}},
}

// The invariant: what was acknowledged is delivered, diverted, dropped by the rules, or deleted by someone,
// and received once, byte for byte. It holds whatever fails, in one process without a crash. How often it was
// broken, and whether the dispatcher logged the fault, is the table in docs/reliability.md.
func TestWhateverFailsNothingIsLostAndNothingIsSentTwice(t *testing.T) {
	header := []string{"method"}
	for _, f := range faults {
		header = append(header, f.name)
	}
	table := row(header) + strings.Repeat("|---", len(header)) + "|\n"
	for _, method := range methods {
		cells := []string{method}
		for _, f := range faults {
			t.Run(method+" "+f.name, func(t *testing.T) {
				if testing.Short() && method != "Accept" && method != "Work" {
					t.Skip("it takes a minute: the dispatcher's own calls are tried alone")
				}
				synctest.Test(t, func(t *testing.T) {
					fault := f.fault
					fault.Method = method
					cells = append(cells, play(t, fault))
				})
			})
		}
		table += row(cells)
	}
	docs, err := os.ReadFile("../../docs/reliability.md")
	if err != nil {
		t.Fatal(err)
	}
	if complete := strings.Count(table, "|") == (len(methods)+2)*(len(faults)+2); complete && !strings.Contains(string(docs), table) {
		t.Errorf("docs/reliability.md has another table than\n%s", table)
	}
}

func row(cells []string) string { return "| " + strings.Join(cells, " | ") + " |\n" }

// play runs a service over a store that fails between the 10th and the 40th second, and judges it: how often
// the invariant was broken, and whether the fault was logged.
func play(t *testing.T, fault faultstore.Fault) (verdict string) {
	s := newService(t)
	running, stop := context.WithCancel(t.Context())
	ran := make(chan struct{})
	go func() { // as a supervisor does
		defer close(ran)
		for running.Err() == nil {
			if err := s.dispatcher.Run(running); err != nil {
				t.Logf("Run: %v", err)
				time.Sleep(time.Second)
			}
		}
	}()
	working, done := context.WithTimeout(t.Context(), time.Minute)
	defer done()
	var group sync.WaitGroup
	for i := range 3 {
		group.Go(func() { s.send(working, rand.New(rand.NewPCG(1, uint64(i)))) })
	}
	group.Go(func() { s.operate(working, rand.New(rand.NewPCG(2, 0))) })

	time.Sleep(10 * time.Second)
	before := s.store.Calls(fault.Method)
	s.store.Break(fault)
	time.Sleep(30 * time.Second)
	during, failed := s.store.Calls(fault.Method)-before, s.store.Failed(fault.Method)
	s.store.Heal()
	group.Wait()
	if failed == 0 {
		t.Fatal("the test proves nothing: the fault befell no call")
	}
	if fault.Method == "Work" && fault.Err != nil && during > 150 {
		t.Errorf("the dispatcher called a store that does not work %d times in 30 s", during)
	}

	for range 100 { // and let it come to rest: some events suspend their webhook again
		if err := s.store.Unsuspend(t.Context(), s.hooks["suspend"].Key()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		if len(s.pending("suspend")) == 0 {
			break
		}
	}
	stop()
	<-ran
	s.judge(fault)
	if err := s.store.Close(); err != nil {
		t.Error(err)
	}
	verdict = fmt.Sprint(s.breaks)
	if strings.Contains(s.log.String(), "level=ERROR") {
		verdict += ", logged"
	}
	return verdict
}

// service is a host with a dispatcher, the receivers of its webhooks, and their logs.
type service struct {
	t          *testing.T
	store      *faultstore.Store
	dispatcher *diverted.Dispatcher
	hooks      map[string]diverted.Webhook
	log        lockedBuffer

	mu           sync.Mutex
	acknowledged map[diverted.Key][]byte // the body
	deleted      map[diverted.Key]bool
	repeated     map[diverted.Key]bool // sends that failed at first
	attempts     map[diverted.Key]int
	received     map[diverted.Key][][]byte
	breaks       int // of the invariant
}

// broken says how the invariant was broken. mu is held.
func (s *service) broken(format string, args ...any) {
	s.t.Helper()
	s.t.Errorf(format, args...)
	s.breaks++
}

// payloads are the smallest of the real ones, so that the table is quick.
var payloads = sync.OnceValue(func() []testdata.Payload {
	all := slices.Clone(testdata.Payloads())
	slices.SortFunc(all, func(a, b testdata.Payload) int { return len(a.Data) - len(b.Data) })
	return all[:16]
})

var tenant = uuid.MustParse("5b0c7a3e-6f0d-4a53-9d6b-2a1c8e4f7b10")

func newService(t *testing.T) *service {
	s := &service{
		t: t, store: faultstore.New(diverted.NewMemoryStore()), hooks: make(map[string]diverted.Webhook),
		acknowledged: make(map[diverted.Key][]byte), deleted: make(map[diverted.Key]bool),
		repeated: make(map[diverted.Key]bool),
		attempts: make(map[diverted.Key]int), received: make(map[diverted.Key][][]byte),
	}
	retry := &diverted.RetryStrategy{Attempts: 5, Interval: 7 * time.Second, Type: diverted.Linear}
	for name, handling := range map[string]diverted.FailureHandling{
		"good":     {Retry: retry, Divert: true},
		"flaky":    {Retry: retry, Divert: true},
		"failing":  {Divert: true},
		"suspend":  {Suspend: true},
		"careless": {},
	} {
		w := diverted.NewWebhook(tenant, name, "https://receiver.example/"+name, "github.*")
		w.FailureHandling = &handling
		w, err := s.store.CreateWebhook(t.Context(), w)
		if err != nil {
			t.Fatal(err)
		}
		s.hooks[name] = w
	}
	var err error
	s.dispatcher, err = diverted.NewDispatcher(s.store, diverted.Config{
		Transport: s, Logger: slog.New(slog.NewTextHandler(&s.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// RoundTrip is all receivers: each behaves as its name says.
func (s *service) RoundTrip(r *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	r.Body.Close()
	name := strings.TrimPrefix(r.URL.Path, "/")
	event, err := ulid.ParseStrict(r.Header.Get("webhook-id"))
	if err != nil {
		return nil, err
	}
	key := diverted.Key{Tenant: tenant, Webhook: s.hooks[name].Locator, Event: event}
	select {
	case <-time.After(50 * time.Millisecond):
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts[key]++
	n, status := s.attempts[key], http.StatusOK
	switch {
	case name == "flaky" && n == 1, name == "suspend" && n == 1 && event[15]%8 == 0:
		status = http.StatusServiceUnavailable
	case name == "failing" && (n == 1 || event[15]%2 == 0), name == "careless" && event[15]%2 == 0:
		status = http.StatusNotFound
	default:
		s.received[key] = append(s.received[key], body)
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// persist repeats a call until it succeeds, or says that there is nothing to do. Every call has 5 s.
func (s *service) persist(call func(ctx context.Context) error, nothing ...error) error {
	for {
		ctx, cancel := context.WithTimeout(s.t.Context(), 5*time.Second)
		err := call(ctx)
		cancel()
		if err == nil {
			return nil
		}
		for _, n := range nothing {
			if errors.Is(err, n) {
				return err
			}
		}
		time.Sleep(time.Second)
	}
}

// send sends events to all webhooks.
func (s *service) send(ctx context.Context, random *rand.Rand) {
	names := []string{"good", "flaky", "failing", "suspend", "careless"}
	for ctx.Err() == nil {
		hook := s.hooks[names[random.IntN(len(names))]]
		p := payloads()[random.IntN(len(payloads()))]
		event, err := diverted.NewEvent(p.Type, p.Data)
		if err != nil {
			s.t.Error(err)
			return
		}
		body, err := event.Encode()
		if err != nil {
			s.t.Error(err)
			return
		}
		key := diverted.Key{Tenant: tenant, Webhook: hook.Locator, Event: event.Locator}
		s.persist(func(ctx context.Context) error {
			_, err := s.dispatcher.Send(ctx, tenant, hook.Locator, event)
			s.mu.Lock()
			s.repeated[key] = s.repeated[key] || err != nil
			s.mu.Unlock()
			return err
		})
		s.mu.Lock()
		s.acknowledged[key] = body
		s.mu.Unlock()
		time.Sleep(time.Duration(random.Int64N(int64(300 * time.Millisecond))))
	}
}

// operate does all that people and hosts do beside sending.
func (s *service) operate(ctx context.Context, random *rand.Rand) {
	for ctx.Err() == nil {
		failing, suspend := s.hooks["failing"].Key(), s.hooks["suspend"].Key()
		s.persist(func(ctx context.Context) error {
			page, err := s.store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: failing, Limit: 2})
			if err != nil {
				return err
			}
			for _, e := range page.Events {
				if random.IntN(2) == 0 {
					s.persist(func(ctx context.Context) error { return s.store.Resend(ctx, e.Key) }, diverted.ErrNotFound)
					continue
				}
				s.persist(func(ctx context.Context) error {
					if random.IntN(2) == 0 {
						return s.store.DeleteDiverted(ctx, e.Key)
					}
					return s.store.DeleteResent(ctx, e) // as a host does that sent it
				}, diverted.ErrNotFound)
				s.mu.Lock()
				s.deleted[e.Key] = true
				s.mu.Unlock()
			}
			return nil
		})
		s.persist(func(ctx context.Context) error { return s.store.Suspend(ctx, suspend) })
		s.persist(func(ctx context.Context) error {
			_, err := s.store.ListPending(ctx, diverted.DivertedQuery{Webhook: suspend})
			return err
		})
		if random.IntN(3) == 0 { // what is claimed is taken too, so it is not resent
			s.persist(func(ctx context.Context) error {
				_, err := s.store.DivertAll(ctx, diverted.BulkRequest{Webhook: suspend})
				return err
			})
		}
		s.persist(func(ctx context.Context) error { return s.store.Unsuspend(ctx, suspend) })
		s.bulk(random, failing)
		s.persist(func(ctx context.Context) error { // changed as over HTTP: read, and saved if nobody was faster
			w, err := s.store.FetchWebhook(ctx, suspend)
			if err != nil {
				return err
			}
			_, err = s.store.UpdateWebhook(ctx, w)
			return err
		})
		s.persist(func(ctx context.Context) error { _, err := s.store.PutWebhook(ctx, s.hooks["good"]); return err })
		s.persist(func(ctx context.Context) error {
			_, err := s.store.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: tenant})
			return err
		})
		other := diverted.NewWebhook(tenant, "short-lived", "https://receiver.example/good", "none")
		s.persist(func(ctx context.Context) error { _, err := s.store.CreateWebhook(ctx, other); return err }, diverted.ErrConflict)
		s.divert(random, other)
		s.persist(func(ctx context.Context) error { return s.store.DeleteWebhook(ctx, other.Key(), true) }, diverted.ErrNotFound)
		time.Sleep(time.Second)
	}
}

// bulk resends or deletes all that is diverted, and does what else an operator does now and then.
func (s *service) bulk(random *rand.Rand, webhook diverted.WebhookKey) {
	request := diverted.BulkRequest{Webhook: webhook, Before: time.Now()}
	if random.IntN(2) == 0 {
		s.persist(func(ctx context.Context) error { _, err := s.store.ResendAll(ctx, request); return err })
	} else {
		s.persist(func(ctx context.Context) error {
			page, err := s.store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: webhook, Limit: diverted.MaxPage})
			if err != nil {
				return err
			}
			s.mu.Lock()
			for _, e := range page.Events {
				s.deleted[e.Key] = true
			}
			s.mu.Unlock()
			_, err = s.store.DeleteAll(ctx, request)
			return err
		})
	}
	s.persist(func(ctx context.Context) error {
		_, err := s.store.Stats(ctx, diverted.StatsQuery{Hours: 1})
		return err
	})
	s.persist(func(ctx context.Context) error { // nothing is as old
		_, err := s.store.Purge(ctx, diverted.PurgeRequest{Retention: diverted.Retention{MaxAge: 24 * time.Hour}})
		return err
	})
}

// divert sets an event aside, as a host does that delivers by itself, finds it there, and has its body forgotten.
func (s *service) divert(random *rand.Rand, hook diverted.Webhook) {
	p := payloads()[random.IntN(len(payloads()))]
	aside := diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: tenant, Webhook: hook.Locator, Event: ulid.Make()},
		RequestLocator: ulid.Make(), EventType: p.Type, Body: p.Data,
		Failure: diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503},
	}
	s.persist(func(ctx context.Context) error { return s.store.Divert(ctx, aside) })
	s.persist(func(ctx context.Context) error {
		got, err := s.store.FetchDiverted(ctx, aside.Key)
		if errors.Is(err, diverted.ErrNotFound) || err == nil && !bytes.Equal(got.Body, p.Data) {
			s.mu.Lock()
			s.broken("a diverted event is not as it was: %v", err)
			s.mu.Unlock()
			return nil
		}
		return err
	})
	s.persist(func(ctx context.Context) error { return s.store.Expunge(ctx, aside.Key) })
}

func (s *service) pending(name string) []diverted.PendingDelivery {
	page, err := s.store.ListPending(s.t.Context(), diverted.DivertedQuery{Webhook: s.hooks[name].Key(), Limit: diverted.MaxPage})
	if err != nil {
		s.t.Fatal(err)
	}
	return page.Deliveries
}

// judge holds what was acknowledged against the receivers' logs and the store.
func (s *service) judge(fault faultstore.Fault) {
	t := s.t
	s.mu.Lock()
	defer s.mu.Unlock()
	aside := make(map[diverted.Key]bool)
	for name, hook := range s.hooks {
		for _, p := range s.pending(name) {
			s.broken("at %s %s is still pending, after %d attempts", name, p.Event, p.Attempts)
		}
		page, err := s.store.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: hook.Key(), Limit: diverted.MaxPage})
		if err != nil || page.More {
			t.Fatal("more is diverted than a page holds: ", err)
		}
		for _, e := range page.Events {
			aside[e.Key] = true
		}
	}
	ends := make(map[string]int)
	for key, body := range s.acknowledged {
		received := s.received[key]
		switch {
		case len(received) > 0:
			ends["delivered"]++
		case aside[key]:
			ends["diverted"]++
		case s.deleted[key]:
			ends["deleted"]++
		case key.Webhook == s.hooks["careless"].Locator && s.attempts[key] > 0: // it failed, and nothing is to be done
			ends["dropped"]++
		default:
			s.broken("%s is lost after %d attempts", key.Event, s.attempts[key])
		}
		// A send that failed may have been delivered before it is repeated, and then it is delivered again. An
		// outcome that the store refuses for its content is given up, and the lease is lost.
		explained := s.repeated[key] || fault.Method == "Work" && errors.Is(fault.Err, diverted.ErrInvalid)
		if len(received) > 1 && !explained {
			s.broken("%s was received %d times", key.Event, len(received))
		}
		for _, got := range received {
			if !bytes.Equal(got, body) {
				s.broken("%s was received with another body", key.Event)
			}
		}
		if key.Webhook == s.hooks["good"].Locator && s.attempts[key] > 1 && !explained {
			s.broken("%s was posted %d times to a receiver that took it at once", key.Event, s.attempts[key])
		}
	}
	for _, end := range []string{"delivered", "diverted", "deleted", "dropped"} {
		if ends[end] == 0 {
			t.Errorf("the test proves nothing: nothing was %s", end)
		}
	}

	// What went wrong is said, and said once: by the error of the call, or if it is the dispatcher's own, in
	// its log.
	lines := strings.Count(s.log.String(), "level=ERROR")
	switch {
	case fault.Method != "Work" && lines > 0, fault.Method == "Work" && lines > 1 && !errors.Is(fault.Err, diverted.ErrInvalid):
		t.Errorf("%d errors are logged:\n%s", lines, s.log.String())
	case fault.Method == "Work" && (fault.Err != nil || fault.Hang) && lines == 0:
		t.Error("what went wrong is not logged")
	}
	t.Log(fmt.Sprintf("%d acknowledged: ", len(s.acknowledged)), ends)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
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
