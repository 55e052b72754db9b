package otel

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// The keys of attributes. error.type is OpenTelemetry's own; here it is a trigger, such as 503, 5xx or timeout.
const (
	tenantKey  = "diverted.tenant.id"
	webhookKey = "diverted.webhook.id"
	outcomeKey = "diverted.outcome"
	stateKey   = "diverted.state"
	errorKey   = "error.type"
)

// meters are the instruments. README.md says what each of them is.
type meters struct {
	withoutWebhook bool

	accepted, settled, dropped, resent, deleted, purged metric.Int64Counter
	suspensions, unsuspensions, notices                 metric.Int64Counter
	outages                                             metric.Int64Counter
	attempt, delivery                                   metric.Float64Histogram

	offline atomic.Int64 // how many dispatchers are amid an outage
	gauges  metric.Registration
}

// The bounds of the histograms' buckets, in seconds: of an attempt those that OpenTelemetry advises for HTTP,
// and longer ones up to the longest timeout; of a delivery those of its retries too.
var (
	attemptBounds  = []float64{.005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 15, 30, 60, 300}
	deliveryBounds = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60, 600, 3600, 6 * 3600, 24 * 3600}
)

func newMeters(meter metric.Meter, config Config) (*meters, error) {
	m := &meters{withoutWebhook: config.WithoutWebhook}
	var errs []error
	counter := func(name, unit, what string) metric.Int64Counter {
		c, err := meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		if err == nil {
			c.Add(context.Background(), 0) // there is nothing yet, which is known
		}
		return c
	}
	histogram := func(name, what string, bounds []float64) metric.Float64Histogram {
		h, err := meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(what), metric.WithExplicitBucketBoundaries(bounds...))
		errs = append(errs, err)
		return h
	}
	m.accepted = counter("diverted.accepted.deliveries", "{delivery}", "Deliveries that were accepted.")
	m.settled = counter("diverted.settled.deliveries", "{delivery}", "What became of deliveries after an attempt, or without one.")
	m.dropped = counter("diverted.dropped.deliveries", "{delivery}", "Deliveries that were dropped, of all webhooks.")
	m.attempt = histogram("diverted.attempt.duration", "How long attempts took.", attemptBounds)
	m.delivery = histogram("diverted.delivery.duration", "How long deliveries took from their acceptance until a receiver answered 2xx.", deliveryBounds)
	m.resent = counter("diverted.resent.deliveries", "{delivery}", "Diverted events that were resent.")
	m.deleted = counter("diverted.deleted.deliveries", "{delivery}", "Diverted events that were deleted.")
	m.purged = counter("diverted.purged.deliveries", "{delivery}", "What retention deleted.")
	m.suspensions = counter("diverted.webhook.suspensions", "{suspension}", "How often a webhook was suspended.")
	m.unsuspensions = counter("diverted.webhook.unsuspensions", "{suspension}", "How often a suspension ended.")
	m.notices = counter("diverted.alert.notices", "{notice}", "Notices to alert endpoints that were sent, or given up.")
	m.outages = counter("diverted.outages", "{outage}", "How often no host responded, so that the fault is presumed here.")
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	var err error
	m.gauges, err = m.observe(meter, config.Stats)
	return m, err
}

// statsTime bounds the question for numbers at a collection: half of what Prometheus gives a scrape by default, which without
// an answer would lose all other metrics too.
const statsTime = 5 * time.Second

// keepStats is for how long an answer is told again: less than the time between two collections usually is.
const keepStats = 10 * time.Second

// numbers are those of a store, which may have to read millions of rows to tell them: readers share an answer. A failure is one
// too, else a store that cannot answer in time would be asked without end, by each of them.
type numbers struct {
	store diverted.StatsStore
	turn  chan struct{} // of one at a time, who asks or reads what follows
	stats diverted.Stats
	err   error
	until time.Time
}

func (n *numbers) get(collection context.Context) (diverted.Stats, error) {
	ctx, cancel := context.WithTimeout(collection, statsTime)
	defer cancel()
	select {
	case n.turn <- struct{}{}:
		defer func() { <-n.turn }()
	case <-ctx.Done():
		return diverted.Stats{}, ctx.Err()
	}
	if time.Now().Before(n.until) {
		return n.stats, n.err
	}
	stats, err := n.store.Stats(ctx, diverted.StatsQuery{})
	if collection.Err() == nil { // else it is the collection that ended, which says nothing of the store
		n.stats, n.err, n.until = stats, err, time.Now().Add(keepStats)
	}
	return stats, err
}

// observe makes the gauges. They are gauges and no sums, since all processes on a store tell the same numbers.
func (m *meters) observe(meter metric.Meter, store diverted.StatsStore) (metric.Registration, error) {
	var errs []error
	gauge := func(name, unit, what string) metric.Int64ObservableGauge {
		g, err := meter.Int64ObservableGauge(name, metric.WithUnit(unit), metric.WithDescription(what))
		errs = append(errs, err)
		return g
	}
	offline := gauge("diverted.offline", "", "1 during an outage of this process's own network, else 0.")
	pending := gauge("diverted.pending.deliveries", "{delivery}", "Deliveries on their way, or held.")
	due := gauge("diverted.due.deliveries", "{delivery}", "Deliveries of active webhooks that are due now, also what waits for its webhook's pause or room.")
	events := gauge("diverted.events", "{event}", "Diverted events.")
	webhooks := gauge("diverted.webhooks", "{webhook}", "Webhooks.")
	suspended := gauge("diverted.suspended.webhooks", "{webhook}", "Webhooks that are suspended.")
	disabled := gauge("diverted.disabled.webhooks", "{webhook}", "Webhooks that are disabled.")
	oldest, err := meter.Float64ObservableGauge("diverted.pending.oldest.age", metric.WithUnit("s"),
		metric.WithDescription("How long ago the oldest pending delivery was accepted; 0: there is none."))
	if err := errors.Join(append(errs, err)...); err != nil {
		return nil, err
	}
	kept := &numbers{store: store, turn: make(chan struct{}, 1)}
	return meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		o.ObserveInt64(offline, max(0, min(m.offline.Load(), 1)))
		if store == nil {
			return nil
		}
		stats, err := kept.get(ctx)
		switch {
		case errors.Is(err, diverted.ErrClosed):
			return nil // the service ends; there is nothing to tell any more
		case err != nil:
			return err // no number is better than a wrong one
		}
		o.ObserveInt64(pending, int64(stats.Pending))
		o.ObserveInt64(due, int64(stats.Due))
		o.ObserveInt64(webhooks, int64(stats.Webhooks))
		o.ObserveInt64(suspended, int64(stats.Suspended))
		o.ObserveInt64(disabled, int64(stats.Disabled))
		age := 0.0
		if !stats.OldestPending.IsZero() {
			age = max(time.Since(stats.OldestPending).Seconds(), 0)
		}
		o.ObserveFloat64(oldest, age)
		if len(stats.Diverted) == 0 {
			o.ObserveInt64(events, 0)
		}
		for trigger, n := range stats.Diverted {
			o.ObserveInt64(events, int64(n), metric.WithAttributes(attribute.String(errorKey, string(trigger))))
		}
		return nil
	}, offline, pending, due, events, webhooks, suspended, disabled, oldest)
}
