package crashtest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash/fnv"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// id is an event at a webhook.
type id struct {
	webhook string
	event   string
}

// ledger is what the services said: what they accepted, and what they may have deleted.
type ledger struct {
	mu       sync.Mutex
	accepted map[id]string // the hash of the body
	deleting map[id]bool
	resent   map[id]bool // by the host, after an error
	timeouts map[id]int  // attempts that got no answer in time
	settled  map[settlement]bool
	kills    map[int]time.Time // by generation
	outages  []span            // of the store's server
}

// settlement is a delivery that a service said it had settled.
type settlement struct {
	generation string
	event      id
}

// span is a time in which no service could settle anything.
type span struct{ from, to time.Time }

func newLedger() *ledger {
	return &ledger{accepted: make(map[id]string), deleting: make(map[id]bool), resent: make(map[id]bool), timeouts: make(map[id]int), settled: make(map[settlement]bool), kills: make(map[int]time.Time)}
}

// note reads a line of a service's. A line that a kill cut short was not acknowledged.
func (l *ledger) note(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f := strings.Fields(line); {
	case len(f) == 4 && f[0] == "accepted" && len(f[3]) == 2*sha256.Size:
		l.accepted[id{f[1], f[2]}] = f[3]
	case len(f) == 3 && f[0] == "deleting":
		l.deleting[id{f[1], f[2]}] = true
	case len(f) == 3 && f[0] == "resending":
		l.resent[id{f[1], f[2]}] = true
	case len(f) == 3 && f[0] == "timeout":
		l.timeouts[id{f[1], f[2]}]++
	case len(f) == 4 && f[0] == "settled":
		l.settled[settlement{f[1], id{f[2], f[3]}}] = true
	}
}

func (l *ledger) killed(generation int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.kills[generation] = time.Now()
}

func (l *ledger) outage(from, to time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.outages = append(l.outages, span{from, to})
}

func (l *ledger) size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.accepted)
}

// receipt is one request that the receiver answered 200.
type receipt struct {
	generation string
	at         time.Time
	hash       string
}

// receiver behaves as the path says, and keeps a log of its own.
type receiver struct {
	server *httptest.Server

	mu       sync.Mutex
	receipts map[id][]receipt
	attempts map[id]int
}

func newReceiver() *receiver {
	r := &receiver{receipts: make(map[id][]receipt), attempts: make(map[id]int)}
	r.server = httptest.NewServer(r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the sender was killed
	}
	key := id{strings.TrimPrefix(request.URL.Path, "/"), request.Header.Get("webhook-id")}
	r.mu.Lock()
	r.attempts[key]++
	attempt := r.attempts[key]
	r.mu.Unlock()

	// What an event meets depends on its locator alone, so that it ends whatever the kills do.
	h := fnv.New32()
	io.WriteString(h, key.event)
	luck := h.Sum32() % 100
	status := http.StatusOK
	switch key.webhook {
	case "slow":
		pause(request.Context(), 20*time.Millisecond)
	case "flaky":
		if attempt <= int(luck%3) {
			status = http.StatusServiceUnavailable
		}
	case "failing":
		if luck < 80 || attempt == 1 {
			status = http.StatusNotFound
		}
	case "suspend":
		if luck == 0 && attempt == 1 {
			status = http.StatusInternalServerError
		}
	}
	if status == http.StatusOK {
		generation := strings.TrimPrefix(request.UserAgent(), "generation ")
		got := receipt{generation, time.Now(), fmt.Sprintf("%x", sha256.Sum256(body))}
		r.mu.Lock()
		r.receipts[key] = append(r.receipts[key], got)
		r.mu.Unlock()
	}
	w.WriteHeader(status)
}

// settleTime is how long before a kill an answer may have come whose settling the kill prevented, not counting
// the time in which nothing could be settled. It is what a busy machine may need: what was settled sooner the services
// say.
const settleTime = 10 * time.Second

// judge holds what was acknowledged against what was received and what the store keeps.
func judge(ctx context.Context, store diverted.Store, r *receiver, l *ledger, kills int) (Report, error) {
	report := Report{Kills: kills, Acknowledged: len(l.accepted)}
	diverts, err := keep(ctx, func(q diverted.DivertedQuery) (events []ulid.ULID, more bool, err error) {
		page, err := store.ListDiverted(ctx, q)
		for _, e := range page.Events {
			events = append(events, e.Event)
		}
		return events, page.More, err
	})
	if err != nil {
		return report, err
	}
	pending, err := keep(ctx, func(q diverted.DivertedQuery) (events []ulid.ULID, more bool, err error) {
		page, err := store.ListPending(ctx, q)
		for _, e := range page.Deliveries {
			events = append(events, e.Event)
		}
		return events, page.More, err
	})
	if err != nil {
		return report, err
	}
	for key := range l.accepted {
		switch {
		case len(r.receipts[key]) > 0:
			report.Delivered++
		case diverts[key]:
			report.Diverted++
		case pending[key]:
			report.Pending++
			report.fault("%s at %s is still pending", key.event, key.webhook)
		case l.deleting[key]:
			report.Deleted++
		default:
			report.Lost++
			report.fault("%s at %s is lost", key.event, key.webhook)
		}
	}
	for key, receipts := range r.receipts {
		hash, acknowledged := l.accepted[key]
		if !acknowledged {
			hash = receipts[0].hash
		}
		timeouts := l.timeouts[key]
		for i, got := range receipts {
			if got.hash != hash {
				report.Damaged++
				report.fault("%s at %s arrived with another body", key.event, key.webhook)
			}
			switch {
			case i == 0:
			case l.explains(key, receipts[i-1], got):
				report.Explained++
			case timeouts > 0: // the machine stood still between the answer and the sender
				timeouts--
				report.TimedOut++
			case l.resent[key]:
				report.Resent++
			default:
				report.Unexplained++
				report.fault("%s at %s was delivered by generation %s and again, %s later, by generation %s", key.event, key.webhook,
					receipts[i-1].generation, got.at.Sub(receipts[i-1].at), got.generation)
			}
		}
	}
	return report, nil
}

// explains says whether a kill explains that an event was received again: it came so soon after the first
// answer that it may have prevented its settling, and the service had not yet said that it was settled.
func (l *ledger) explains(event id, first, again receipt) bool {
	var generation int
	if _, err := fmt.Sscan(first.generation, &generation); err != nil || first.generation == again.generation || l.settled[settlement{first.generation, event}] {
		return false
	}
	kill, killed := l.kills[generation]
	between := kill.Sub(first.at)
	for _, o := range l.outages {
		between -= max(earlier(kill, o.to).Sub(later(first.at, o.from)), 0)
	}
	return killed && between < settleTime && again.at.After(first.at)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// keep lists all that a store has of the webhooks.
func keep(ctx context.Context, list func(diverted.DivertedQuery) (events []ulid.ULID, more bool, err error)) (map[id]bool, error) {
	kept := make(map[id]bool)
	for name, locator := range webhooks {
		query := diverted.DivertedQuery{Webhook: diverted.WebhookKey{Tenant: tenant, Webhook: locator}, Limit: diverted.MaxPage}
		for more := true; more; {
			var events []ulid.ULID
			var err error
			if events, more, err = list(query); err != nil {
				return nil, err
			}
			for _, e := range events {
				kept[id{name, e.String()}] = true
				query.After = e
			}
		}
	}
	return kept, ctx.Err()
}
