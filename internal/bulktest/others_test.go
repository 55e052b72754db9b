package bulktest

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/divertedevents/diverted/internal/testenv"
)

// The load of the other webhooks: how many there are, and how many events a second they get in all.
const (
	otherWebhooks = 20
	otherRate     = 50
)

// others publishes an event at each of its moments, whatever became of those before, and remembers when.
type others struct {
	run    *run
	client *http.Client
	group  sync.WaitGroup
	stop   context.CancelFunc

	mu   sync.Mutex
	sent map[ulid.ULID]time.Time
}

func (r *run) startOthers(ctx context.Context) *others {
	ctx, stop := context.WithCancel(ctx)
	o := &others{run: r, client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: otherRate}}, stop: stop, sent: map[ulid.ULID]time.Time{}}
	o.group.Go(func() {
		clock := time.NewTicker(time.Second / otherRate)
		defer clock.Stop()
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-clock.C:
				o.group.Go(func() { o.publish(ctx, n) })
			}
		}
	})
	return o
}

// publish sends one event, and repeats it while there is no server. If the load ends before it was accepted, it does not
// count.
func (o *others) publish(ctx context.Context, n int) {
	event := ulid.Make()
	began := time.Now()
	p := testdata.Payloads()[n%len(testdata.Payloads())]
	body := fmt.Sprintf(`{"locator":%q,"type":"other.%d","data":%s}`, event, n%otherWebhooks, p.Data)
	for {
		request, err := http.NewRequestWithContext(ctx, "POST", o.run.url()+"/events", strings.NewReader(body))
		if err != nil {
			return
		}
		request.Header.Set("Content-Type", "application/json")
		answer, err := o.client.Do(request)
		if err == nil {
			answer.Body.Close()
			if answer.StatusCode == http.StatusAccepted {
				o.mu.Lock()
				o.sent[event] = began
				o.mu.Unlock()
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// latencies ends the load, waits until all that was accepted has arrived, and returns, in order, how long it took each,
// leaving out those that were on their way during a kill.
func (o *others) latencies(t *testing.T, kills []window) (all []time.Duration) {
	o.stop()
	o.group.Wait()
	o.client.CloseIdleConnections()
	r := o.run.receiver
	testenv.Await(t, "what the other webhooks were sent arrives", func() bool { return r.has(o.sent) })
	r.mu.Lock()
	defer r.mu.Unlock()
	for event, sent := range o.sent {
		arrived := r.others[event]
		if !slices.ContainsFunc(kills, func(k window) bool { return sent.Before(k.until) && arrived.After(k.from) }) {
			all = append(all, arrived.Sub(sent))
		}
	}
	slices.Sort(all)
	return all
}

// at returns a quantile of durations that are in order.
func at(all []time.Duration, quantile float64) time.Duration {
	if len(all) == 0 {
		return 0
	}
	return all[min(int(quantile*float64(len(all))), len(all)-1)].Round(100 * time.Microsecond)
}
