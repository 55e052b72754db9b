// Package loadtest holds a dispatcher on SQLite under load for long, with receivers of which some hang, some
// fail and some flap, and watches what it uses: memory, goroutines, file descriptors, the size of the file.
package loadtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	webhooks = 100
	rate     = 400 // events a second, over all webhooks

	// leftover is what the database's files may take more when all is deleted: the write-ahead log, and free pages
	// that are too few to be worth giving back.
	leftover = 16 << 20
)

// usage is what the process uses at a moment.
type usage struct {
	at         time.Duration
	heap       uint64 // bytes in use, after a collection
	goroutines int
	files      int // descriptors
	database   int64
}

func (u usage) String() string {
	return fmt.Sprintf("%6s: heap %5.1f MiB, %4d goroutines, %4d descriptors, database %5.1f MiB",
		u.at.Round(time.Second), float64(u.heap)/(1<<20), u.goroutines, u.files, float64(u.database)/(1<<20))
}

func measure(began time.Time, path string) usage {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u := usage{at: time.Since(began), heap: m.HeapInuse + m.StackInuse, goroutines: runtime.NumGoroutine()}
	if all, err := os.ReadDir("/proc/self/fd"); err == nil {
		u.files = len(all)
	}
	for _, suffix := range []string{"", "-wal"} {
		if info, err := os.Stat(path + suffix); err == nil {
			u.database += info.Size()
		}
	}
	return u
}

// receiver answers as the number of the webhook in the path says: 0–9 hang, 10–19 fail, 20–29 flap every
// ten seconds, the others are good.
func receiver(received *atomic.Int64) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body) // only then does the server notice that a sender hangs up
		var n int
		fmt.Sscanf(r.URL.Path, "/%d", &n)
		switch {
		case n < 10:
			<-r.Context().Done()
		case n < 20, n < 30 && time.Now().Second()/10%2 == 0:
			w.WriteHeader(http.StatusInternalServerError)
		default:
			received.Add(1)
		}
	}
}

// The duration is LOAD_DURATION, or five seconds: see make load.
func TestWhatIsUsedIsFlatUnderLoad(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes ten seconds")
	}
	duration := 5 * time.Second
	if s := os.Getenv("LOAD_DURATION"); s != "" {
		d, err := time.ParseDuration(s)
		if err != nil {
			t.Fatal(err)
		}
		duration = d
	}
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	store, err := diverted.OpenSQLite(ctx, path)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	var received atomic.Int64
	server := httptest.NewServer(receiver(&received))
	defer server.Close()

	tenant := uuid.New()
	var hooks []diverted.Webhook
	for n := range webhooks {
		w := diverted.NewWebhook(tenant, fmt.Sprint(n), fmt.Sprintf("%s/%d", server.URL, n), "*")
		w.FailureHandling = &diverted.FailureHandling{
			Retry: &diverted.RetryStrategy{Attempts: 2, Interval: time.Second, Type: diverted.Linear}, Divert: true,
		}
		if _, err := store.CreateWebhook(ctx, w); err != nil {
			t.Fatal(err)
		}
		hooks = append(hooks, w)
	}
	var worst atomic.Int64 // latency of the good ones, in nanoseconds
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Timeout:         2 * time.Second,
		AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Logger:          slog.New(slog.DiscardHandler),
		Observer: diverted.Observer{Delivered: func(a diverted.Attempt) {
			if latency := int64(a.Began.Add(a.Duration).Sub(a.AcceptedAt)); a.Number == 1 && latency > worst.Load() {
				worst.Store(latency)
			}
		}},
	})
	if err != nil {
		t.Fatal(err)
	}
	running, stop := context.WithCancel(ctx)
	defer stop()
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(running) }()

	began := time.Now()
	before := measure(began, path)
	samples := []usage{before}
	sent := load(ctx, t, dispatcher, hooks, duration, func() { samples = append(samples, measure(began, path)) })

	// After the load what was diverted is deleted, and what is held by those that hang.
	for _, w := range hooks {
		if err := store.DeleteWebhook(ctx, w.Key(), true); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if err := <-ran; err != nil {
		t.Fatal(err)
	}
	server.CloseClientConnections()
	after := settle(began, path, before)
	for _, u := range append(samples, after) {
		t.Log(u)
	}
	t.Logf("sent %d, received %d, slowest first attempt that succeeded %s", sent, received.Load(), time.Duration(worst.Load()))

	if received.Load() == 0 {
		t.Error("nothing was received")
	}
	peak := samples[len(samples)/2] // by then all is warm
	last := samples[len(samples)-1]
	if last.heap > 2*peak.heap+16<<20 || last.goroutines > 2*peak.goroutines+100 || last.files > 2*peak.files+100 {
		t.Errorf("not flat: %v, and later %v", peak, last)
	}
	if after.goroutines > before.goroutines+5 || after.files > before.files+5 {
		t.Errorf("not as before: %v, and after %v", before, after)
	}
	if after.database > before.database+leftover {
		t.Errorf("the file keeps the space: %v, and after %v", before, after)
	}
}

// load sends at the rate for the duration, and samples twenty times.
func load(ctx context.Context, t *testing.T, d *diverted.Dispatcher, hooks []diverted.Webhook, duration time.Duration, sample func()) (sent int) {
	t.Helper()
	payloads := testdata.Payloads()
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	end, next := time.Now().Add(duration), time.Now().Add(duration/20)
	for time.Now().Before(end) {
		<-tick.C
		p := payloads[sent%len(payloads)]
		event, err := diverted.NewEvent(p.Type, p.Data)
		if err != nil {
			t.Fatal(err)
		}
		w := hooks[sent%len(hooks)]
		_, err = d.Send(ctx, w.Tenant, w.Locator, event)
		if errors.Is(err, context.DeadlineExceeded) { // the machine stood still
			t.Logf("sent again: %v", err)
			_, err = d.Send(ctx, w.Tenant, w.Locator, event)
		}
		if err != nil {
			t.Fatal(err)
		}
		sent++
		if now := time.Now(); now.After(next) {
			next = now.Add(duration / 20)
			sample()
		}
	}
	sample()
	return sent
}

// settle waits until connections and the purge have ended and the file's space came back, for a while.
func settle(began time.Time, path string, before usage) usage {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(5 * time.Minute); ; <-tick.C {
		u := measure(began, path)
		if time.Now().After(end) ||
			u.goroutines <= before.goroutines+5 && u.files <= before.files+5 && u.database <= before.database+leftover {
			return u
		}
	}
}
