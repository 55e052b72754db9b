package otel_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/otel"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

var tenant = uuid.MustParse("7f1f6a0e-4c5b-4a54-9a0e-2f6f4f3f1c11")

// stores are those that the tests run on.
var stores = map[string]func(*testing.T) diverted.Store{
	"memory": func(*testing.T) diverted.Store { return diverted.NewMemoryStore() },
	"SQLite": func(t *testing.T) diverted.Store {
		store, err := diverted.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "webhooks.db"))
		if err != nil {
			t.Fatal(err)
		}
		return store
	},
}

// receiver answers in place of the network.
type receiver func(*http.Request) int

func (f receiver) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: f(r), Header: http.Header{}, Body: http.NoBody, Request: r}, nil
}

// service is a dispatcher that is watched.
type service struct {
	is         *is.I
	t          *testing.T
	store      diverted.Store
	telemetry  *otel.Telemetry
	dispatcher *diverted.Dispatcher
	reader     *sdkmetric.ManualReader
}

func newService(t *testing.T, store diverted.Store, config otel.Config, host diverted.Observer, answer receiver) *service {
	t.Helper()
	s := &service{is: is.New(t), t: t, store: store, reader: sdkmetric.NewManualReader()}
	config.MeterProvider = sdkmetric.NewMeterProvider(sdkmetric.WithReader(s.reader))
	config.Stats = store.(diverted.StatsStore)
	var err error
	s.telemetry, err = otel.New(config)
	s.is.NoErr(err)
	s.dispatcher, err = diverted.NewDispatcher(store, diverted.Config{
		Observer: s.telemetry.Observer(host), Tracer: s.telemetry,
		Transport: answer, Jitter: -1, Logger: slog.New(slog.DiscardHandler),
	})
	s.is.NoErr(err)
	t.Cleanup(func() {
		s.is.NoErr(s.telemetry.Close())
		s.is.NoErr(s.telemetry.Close()) // again does nothing
		s.is.NoErr(store.Close())
	})
	return s
}

func (s *service) webhook(change ...func(*diverted.Webhook)) diverted.WebhookKey {
	s.t.Helper()
	w := diverted.NewWebhook(tenant, "orders", "https://receiver.example/hook", "order.*")
	for _, f := range change {
		f(&w)
	}
	w, err := s.store.CreateWebhook(s.t.Context(), w)
	s.is.NoErr(err)
	return w.Key()
}

func (s *service) send(ctx context.Context, w diverted.WebhookKey) diverted.Key {
	s.t.Helper()
	event, err := diverted.NewEvent("order.paid", map[string]string{"order": "A-1001"})
	s.is.NoErr(err)
	_, err = s.dispatcher.Send(ctx, w.Tenant, w.Webhook, event)
	s.is.NoErr(err)
	return diverted.Key{Tenant: w.Tenant, Webhook: w.Webhook, Event: event.Locator}
}

// collect returns the metrics: "name{attributes}" to value, and of a histogram "name{attributes} n sum".
func (s *service) collect() (points map[string]string, units map[string]string) {
	s.t.Helper()
	var all metricdata.ResourceMetrics
	s.is.NoErr(s.reader.Collect(context.Background(), &all))
	return flat(s.t, all)
}

func flat(t *testing.T, all metricdata.ResourceMetrics) (points, units map[string]string) {
	t.Helper()
	points, units = map[string]string{}, map[string]string{}
	at := func(name string, set attribute.Set) string {
		var pairs []string
		for _, kv := range set.ToSlice() {
			key := strings.TrimPrefix(string(kv.Key), "diverted.")
			pairs = append(pairs, key+"="+kv.Value.String())
		}
		slices.Sort(pairs)
		return name + "{" + strings.Join(pairs, ",") + "}"
	}
	for _, scope := range all.ScopeMetrics {
		for _, m := range scope.Metrics {
			units[m.Name] = m.Unit
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				if !data.IsMonotonic {
					t.Error(m.Name, "is not a counter")
				}
				for _, p := range data.DataPoints {
					points[at(m.Name, p.Attributes)] = fmt.Sprint(p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					points[at(m.Name, p.Attributes)] = fmt.Sprint(p.Value)
				}
			case metricdata.Gauge[float64]:
				for _, p := range data.DataPoints {
					points[at(m.Name, p.Attributes)] = fmt.Sprintf("%.1f", p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					points[at(m.Name, p.Attributes)] = fmt.Sprintf("%d %.1f", p.Count, p.Sum)
				}
			default:
				t.Errorf("%s is a %T", m.Name, data)
			}
		}
	}
	return points, units
}

func TestCountersTellWhatBecameOfEveryDelivery(t *testing.T) {
	for _, without := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			status := 200
			var mu sync.Mutex
			var told []string
			tell := func(what string) func(diverted.Attempt) {
				return func(diverted.Attempt) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, what)
				}
			}
			s := newService(t, diverted.NewMemoryStore(), otel.Config{WithoutWebhook: without},
				diverted.Observer{Attempted: tell("attempted"), Delivered: tell("delivered"), Diverted: tell("diverted")},
				func(*http.Request) int { time.Sleep(200 * time.Millisecond); return status })
			flush := func(answer int) {
				status = answer
				s.is.NoErr(s.dispatcher.Flush(t.Context()))
			}
			w := s.webhook(func(w *diverted.Webhook) {
				w.FailureHandling = &diverted.FailureHandling{
					Triggers: []diverted.Trigger{"5xx"}, Divert: true, Retry: &diverted.RetryStrategy{Attempts: 1, Interval: time.Second},
				}
			})
			holding := s.webhook(func(w *diverted.Webhook) { w.FailureHandling = &diverted.FailureHandling{Suspend: true} })
			s.send(t.Context(), w)
			time.Sleep(800 * time.Millisecond)
			flush(200) // delivered, a second after it was accepted
			first, second := s.send(t.Context(), w), s.send(t.Context(), w)
			flush(503) // retried
			time.Sleep(time.Second)
			flush(500) // diverted
			s.send(t.Context(), w)
			flush(404) // dropped
			s.send(t.Context(), holding)
			flush(500) // held, and suspends
			s.is.NoErr(s.store.Unsuspend(t.Context(), holding))
			s.is.NoErr(s.store.Resend(t.Context(), first))
			flush(200)
			s.is.NoErr(s.store.DeleteDiverted(t.Context(), second))

			of := func(k diverted.WebhookKey, pairs ...string) string {
				if !without {
					pairs = append(pairs, "tenant.id="+k.Tenant.String(), "webhook.id="+k.Webhook.String())
				}
				slices.Sort(pairs)
				return "{" + strings.Join(pairs, ",") + "}"
			}
			points, units := s.collect()
			want := func(point, value string) {
				t.Helper()
				if points[point] != value {
					t.Errorf("%s is %q, not %q", point, points[point], value)
				}
			}
			if without {
				want("diverted.accepted.deliveries{}", "5")
				want("diverted.delivery.duration{}", "3 3.4")
			} else {
				want("diverted.accepted.deliveries"+of(w), "4")
				want("diverted.accepted.deliveries"+of(holding), "1")
				want("diverted.accepted.deliveries{}", "0") // there from the beginning
			}
			for _, c := range []struct {
				webhook          diverted.WebhookKey
				outcome, trigger string
				n                int
			}{
				{w, "retried", "5xx", 2}, {w, "diverted", "5xx", 2}, {w, "dropped", "4xx", 1}, {holding, "held", "5xx", 1},
			} {
				at := of(c.webhook, "outcome="+c.outcome, "error.type="+c.trigger)
				want("diverted.settled.deliveries"+at, fmt.Sprint(c.n))
				want("diverted.attempt.duration"+at, fmt.Sprintf("%d %.1f", c.n, 0.2*float64(c.n)))
			}
			want("diverted.dropped.deliveries{}", "1")
			if !without {
				want("diverted.settled.deliveries"+of(w, "outcome=delivered"), "2")
				want("diverted.settled.deliveries"+of(holding, "outcome=delivered"), "1")
				want("diverted.webhook.suspensions"+of(holding), "1")
				want("diverted.webhook.unsuspensions"+of(holding), "1")
				want("diverted.resent.deliveries"+of(w), "1")
				want("diverted.deleted.deliveries"+of(w), "1")
			}
			for name, unit := range map[string]string{
				"diverted.accepted.deliveries": "{delivery}", "diverted.settled.deliveries": "{delivery}", "diverted.attempt.duration": "s",
				"diverted.delivery.duration": "s", "diverted.webhook.suspensions": "{suspension}", "diverted.pending.oldest.age": "s",
			} {
				s.is.Equal(units[name], unit)
			}
			count := func(what string) (n int) {
				for _, one := range told {
					if one == what {
						n++
					}
				}
				return n
			}
			s.is.Equal([3]int{count("attempted"), count("delivered"), count("diverted")}, [3]int{9, 3, 2}) // the host's own is told too
		})
	}
}

// A receiver chooses what it answers. One that answers everything there is does not hide the others behind the SDK's limit.
func TestAReceiverCannotBlindTheMetricsOfOthers(t *testing.T) {
	is := is.New(t)
	reader := sdkmetric.NewManualReader()
	telemetry, err := otel.New(otel.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithCardinalityLimit(100))})
	is.NoErr(err)
	defer telemetry.Close()
	o := telemetry.Observer(diverted.Observer{})
	attempt := func(w diverted.WebhookKey, status int) diverted.Attempt {
		trigger := diverted.StatusTrigger(status)
		return diverted.Attempt{
			Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Webhook}, Number: 1, Duration: time.Second,
			Status: status, Failure: &diverted.Failure{Trigger: trigger, Status: status},
		}
	}
	hostile, other := diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()}, diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()}
	for status := 300; status < 600; status++ {
		for _, tell := range []func(diverted.Attempt){o.Retried, o.Held, o.Diverted, o.Dropped} {
			tell(attempt(hostile, status))
		}
	}
	timeout := attempt(hostile, 0)
	timeout.Failure.Trigger = diverted.TriggerTimeout
	for _, tell := range []func(diverted.Attempt){o.Retried, o.Held, o.Diverted, o.Dropped} {
		tell(timeout)
	}
	o.Delivered(diverted.Attempt{Key: timeout.Key, Number: 1, Status: 200})
	o.Diverted(diverted.Attempt{Key: timeout.Key}) // by a call of the store
	o.Diverted(attempt(other, 503))
	o.Dropped(attempt(other, 404))
	var all metricdata.ResourceMetrics
	is.NoErr(reader.Collect(t.Context(), &all))
	points, _ := flat(t, all)
	of := func(outcome string) string {
		return "outcome=" + outcome + ",tenant.id=" + tenant.String() + ",webhook.id=" + other.Webhook.String() + "}"
	}
	for point, value := range map[string]string{
		"diverted.settled.deliveries{error.type=5xx," + of("diverted"): "1",
		"diverted.settled.deliveries{error.type=4xx," + of("dropped"):  "1",
		"diverted.attempt.duration{error.type=5xx," + of("diverted"):   "1 1.0",
		"diverted.dropped.deliveries{}":                                "302",
	} {
		if points[point] != value {
			t.Errorf("%s is %q, not %q", point, points[point], value)
		}
	}
	sets := map[string]int{}
	for point := range points {
		if strings.Contains(point, hostile.Webhook.String()) {
			sets[point[:strings.IndexByte(point, '{')]]++
		}
	}
	is.Equal(sets["diverted.settled.deliveries"], 18) // as the README says
	is.Equal(sets["diverted.attempt.duration"], 17)
}

func TestGaugesTellWhatTheStoreKeeps(t *testing.T) {
	for name, open := range stores {
		t.Run(name, func(t *testing.T) {
			s := newService(t, open(t), otel.Config{}, diverted.Observer{}, func(r *http.Request) int {
				switch {
				case strings.HasPrefix(r.URL.Path, "/fails"):
					return 503
				default:
					return 404
				}
			})
			at := func(url string) func(*diverted.Webhook) {
				return func(w *diverted.Webhook) {
					w.Endpoint.URL, w.FailureHandling = url, &diverted.FailureHandling{Divert: true}
				}
			}
			fails, missing := s.webhook(at("https://receiver.example/fails")), s.webhook(at("https://receiver.example/missing"))
			held, off := s.webhook(at("https://receiver.example/held")), s.webhook(func(w *diverted.Webhook) { w.Enabled = false })
			look := func() map[string]string { // as another process does, which was told nothing yet
				_, points, err := gauges(t, s.store.(diverted.StatsStore), 1)(t.Context(), 0)
				s.is.NoErr(err)
				return points
			}
			points := look()
			s.is.Equal(points["diverted.events{}"], "0")
			s.is.Equal(points["diverted.pending.oldest.age{}"], "0.0")

			for range 3 {
				s.send(t.Context(), fails)
			}
			s.send(t.Context(), missing)
			s.is.NoErr(s.dispatcher.Flush(t.Context()))
			s.is.NoErr(s.store.Suspend(t.Context(), held))
			s.send(t.Context(), held)
			s.send(t.Context(), off)
			s.send(t.Context(), missing)
			points = look()
			for point, value := range map[string]string{
				"diverted.events{error.type=503}": "3",
				"diverted.events{error.type=404}": "1",
				"diverted.events{}":               "", // which would count them twice
				"diverted.pending.deliveries{}":   "3",
				"diverted.due.deliveries{}":       "1",
				"diverted.webhooks{}":             "4",
				"diverted.suspended.webhooks{}":   "1",
				"diverted.disabled.webhooks{}":    "1",
				"diverted.offline{}":              "0",
			} {
				if points[point] != value {
					t.Errorf("%s is %q, not %q", point, points[point], value)
				}
			}

			s.is.NoErr(s.store.Close())
			points, _ = s.collect() // no error: the service ends
			_, told := points["diverted.pending.deliveries{}"]
			s.is.True(!told)
			s.is.Equal(points["diverted.offline{}"], "0")
			s.is.NoErr(s.telemetry.Close())
			points, _ = s.collect()
			_, told = points["diverted.offline{}"]
			s.is.True(!told)
			s.is.Equal(points["diverted.accepted.deliveries{}"], "0") // what is counted is counted still
		})
	}
}

func TestTheOldestPendingAges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newService(t, diverted.NewMemoryStore(), otel.Config{}, diverted.Observer{}, func(*http.Request) int { return 200 })
		w := s.webhook()
		s.send(t.Context(), w)
		time.Sleep(90 * time.Second)
		s.send(t.Context(), w)
		points, _ := s.collect()
		s.is.Equal(points["diverted.pending.oldest.age{}"], "90.0")
	})
}

// statsFunc answers in place of a store.
type statsFunc func(context.Context) (diverted.Stats, error)

func (f statsFunc) Stats(ctx context.Context, _ diverted.StatsQuery) (diverted.Stats, error) {
	return f(ctx)
}

// hang never answers.
func hang(ctx context.Context) (diverted.Stats, error) {
	<-ctx.Done()
	return diverted.Stats{}, ctx.Err()
}

// gauges returns a function that collects the gauges of these numbers for each of n readers, and tells how many are pending;
// empty: it is not told.
func gauges(t *testing.T, stats diverted.StatsStore, n int) (collect func(ctx context.Context, reader int) (pending string, points map[string]string, err error)) {
	t.Helper()
	readers, options := make([]*sdkmetric.ManualReader, n), make([]sdkmetric.Option, n)
	for i := range readers {
		readers[i] = sdkmetric.NewManualReader()
		options[i] = sdkmetric.WithReader(readers[i])
	}
	telemetry, err := otel.New(otel.Config{MeterProvider: sdkmetric.NewMeterProvider(options...), Stats: stats})
	is.New(t).NoErr(err)
	t.Cleanup(func() { is.New(t).NoErr(telemetry.Close()) })
	return func(ctx context.Context, reader int) (string, map[string]string, error) {
		var all metricdata.ResourceMetrics
		err := readers[reader].Collect(ctx, &all)
		points, _ := flat(t, all)
		return points["diverted.pending.deliveries{}"], points, err
	}
}

func TestAStoreThatHangsHidesNoOtherMetric(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		collect := gauges(t, statsFunc(hang), 1)
		began := time.Now()
		pending, points, err := collect(t.Context(), 0)
		is.True(errors.Is(err, context.DeadlineExceeded)) // which the SDK's error handler is told
		is.True(time.Since(began) <= 5*time.Second)       // Prometheus gives a scrape up after 10
		is.Equal(pending, "")
		is.Equal(points["diverted.offline{}"], "0")
		is.Equal(points["diverted.accepted.deliveries{}"], "0")
	})
}

func TestReadersShareAnAnswerForTenSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		asked := 0
		collect := gauges(t, statsFunc(func(context.Context) (diverted.Stats, error) {
			asked++
			time.Sleep(2 * time.Second)
			return diverted.Stats{Pending: asked}, nil
		}), 2)
		var both sync.WaitGroup
		look := func(reader int, want string) {
			pending, _, err := collect(t.Context(), reader)
			is.NoErr(err)
			is.Equal(pending, want)
		}
		both.Go(func() { look(0, "1") })
		both.Go(func() { look(1, "1") })
		both.Wait()
		time.Sleep(10*time.Second - 1)
		look(0, "1")
		time.Sleep(time.Nanosecond)
		look(1, "2")
	})
}

func TestWhatAStoreSaidBeforeItFailedIsNotTold(t *testing.T) {
	fail := func(context.Context) (diverted.Stats, error) { return diverted.Stats{Pending: 7}, io.ErrUnexpectedEOF }
	for why, failing := range map[error]statsFunc{io.ErrUnexpectedEOF: fail, context.DeadlineExceeded: hang} {
		synctest.Test(t, func(t *testing.T) {
			is := is.New(t)
			asked, failed := 0, false
			collect := gauges(t, statsFunc(func(ctx context.Context) (diverted.Stats, error) {
				if asked++; failed {
					return failing(ctx)
				}
				return diverted.Stats{Pending: 3}, nil
			}), 2)
			look := func(reader int, want string, wantErr error) {
				t.Helper()
				pending, points, err := collect(t.Context(), reader)
				is.Equal(pending, want)
				is.True(errors.Is(err, wantErr))                        // which the SDK's error handler is told
				is.Equal(points["diverted.accepted.deliveries{}"], "0") // the others are told all the same
			}
			look(0, "3", nil)
			failed = true
			time.Sleep(10 * time.Second)
			look(0, "", why)
			failed = false
			look(1, "", why)
			is.Equal(asked, 2) // a store that could not answer is not asked again at once
			time.Sleep(10 * time.Second)
			look(1, "3", nil)
		})
	}
}

func TestACollectionThatEndsEarlySaysNothingOfTheStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		asked := 0
		collect := gauges(t, statsFunc(func(ctx context.Context) (diverted.Stats, error) {
			if asked++; asked == 1 {
				return hang(ctx)
			}
			return diverted.Stats{Pending: 3}, nil
		}), 2)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, _, err := collect(short, 0)
		is.True(err != nil)
		pending, _, err := collect(t.Context(), 1)
		is.NoErr(err)
		is.Equal(pending, "3")
	})
}

func TestWhatNoDispatcherOfThisTestTells(t *testing.T) {
	is := is.New(t)
	reader := sdkmetric.NewManualReader()
	telemetry, err := otel.New(otel.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)), WithoutWebhook: true})
	is.NoErr(err)
	var told []string
	o := telemetry.Observer(diverted.Observer{
		Purged: func(p diverted.Purged) { told = append(told, "purged") },
		Alerted: func(_ diverted.WebhookKey, _ diverted.Notice, err error) {
			told = append(told, fmt.Sprint("alerted ", err))
		},
		Offline: func() { told = append(told, "offline") },
		Online:  func(after time.Duration) { told = append(told, fmt.Sprint("online ", after)) },
	})
	w := diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()}
	o.Purged(diverted.Purged{Webhook: w, Diverted: 3, Pending: 2})
	o.Purged(diverted.Purged{Webhook: w, Diverted: 1})
	o.Alerted(w, diverted.Notice{}, nil)
	o.Alerted(w, diverted.Notice{}, io.ErrUnexpectedEOF)
	o.Diverted(diverted.Attempt{Key: diverted.Key{Tenant: tenant, Webhook: w.Webhook}}) // by the host itself
	o.Offline()
	collect := func() map[string]string {
		var all metricdata.ResourceMetrics
		is.NoErr(reader.Collect(t.Context(), &all))
		points, _ := flat(t, all)
		return points
	}
	points := collect()
	for point, value := range map[string]string{
		"diverted.purged.deliveries{state=diverted}":    "4",
		"diverted.purged.deliveries{state=pending}":     "2",
		"diverted.alert.notices{outcome=sent}":          "1",
		"diverted.alert.notices{outcome=given_up}":      "1",
		"diverted.settled.deliveries{outcome=diverted}": "1",
		"diverted.attempt.duration{outcome=diverted}":   "", // there was none
		"diverted.outages{}":                            "1",
		"diverted.offline{}":                            "1",
	} {
		if points[point] != value {
			t.Errorf("%s is %q, not %q", point, points[point], value)
		}
	}
	o.Online(time.Minute)
	is.Equal(collect()["diverted.offline{}"], "0")
	is.Equal(told, []string{"purged", "purged", "alerted <nil>", "alerted unexpected EOF", "offline", "online 1m0s"})
	is.NoErr(telemetry.Close())
}

func TestOfflineIsToldAsLongAsAnyDispatcherIs(t *testing.T) {
	is := is.New(t)
	reader := sdkmetric.NewManualReader()
	telemetry, err := otel.New(otel.Config{MeterProvider: sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))})
	is.NoErr(err)
	a, b := telemetry.Observer(diverted.Observer{}), telemetry.Observer(diverted.Observer{})
	offline := func() string {
		var all metricdata.ResourceMetrics
		is.NoErr(reader.Collect(t.Context(), &all))
		points, _ := flat(t, all)
		return points["diverted.offline{}"]
	}
	a.Offline()
	b.Offline()
	is.Equal(offline(), "1")
	a.Online(time.Second)
	is.Equal(offline(), "1")
	b.Online(time.Second)
	is.Equal(offline(), "0")
	b.Online(time.Second) // told by another goroutine than its Offline, and before it
	b.Offline()
	is.Equal(offline(), "0")
	is.NoErr(telemetry.Close())
}
