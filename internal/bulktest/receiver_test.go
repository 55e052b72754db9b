package bulktest

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// receipt is a request that the receiver answered 204. It has no pointers, so that a million of them keep the garbage
// collector no longer busy than ten: it would have the cores that the server needs.
type receipt struct {
	generation int           // of the server that sent it
	at         time.Duration // since the receiver began
}

// receiver keeps a log of its own: of the customer whose events are resent, and of the others.
type receiver struct {
	server *httptest.Server
	began  time.Time

	mu       sync.Mutex
	customer map[ulid.ULID]receipt   // of the last request
	again    []repeat                // of the customer's
	others   map[ulid.ULID]time.Time // of the first request
}

// repeat is an event that came again.
type repeat struct{ first, again receipt }

func newReceiver() *receiver {
	r := &receiver{began: time.Now(), customer: map[ulid.ULID]receipt{}, others: map[ulid.ULID]time.Time{}}
	r.server = httptest.NewServer(r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if _, err := io.Copy(io.Discard, request.Body); err != nil {
		return // the sender was killed
	}
	now := time.Now()
	event, err := ulid.ParseStrict(request.Header.Get("webhook-id"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	r.mu.Lock()
	if request.URL.Path == "/customer" {
		var generation int
		fmt.Sscan(strings.TrimPrefix(request.UserAgent(), "generation "), &generation)
		last := receipt{generation, now.Sub(r.began)}
		if first, known := r.customer[event]; known {
			r.again = append(r.again, repeat{first, last})
		}
		r.customer[event] = last
	} else if _, known := r.others[event]; !known {
		r.others[event] = now
	}
	r.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// received is how many of the customer's events came.
func (r *receiver) received() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.customer)
}

// has says whether all of these events of the others came.
func (r *receiver) has(events map[ulid.ULID]time.Time) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for event := range events {
		if _, came := r.others[event]; !came {
			return false
		}
	}
	return true
}

// window is a time in which there was no server: from a kill until the next one served.
type window struct{ from, until time.Time }

// explainTime is how long before a kill an answer may have come that the kill prevented from being settled, on a busy
// machine.
const explainTime = 10 * time.Second

// judge counts the customer's events that came, those that a kill made come again, and those that came again
// without one.
func (r *receiver) judge(kills []window) (once, explained, unexplained int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.again {
		if g := e.first.generation; g != e.again.generation && g < len(kills) && kills[g].from.Sub(r.began.Add(e.first.at)) < explainTime {
			explained++
		} else {
			unexplained++
		}
	}
	return len(r.customer), explained, unexplained
}
