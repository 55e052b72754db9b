package powertest_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/powertest"
	"github.com/divertedevents/diverted/internal/testdata"
)

// No goroutine outlives what the tests started.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What is noted beside SQLite's own doing.
type (
	acknowledged struct { // Send returned nil
		event ulid.ULID
		hash  [sha256.Size]byte
	}
	received struct { // by a receiver, which then answers 200
		event ulid.ULID
		hash  [sha256.Size]byte
	}
	deleting struct{ event ulid.ULID } // DeleteDiverted is about to be called
	deleted  struct{ event ulid.ULID } // and has returned nil
)

// receiver answers as the path says, and notes what it received. It is the transport of the dispatcher.
type receiver struct {
	recording *powertest.Recording

	mu       sync.Mutex
	attempts map[string]int
}

func (r *receiver) RoundTrip(request *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return nil, err
	}
	id := request.Header.Get("webhook-id")
	r.mu.Lock()
	r.attempts[id]++
	first := r.attempts[id] == 1
	r.mu.Unlock()
	status := http.StatusOK
	switch request.URL.Path {
	case "/failing":
		status = http.StatusNotFound
	case "/flaky":
		if first {
			status = http.StatusServiceUnavailable
		}
	}
	if status == http.StatusOK {
		r.recording.Note(received{ulid.MustParse(id), sha256.Sum256(body)})
	}
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: http.NoBody, Request: request}, nil
}

const (
	file   = "webhooks.db"
	events = 600 // of each life of the store
)

// record has a store and its dispatcher work, twice, and returns what happened.
func record(t *testing.T) *powertest.Recording {
	t.Helper()
	is := is.New(t)
	dir := t.TempDir()
	recording, err := powertest.Record(dir)
	is.NoErr(err)
	var hooks []diverted.Webhook
	tenant := uuid.New()
	for _, name := range []string{"good", "failing", "flaky", "held"} {
		w := diverted.NewWebhook(tenant, name, "https://receiver.example.com/"+name, "*")
		w.FailureHandling = &diverted.FailureHandling{Divert: true}
		if name == "flaky" {
			w.FailureHandling.Retry = &diverted.RetryStrategy{Attempts: 1, Interval: time.Second}
		}
		hooks = append(hooks, w)
	}
	to := &receiver{recording: recording, attempts: make(map[string]int)}
	for range 2 {
		live(t, recording, filepath.Join(dir, file), hooks, to)
	}
	return recording
}

// live is one life of the store, from opening to closing.
func live(t *testing.T, recording *powertest.Recording, path string, hooks []diverted.Webhook, to *receiver) {
	t.Helper()
	is := is.New(t)
	store, err := diverted.OpenSQLite(t.Context(), path)
	is.NoErr(err)
	for _, w := range hooks {
		_, err := store.PutWebhook(t.Context(), w)
		is.NoErr(err)
	}
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{Transport: to, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	running, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- dispatcher.Run(running) }()

	faults := make(chan error, 100)
	var senders sync.WaitGroup
	for n := range 8 {
		senders.Go(func() {
			for i := n; i < events; i += 8 {
				if err := send(t.Context(), recording, dispatcher, hooks[i/8%len(hooks)], i); err != nil {
					faults <- err
					return
				}
			}
		})
	}
	meddling, done := context.WithCancel(t.Context())
	var meddler sync.WaitGroup
	meddler.Go(func() {
		if err := meddle(meddling, recording, store, hooks[1].Key(), hooks[3].Key()); err != nil && meddling.Err() == nil {
			faults <- err
		}
	})
	senders.Wait()
	done()
	meddler.Wait()
	stop()
	is.NoErr(<-ran)
	is.NoErr(store.Close())
	close(faults)
	for err := range faults {
		t.Fatal(err)
	}
}

func send(ctx context.Context, recording *powertest.Recording, d *diverted.Dispatcher, w diverted.Webhook, i int) error {
	p := testdata.Payloads()[i%len(testdata.Payloads())]
	event, err := diverted.NewEvent(p.Type, p.Data)
	if err != nil {
		return err
	}
	body, err := event.Encode()
	if err != nil {
		return err
	}
	if _, err := d.Send(ctx, w.Tenant, w.Locator, event); err != nil {
		return err
	}
	recording.Note(acknowledged{event.Locator, sha256.Sum256(body)})
	return nil
}

// meddle resends and deletes diverted events, and suspends and unsuspends a webhook, until ctx ends.
func meddle(ctx context.Context, recording *powertest.Recording, store diverted.Store, failing, held diverted.WebhookKey) error {
	for n := 0; ; n++ {
		page, err := store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: failing, Limit: 10})
		if err != nil {
			return err
		}
		for i, e := range page.Events {
			if i%2 == 0 {
				err = store.Resend(ctx, e.Key)
			} else {
				recording.Note(deleting{e.Event})
				if err = store.DeleteDiverted(ctx, e.Key); err == nil {
					recording.Note(deleted{e.Event})
				}
			}
			if err != nil && !errors.Is(err, diverted.ErrNotFound) {
				return err
			}
		}
		if n%2 == 0 {
			err = store.Suspend(ctx, held)
		} else {
			err = store.Unsuspend(ctx, held)
		}
		if err != nil {
			return err
		}
	}
}

// inspect opens what a cut has left, and returns what is wrong with it.
func inspect(ctx context.Context, dir string, notes []any) (faults []string, err error) {
	path := filepath.Join(dir, file)
	store, err := diverted.OpenSQLite(ctx, path)
	if err != nil {
		return []string{err.Error()}, nil
	}
	defer store.Close()
	db, err := sql.Open("sqlite", "file:"+path)
	if err != nil {
		return nil, err
	}
	defer db.Close()
	var answer string
	if err := db.QueryRowContext(ctx, "PRAGMA integrity_check").Scan(&answer); err != nil {
		return []string{err.Error()}, nil
	} else if answer != "ok" {
		return []string{answer}, nil
	}
	rows, err := db.QueryContext(ctx, "SELECT event, body FROM diverted_deliveries")
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	kept := make(map[ulid.ULID][sha256.Size]byte)
	for rows.Next() {
		var event, body []byte
		if err := rows.Scan(&event, &body); err != nil {
			return nil, err
		}
		kept[ulid.ULID(event)] = sha256.Sum256(body)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}

	gone := make(map[ulid.ULID]bool) // by a delivery or a deletion
	for _, note := range notes {
		switch n := note.(type) {
		case received:
			gone[n.event] = true
		case deleting:
			gone[n.event] = true
		}
	}
	for _, note := range notes {
		switch n := note.(type) {
		case acknowledged:
			if hash, ok := kept[n.event]; !ok && !gone[n.event] {
				faults = append(faults, fmt.Sprintf("%s is lost", n.event))
			} else if ok && hash != n.hash {
				faults = append(faults, fmt.Sprintf("%s has another body", n.event))
			}
		case deleted:
			if _, ok := kept[n.event]; ok {
				faults = append(faults, fmt.Sprintf("%s was deleted, and is there again", n.event))
			}
		}
	}
	return faults, nil
}

// number reads a number from the environment.
func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The number of cuts is POWER_REPLAYS, or 50, and POWER_SEED says where they are: see make power.
func TestAPowerCutLosesNothing(t *testing.T) {
	recording := record(t)
	replays, seed := number(t, "POWER_REPLAYS", 50), number(t, "POWER_SEED", uint64(os.Getpid()))
	random := rand.New(rand.NewPCG(seed, 0))
	lost, torn, acks := 0, 0, 0
	for range replays {
		cut := powertest.Cut{
			At:     random.IntN(recording.Len() + 1),
			Piece:  []int{512, 4096, 100}[random.IntN(3)], // 100: less than any disk's
			Keep:   []float64{0, 1, random.Float64(), random.Float64()}[random.IntN(4)],
			Random: random,
		}
		dir := t.TempDir()
		if err := recording.Cut(cut, dir); err != nil {
			t.Fatal(err)
		}
		notes := recording.Notes(cut.At)
		faults, err := inspect(t.Context(), dir, notes)
		if err != nil {
			t.Fatal(err)
		}
		for _, note := range notes {
			if _, ok := note.(acknowledged); ok {
				acks++
			}
		}
		if cut.Keep > 0 && cut.Keep < 1 {
			torn++
		}
		if len(faults) > 0 {
			lost++
			t.Errorf("cut at %d of %d, pieces of %d, %.0f %% of them kept: %d faults, such as %s",
				cut.At, recording.Len(), cut.Piece, 100*cut.Keep, len(faults), strings.Join(faults[:min(5, len(faults))], ", "))
		}
		os.RemoveAll(dir)
	}
	t.Logf("cuts %d, of which %d tore what was not synced, acknowledged before them %d on average, of %d writes and notes; cuts that lost or damaged something %d (POWER_SEED=%d)",
		replays, torn, acks/max(int(replays), 1), recording.Len(), lost, seed)
}

// A disk that does not sync loses events, and this test would see it.
func TestADiskThatLiesIsFound(t *testing.T) {
	recording := record(t)
	random := rand.New(rand.NewPCG(1, 0))
	found := 0
	for i := range 5 {
		dir := t.TempDir()
		cut := powertest.Cut{At: recording.Len() * (i + 4) / 10, Piece: 4096, Keep: 0.5, Unsynced: true, Random: random}
		if err := recording.Cut(cut, dir); err != nil {
			t.Fatal(err)
		}
		faults, err := inspect(t.Context(), dir, recording.Notes(cut.At))
		if err != nil {
			t.Fatal(err)
		}
		if len(faults) > 0 {
			found++
		}
	}
	if found < 5 {
		t.Errorf("of 5 cuts on a disk that does not sync, %d lost something", found)
	}
}
