// Package bulktest resends many diverted events over the API, step by step, while the server is killed twice,
// and holds what the receiver saw against what was diverted; and it watches what other webhooks notice of it.
package bulktest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/divertedevents/diverted/internal/testenv"
)

func TestMain(m *testing.M) {
	service() // does not return in the process that is killed
	goleak.VerifyTestMain(m)
}

// attemptTimeout is short, so that the leases of a dead process are over soon.
const attemptTimeout = 2 * time.Second

var (
	tenant   = uuid.MustParse("5c0f1e0a-8c9e-4c0f-9f53-1e1f0b7d2a44")
	customer = diverted.WebhookKey{Tenant: tenant, Webhook: ulid.MustParse("01JQ000000000000000CVST0MR")}
)

// run is one bulk resend.
type run struct {
	is       *is.I
	db       string
	pace     int // the customer's MaxPerSecond; 0: none
	receiver *receiver
	kills    []window // by generation

	mu     sync.Mutex
	server *exec.Cmd
	base   string // the URL of the server that is, or was
}

func (r *run) url() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.base + "/event/" + tenant.String()
}

// start starts a server, of the generation that comes next.
func (r *run) start(t *testing.T, generation int) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	server := exec.CommandContext(t.Context(), self)
	server.Env = append(os.Environ(), "BULKTEST_DB="+r.db, fmt.Sprintf("BULKTEST_GENERATION=%d", generation))
	server.Stderr = t.Output()
	out, err := server.StdoutPipe()
	if err != nil {
		return err
	}
	if err := server.Start(); err != nil {
		return err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	r.mu.Lock()
	defer r.mu.Unlock()
	r.server, r.base = server, strings.TrimSpace(line)
	return err
}

// kill kills the server, and waits until it is gone.
func (r *run) kill() error {
	if err := r.server.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	err := r.server.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if ok && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the server was not killed, it ended: %w", err)
}

// restart kills the server, a moment from now, and starts the next one.
func (r *run) restart(t *testing.T, generation int) (window, error) {
	<-time.After(time.Duration(rand.Int64N(int64(10 * time.Millisecond))))
	from := time.Now()
	if err := r.kill(); err != nil {
		return window{}, err
	}
	err := r.start(t, generation)
	return window{from, time.Now()}, err
}

// fill makes the webhooks, and diverts events of the customer's.
func (r *run) fill(t *testing.T, events int) {
	store, err := diverted.OpenSQLite(t.Context(), r.db)
	r.is.NoErr(err)
	add := func(locator ulid.ULID, path, eventType string) {
		w := diverted.NewWebhook(tenant, "orders", r.receiver.server.URL+path, eventType)
		w.Locator = locator
		if locator == customer.Webhook {
			w.MaxPerSecond = r.pace
		}
		_, err := store.CreateWebhook(t.Context(), w)
		r.is.NoErr(err)
	}
	add(customer.Webhook, "/customer", "customer")
	for n := range otherWebhooks {
		add(ulid.Make(), "/other", fmt.Sprintf("other.%d", n))
	}
	payloads := slices.Clone(testdata.Payloads())
	slices.SortFunc(payloads, func(a, b testdata.Payload) int { return len(a.Data) - len(b.Data) })
	var group sync.WaitGroup
	faults := make(chan error, 64)
	for part := range 64 {
		group.Go(func() {
			for i := part; i < events; i += 64 {
				p := payloads[i%10] // of about a kilobyte
				event, err := diverted.NewEvent(p.Type, p.Data)
				if err != nil {
					faults <- err
					return
				}
				body, err := event.Encode()
				if err != nil {
					faults <- err
					return
				}
				if err := store.Divert(t.Context(), diverted.DivertedEvent{
					Key:            diverted.Key{Tenant: tenant, Webhook: customer.Webhook, Event: event.Locator},
					RequestLocator: event.RequestLocator, EventType: event.Type, Attempts: 11, Body: body,
					Failure: diverted.Failure{Trigger: "503", Status: 503, Message: "503 Service Unavailable"},
				}); err != nil {
					faults <- err
					return
				}
			}
		})
	}
	group.Wait()
	select {
	case err := <-faults:
		r.is.NoErr(err)
	default:
	}
	r.is.NoErr(store.Close())
}

// step asks for one step until there is an answer, as a client does whose server may be gone.
func (r *run) step(ctx context.Context, client *http.Client, limit int, after string) (matched, done int, next string, err error) {
	for {
		target := fmt.Sprintf("/webhooks/%s/diverted/resend?all=true&limit=%d", customer.Webhook, limit)
		if after != "" {
			target += "&after=" + after
		}
		request, err := http.NewRequestWithContext(ctx, "POST", r.url()+target, nil)
		if err != nil {
			return 0, 0, "", err
		}
		answer, err := client.Do(request)
		if err == nil {
			body, read := io.ReadAll(answer.Body)
			answer.Body.Close()
			var result struct {
				Matched, Done int
				Next          string
			}
			switch {
			case read != nil:
			case answer.StatusCode == http.StatusOK:
				err := json.Unmarshal(body, &result)
				return result.Matched, result.Done, result.Next, err
			case answer.StatusCode != http.StatusServiceUnavailable:
				return 0, 0, "", fmt.Errorf("%s: %s", answer.Status, bytes.TrimSpace(body))
			}
		}
		select {
		case <-ctx.Done():
			return 0, 0, "", ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// The number of events is BULK_EVENTS, or 20,000, and BULK_PACE is how many a second the customer bears, or all
// that can be sent: see make bulk, which also asks that the other webhooks notice little. Where there is no pace, or
// the machine does other things beside, that says nothing.
func TestABulkResendOverTwoKillsSendsEachEventOnce(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes a minute")
	}
	const briefly = 20_000
	events := testenv.Number(t, "BULK_EVENTS", briefly)
	r := &run{is: is.New(t), pace: testenv.Number(t, "BULK_PACE", 0), db: filepath.Join(t.TempDir(), "webhooks.db"), receiver: newReceiver()}
	defer r.receiver.server.Close()
	began := time.Now()
	r.fill(t, events)
	t.Logf("%d events diverted in %s", events, time.Since(began).Round(time.Second))
	r.is.NoErr(r.start(t, 0))
	defer func() { r.is.NoErr(r.kill()) }()

	// What is usual for the others.
	usually := 3 * time.Second
	if events > briefly {
		usually = 20 * time.Second
	}
	load := r.startOthers(t.Context())
	select {
	case <-time.After(usually):
	case <-t.Context().Done():
	}
	usual := load.latencies(t, nil)

	// The client goes on to the end, whatever happens to the server.
	load = r.startOthers(t.Context())
	client := &http.Client{}
	defer client.CloseIdleConnections()
	began = time.Now()
	steps, done := 0, 0
	var restarts sync.WaitGroup
	var after string
	for {
		if n := len(r.kills); done >= (n+1)*events/3 && n < 2 { // amid the step that follows
			r.kills = append(r.kills, window{})
			restarts.Go(func() {
				k, err := r.restart(t, n+1)
				if err != nil {
					t.Error(err)
				}
				r.kills[n] = k
			})
		}
		_, n, next, err := r.step(t.Context(), client, diverted.DefaultBulk, after)
		r.is.NoErr(err)
		restarts.Wait()
		steps, done = steps+1, done+n
		if next == "" {
			break
		}
		after = next
	}
	queued := time.Since(began)
	look := time.NewTicker(50 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(10*time.Minute + time.Duration(events)*time.Millisecond); r.receiver.received() < events && time.Now().Before(deadline); {
		<-look.C
	}
	sent := time.Since(began)
	select { // what a dead process had claimed may come again
	case <-time.After(attemptTimeout + 12*time.Second):
	case <-t.Context().Done():
	}
	meanwhile := load.latencies(t, r.kills)
	once, explained, unexplained := r.receiver.judge(r.kills)
	t.Logf("%d events: queued in %d steps and %s, sent in %s; received %d, again because of %d kills %d, again without one %d",
		events, steps, queued.Round(time.Second), sent.Round(time.Second), once, len(r.kills), explained, unexplained)
	t.Logf("other webhooks: usually p50 %s, p99 %s of %d; meanwhile p50 %s, p99 %s of %d",
		at(usual, .5), at(usual, .99), len(usual), at(meanwhile, .5), at(meanwhile, .99), len(meanwhile))
	r.is.Equal(len(r.kills), 2)
	r.is.Equal(once, events)
	r.is.Equal(unexplained, 0)
	if r.pace > 0 {
		r.is.True(at(meanwhile, .99) <= 2*at(usual, .99)) // on a machine that is quiet
	}
}
