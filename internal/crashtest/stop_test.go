//go:build unix

package crashtest_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// stopConfig is the configuration of both dispatchers. The stopped one's timeout is what a slow machine has to
// begin all attempts and to stop the process before it has something to settle, and 10 s less than its leases;
// the other's only needs to be enough.
func stopConfig(name string, timeout time.Duration) diverted.Config {
	return diverted.Config{
		Timeout:         timeout,
		UserAgent:       name,
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:          slog.New(slog.DiscardHandler),
	}
}

// The process that is stopped: a dispatcher that prints what it is told, until SIGTERM.
func TestStoppedProcess(t *testing.T) {
	dsn := os.Getenv("STOPTEST_DSN")
	if dsn == "" {
		t.Skip("a part of the test below")
	}
	is := is.New(t)
	ctx, cancel := signal.NotifyContext(t.Context(), syscall.SIGTERM)
	defer cancel()
	store, err := openSQLite(ctx, dsn)
	is.NoErr(err)
	defer store.Close()
	config := stopConfig("stopped", 10*time.Second)
	told := func(word string) func(diverted.Attempt) {
		return func(a diverted.Attempt) { fmt.Println("observed", word, a.Key.Event, a.Status) }
	}
	config.Observer = diverted.Observer{
		Attempted: told("attempted"), Delivered: told("settled"), Diverted: told("settled"), Retried: told("settled"),
		Held: told("settled"), Dropped: told("settled"),
		Suspended: func(k diverted.WebhookKey) { fmt.Println("observed suspended", k.Webhook) },
	}
	dispatcher, err := diverted.NewDispatcher(store, config)
	is.NoErr(err)
	is.NoErr(dispatcher.Run(ctx))
}

// Of two dispatchers in two processes one is stopped amid its attempts, until the other has done all of
// its work, with other results. When it goes on, its own results must change nothing.
func TestAProcessThatWasStoppedPastItsLeasesChangesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 25 seconds")
	}
	const each = 5
	is := is.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()

	// Each process gets another answer, and the stopped one gets it only once it is stopped.
	answers := map[string]map[string]int{
		"/delivered": {"stopped": 503, "other": 200}, // the stale outcome would divert, but for a row that is gone
		"/diverted":  {"stopped": 200, "other": 502}, // it would make the diverted event vanish
		"/suspends":  {"stopped": 503, "other": 200}, // it would suspend
	}
	var mu sync.Mutex
	posts := make(map[string]map[string]int) // by event and process
	arrived := make(chan struct{}, 100)
	stopped := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		event, process := r.Header.Get("webhook-id"), r.UserAgent()
		mu.Lock()
		if posts[event] == nil {
			posts[event] = make(map[string]int)
		}
		posts[event][process]++
		mu.Unlock()
		if process == "stopped" {
			arrived <- struct{}{}
			<-stopped
		}
		w.WriteHeader(answers[r.URL.Path][process])
	}))
	defer receiver.Close()

	dsn := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := openSQLite(ctx, dsn)
	is.NoErr(err)
	defer store.Close()
	tenant := uuid.New()
	keys := make(map[string]diverted.WebhookKey)
	var messages []diverted.Message
	for path := range answers {
		w := diverted.NewWebhook(tenant, path, receiver.URL+path, "*")
		w.FailureHandling = &diverted.FailureHandling{Divert: true, Suspend: path == "/suspends"}
		w, err := store.CreateWebhook(ctx, w)
		is.NoErr(err)
		keys[path] = w.Key()
		for i := range each {
			p := testdata.Payloads()[i]
			event, err := diverted.NewEvent(p.Type, p.Data)
			is.NoErr(err)
			m, err := diverted.NewMessage(tenant, w.Locator, event)
			is.NoErr(err)
			messages = append(messages, m)
		}
	}
	_, err = store.Accept(ctx, diverted.AcceptRequest{Messages: messages})
	is.NoErr(err)

	self, err := os.Executable()
	is.NoErr(err)
	command := exec.CommandContext(ctx, self, "-test.run=^TestStoppedProcess$")
	command.Env = append(os.Environ(), "STOPTEST_DSN="+dsn)
	out, err := command.StdoutPipe()
	is.NoErr(err)
	is.NoErr(command.Start())
	lines := make(chan string, 1000)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- s.Text()
		}
	}()
	for n := range messages {
		select {
		case <-arrived:
		case <-ctx.Done():
			t.Fatalf("%v: %d of %d requests arrived", ctx.Err(), n, len(messages))
		}
	}
	stopBetweenWrites(t, command.Process, func(ctx context.Context) error {
		return store.Unsuspend(ctx, keys["/delivered"]) // which changes nothing, in a transaction
	})
	close(stopped)

	dispatcher, err := diverted.NewDispatcher(store, stopConfig("other", time.Minute))
	is.NoErr(err)
	running, stop := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(running) }()
	pending := func() (left []string) {
		for path, key := range keys {
			page, err := store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: key})
			is.NoErr(err)
			w, err := store.FetchWebhook(t.Context(), key)
			is.NoErr(err)
			for _, d := range page.Deliveries {
				left = append(left, fmt.Sprintf("%s at %s: due %s, claimed %t, attempts %d, failure %v, webhook suspended %t",
					d.Event, path, d.Due, d.Claimed, d.Attempts, d.Failure, w.Suspended()))
			}
		}
		return left
	}
	for tick := time.Tick(100 * time.Millisecond); len(pending()) > 0; {
		select {
		case <-tick:
		case <-ctx.Done():
			t.Fatalf("%v: still pending:\n%s", ctx.Err(), strings.Join(pending(), "\n"))
		}
	}

	is.NoErr(command.Process.Signal(syscall.SIGCONT))
	attempted := 0
	for line := range lines {
		if !strings.HasPrefix(line, "observed ") {
			continue
		}
		t.Log("stopped process:", line)
		is.True(strings.HasPrefix(line, "observed attempted ")) // it settled nothing, and suspended nothing
		if attempted++; attempted == len(messages) {
			is.NoErr(command.Process.Signal(syscall.SIGTERM)) // which settles all, and then ends
		}
	}
	is.NoErr(command.Wait())
	is.Equal(attempted, len(messages))
	stop()
	is.NoErr(<-ran)

	is.Equal(len(pending()), 0)
	for path, key := range keys {
		page, err := store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: key})
		is.NoErr(err)
		if path == "/diverted" {
			is.Equal(len(page.Events), each)
		} else {
			is.Equal(len(page.Events), 0)
		}
		for _, e := range page.Events {
			is.Equal(e.Failure.Status, 502)
			is.Equal(e.Attempts, 1)
		}
		w, err := store.FetchWebhook(ctx, key)
		is.NoErr(err)
		is.True(!w.Suspended())
	}
	mu.Lock()
	defer mu.Unlock()
	is.Equal(len(posts), len(messages))
	for _, by := range posts {
		is.Equal(by, map[string]int{"stopped": 1, "other": 1}) // once more than needed, for a lease that was lost
	}
}

// stopBetweenWrites stops a process at a moment when it does not hold SQLite's lock: it looks for work once
// a second, and whoever is stopped while it writes keeps all others from writing for as long. What write does
// does not matter, only that it can.
func stopBetweenWrites(t *testing.T, process *os.Process, write func(context.Context) error) {
	t.Helper()
	is := is.New(t)
	for range 10 {
		is.NoErr(process.Signal(syscall.SIGSTOP))
		// The signal is for one thread, which stops the others once it gets a processor. Until then they work on.
		var status syscall.WaitStatus
		_, err := syscall.Wait4(process.Pid, &status, syscall.WUNTRACED, nil)
		is.NoErr(err)
		is.True(status.Stopped())
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // a busy machine writes slowly, too
		err = write(ctx)
		cancel()
		if err == nil {
			return
		}
		t.Log("stopped amid a write, once more:", err)
		is.NoErr(process.Signal(syscall.SIGCONT))
		is.NoErr(write(t.Context()))
	}
	t.Fatal("the process holds the lock whenever it is stopped")
}
