package modeltest

import (
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/divertedevents/diverted"
)

// The names that calls draw from: few, so that they meet. Both tenants have webhooks of the same locators.
var (
	tenants = []uuid.UUID{
		uuid.MustParse("0a000000-0000-4000-8000-000000000001"),
		uuid.MustParse("0a000000-0000-4000-8000-000000000002"),
	}
	webhooks = locators(2)
	events   = locators(8)
	types    = []string{"order.paid", "order.cancelled", "invoice.sent"}
	secrets  = []diverted.Secret{
		"", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
	}
)

func locators(n int) []ulid.ULID {
	all := make([]ulid.ULID, n)
	for i := range all {
		all[i] = ulid.ULID{0: 1, 15: byte(i + 1)}
	}
	return all
}

// name is a key as the draws number it.
func name(k diverted.Key) string {
	return fmt.Sprintf("webhook %d event %d", slices.Index(keys(), k.WebhookKey()), slices.Index(events, k.Event))
}

// keys are all webhooks that there can be.
func keys() []diverted.WebhookKey {
	var all []diverted.WebhookKey
	for _, t := range tenants {
		for _, w := range webhooks {
			all = append(all, diverted.WebhookKey{Tenant: t, Webhook: w})
		}
	}
	return all
}

func drawWebhookKey(t *rapid.T) diverted.WebhookKey {
	return keys()[rapid.IntRange(0, len(tenants)*len(webhooks)-1).Draw(t, "webhook")]
}

func drawEvent(t *rapid.T) ulid.ULID {
	return events[rapid.IntRange(0, len(events)-1).Draw(t, "event")]
}

func drawKey(t *rapid.T) diverted.Key {
	w := drawWebhookKey(t)
	return diverted.Key{Tenant: w.Tenant, Webhook: w.Webhook, Event: drawEvent(t)}
}

func drawFailure(t *rapid.T) *diverted.Failure {
	f := diverted.Failure{
		Trigger: "503", Message: "503 Service Unavailable: later", Status: 503, Excerpt: "later", At: now(),
		Attempt: rapid.IntRange(1, 11).Draw(t, "attempt"), Duration: time.Second, RetryAfter: time.Minute,
	}
	if rapid.Bool().Draw(t, "timeout") {
		f = diverted.Failure{Trigger: diverted.TriggerTimeout, Message: "no answer in 15s", At: now()}
	}
	return &f
}

// drawTime draws a lease or a wait. Where the clock is not exact, these never end near to a moment that
// the store is looked at, since all others are whole minutes.
func (m *machine) drawTime(t *rapid.T, label string) time.Duration {
	if m.h.RealTime {
		return time.Duration(rapid.IntRange(0, 14).Draw(t, label))*time.Minute + 20*time.Second
	}
	return max(1, time.Duration(rapid.Int64Range(0, int64(diverted.MaxLease)).Draw(t, label)))
}

// drawMessage draws a message for a webhook, or for all.
func drawMessage(t *rapid.T) diverted.Message {
	key := drawKey(t)
	if rapid.IntRange(0, 2).Draw(t, "publish") == 0 {
		key.Webhook = ulid.ULID{}
	}
	return diverted.Message{
		Tenant: key.Tenant, Webhook: key.Webhook, Event: key.Event,
		RequestLocator: key.Event, EventType: rapid.SampledFrom(types).Draw(t, "type"),
		Body: fmt.Appendf(nil, `{"locator":%q,"data":%q}`, key.Event, rapid.SampledFrom([]string{"", "much longer than the other"}).Draw(t, "data")),
	}
}

// drawClaim draws a request to claim, and what its functions answer. held is filled while the store asks.
func (m *machine) drawClaim(t *rapid.T) (*diverted.ClaimRequest, bounds) {
	b := bounds{
		count: rapid.SampledFrom([]int{1, 2, 3, 100}).Draw(t, "count"),
		bytes: rapid.SampledFrom([]int{1, 100, 1 << 20, 1 << 20}).Draw(t, "bytes"),
		lease: m.drawTime(t, "lease"),
		held:  make(map[diverted.Key]bool),
		short: make(map[diverted.WebhookKey]bool),
	}
	r := &diverted.ClaimRequest{Count: b.count, Bytes: b.bytes, Lease: b.lease, Notices: rapid.IntRange(0, 2).Draw(t, "notices")}
	if rapid.Bool().Draw(t, "reserve") {
		b.room = make(map[diverted.WebhookKey]int)
		left := make(map[diverted.WebhookKey]int)
		for _, k := range keys() {
			b.room[k] = rapid.IntRange(0, 3).Draw(t, "room")
			left[k] = b.room[k]
		}
		r.Reserve = func(w diverted.WebhookKey, want int) int {
			given := min(want, left[w])
			b.short[w] = b.short[w] || given < want
			left[w] -= given
			return given
		}
	}
	if rapid.Bool().Draw(t, "in hand") {
		r.InFlight = func(k diverted.Key) bool { b.held[k] = true; return true }
	}
	return r, b
}
