package otel

import (
	"context"
	"time"

	"github.com/divertedevents/diverted"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// Observer returns one that keeps the metrics and then calls the host's own, which may be the zero value.
func (t *Telemetry) Observer(host diverted.Observer) diverted.Observer {
	m := t.meters
	count := func(c metric.Int64Counter) func(diverted.Key) {
		return func(k diverted.Key) { c.Add(context.Background(), 1, m.about(k.WebhookKey())) }
	}
	webhook := func(c metric.Int64Counter) func(diverted.WebhookKey) {
		return func(k diverted.WebhookKey) { c.Add(context.Background(), 1, m.about(k)) }
	}
	settled := func(outcome string) func(diverted.Attempt) {
		return func(a diverted.Attempt) { m.settle(outcome, a) }
	}
	return diverted.Observer{
		Accepted:    both(count(m.accepted), host.Accepted),
		Attempted:   host.Attempted, // what became of it is told by the others
		Delivered:   both(settled("delivered"), host.Delivered),
		Retried:     both(settled("retried"), host.Retried),
		Held:        both(settled("held"), host.Held),
		Diverted:    both(settled("diverted"), host.Diverted),
		Dropped:     both(settled("dropped"), host.Dropped),
		Suspended:   both(webhook(m.suspensions), host.Suspended),
		Unsuspended: both(webhook(m.unsuspensions), host.Unsuspended),
		Resent:      both(count(m.resent), host.Resent),
		Deleted:     both(count(m.deleted), host.Deleted),
		Purged:      both(m.purge, host.Purged),
		Alerted: func(k diverted.WebhookKey, n diverted.Notice, err error) {
			m.alert(k, err)
			if host.Alerted != nil {
				host.Alerted(k, n, err)
			}
		},
		Offline: func() {
			m.offline.Add(1)
			m.outages.Add(context.Background(), 1)
			if host.Offline != nil {
				host.Offline()
			}
		},
		Online: both(func(time.Duration) { m.offline.Add(-1) }, host.Online),
	}
}

// both calls ours and then theirs, if there is one.
func both[T any](ours, theirs func(T)) func(T) {
	if theirs == nil {
		return ours
	}
	return func(v T) {
		ours(v)
		theirs(v)
	}
}

// about returns the attributes of a webhook, and others beside them.
func (m *meters) about(k diverted.WebhookKey, others ...attribute.KeyValue) metric.MeasurementOption {
	if !m.withoutWebhook {
		others = append(others, attribute.String(tenantKey, k.Tenant.String()), attribute.String(webhookKey, k.Webhook.String()))
	}
	return metric.WithAttributeSet(attribute.NewSet(others...))
}

// settle counts what became of a delivery, and how long its attempt took, if there was one. A receiver chooses its
// answers: with an exact status in the attributes it could make hundreds of sets of them, until the SDK's limit
// hides those of everybody else. So statuses are told by their class, and what is alerted has no webhook at all.
func (m *meters) settle(outcome string, a diverted.Attempt) {
	ctx, webhook := context.Background(), a.Key.WebhookKey()
	attributes := []attribute.KeyValue{attribute.String(outcomeKey, outcome)}
	if a.Failure != nil {
		attributes = append(attributes, attribute.String(errorKey, class(a.Failure.Trigger)))
	}
	became := m.about(webhook, attributes...)
	m.settled.Add(ctx, 1, became)
	if outcome == "dropped" {
		m.dropped.Add(ctx, 1)
	}
	if a.Number > 0 {
		m.attempt.Record(ctx, a.Duration.Seconds(), became)
	}
	if outcome == "delivered" && !a.AcceptedAt.IsZero() {
		m.delivery.Record(ctx, max(a.Began.Add(a.Duration).Sub(a.AcceptedAt).Seconds(), 0), m.about(webhook))
	}
}

// class is 3xx, 4xx, 5xx or timeout.
func class(observed diverted.Trigger) string {
	for _, t := range diverted.AllTriggers() {
		if t.Matches(observed) {
			return string(t)
		}
	}
	return string(diverted.TriggerTimeout)
}

func (m *meters) purge(p diverted.Purged) {
	for state, n := range map[string]int{"diverted": p.Diverted, "pending": p.Pending} {
		if n > 0 {
			m.purged.Add(context.Background(), int64(n), m.about(p.Webhook, attribute.String(stateKey, state)))
		}
	}
}

func (m *meters) alert(k diverted.WebhookKey, err error) {
	outcome := "sent"
	if err != nil {
		outcome = "given_up"
	}
	m.notices.Add(context.Background(), 1, m.about(k, attribute.String(outcomeKey, outcome)))
}
