package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"time"

	"github.com/divertedevents/diverted"
)

// receiver is what the webhooks of the story point to: a server with a path for each of them.
type receiver struct {
	*httptest.Server

	mu       sync.Mutex
	attempts map[string]int    // by path and webhook-id
	received map[string][]byte // the bodies that were answered 200, by path and webhook-id
	repaired bool
	held     int           // requests to good that wait for released
	released chan struct{} // closed when the service is dead
}

func newReceiver() *receiver {
	r := &receiver{
		attempts: make(map[string]int),
		received: make(map[string][]byte),
		released: make(chan struct{}),
	}
	r.Server = httptest.NewServer(r)
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // the sender is gone
	}
	// An event has the same webhook-id on every attempt. A receiver recognises repetitions by it.
	path := request.URL.Path
	id := path + " " + request.Header.Get("webhook-id")

	r.mu.Lock()
	defer r.mu.Unlock()
	r.attempts[id]++
	status := http.StatusOK
	switch {
	case path == "/good":
		select {
		case <-r.released:
		default: // the service is about to be killed: let it wait for the answer
			r.held++
			r.mu.Unlock()
			<-r.released
			r.mu.Lock()
			return
		}
	case path == "/flaky" && r.attempts[id] <= 2:
		status = http.StatusServiceUnavailable
	case path == "/broken" && !r.repaired:
		status = http.StatusNotFound
	}
	if status == http.StatusOK {
		r.received[id] = body
	}
	w.WriteHeader(status)
}

// waitForHeld waits until requests of the service are held.
func (r *receiver) waitForHeld(ctx context.Context) error {
	return r.until(ctx, "no request came", func() bool { return r.held > 0 })
}

// release lets the requests go that were held, and says how many.
func (r *receiver) release() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.released)
	return r.held
}

// repair makes the broken receiver work.
func (r *receiver) repair() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.repaired = true
}

// wait waits until a webhook has received n of the events, and checks their bodies.
func (r *receiver) wait(ctx context.Context, name string, events []diverted.Event, n int) error {
	var fault error
	err := r.until(ctx, name+" did not receive what it should", func() bool {
		var got int
		got, fault = r.count(name, events)
		return fault != nil || got == n
	})
	return errors.Join(fault, err)
}

func (r *receiver) count(name string, events []diverted.Event) (n int, err error) {
	for _, event := range events {
		body, ok := r.received["/"+name+" "+event.Locator.String()]
		if !ok {
			continue
		}
		accepted, err := event.Encode()
		if err != nil {
			return n, err
		}
		if !bytes.Equal(body, accepted) {
			return n, fmt.Errorf("%s received another body than was accepted", name)
		}
		n++
	}
	return n, nil
}

func (r *receiver) until(ctx context.Context, fault string, done func() bool) error {
	for {
		r.mu.Lock()
		ok := done()
		r.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", fault, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}
