package diverted

import (
	"context"
)

// PingType is the event type of the message that [Dispatcher.Ping] sends.
const PingType = "diverted.ping"

// PingResult is how a test attempt ended.
type PingResult struct {
	// Delivered: the receiver answered 2xx.
	Delivered bool
	// Failure is why not, nil if it did.
	Failure *Failure
}

// Ping makes one test attempt to a webhook's endpoint, guarded and signed as every other, and says how it
// ended. It is outside the queue: nothing is stored, retried or diverted, the webhook may be disabled or
// suspended, and Run need not run. The event is of type [PingType], and its data is
// {"webhookLocator": …}. [ErrNotFound] if the tenant has no such webhook. Callers should not let strangers
// ping often.
func (d *Dispatcher) Ping(ctx context.Context, key WebhookKey) (PingResult, error) {
	webhook, err := d.store.FetchWebhook(ctx, key)
	if err != nil {
		return PingResult{}, err
	}
	event, err := NewEvent(PingType, map[string]string{"webhookLocator": key.Webhook.String()})
	if err != nil {
		return PingResult{}, err
	}
	body, err := event.Encode()
	if err != nil {
		return PingResult{}, err
	}
	r := d.sender.send(ctx, request{endpoint: &webhook.Endpoint, id: event.Locator.String(), body: body})
	if d.session.Load() == nil && d.config.Transport == nil {
		d.sender.close() // which the end of Run does otherwise: a dispatcher that does not run has no goroutine
	}
	if r.aborted {
		return PingResult{}, ctx.Err()
	}
	return PingResult{Delivered: r.failure == nil, Failure: r.failure}, nil
}
