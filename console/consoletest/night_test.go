package consoletest

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// night is what an operator may find.
type night struct {
	*service
	now     time.Time
	random  *rand.Rand
	entropy *rand.ChaCha8

	// billing was suspended three hours ago, healthy is well again, flaky fails now and then.
	billing, healthy, flaky diverted.Webhook
	// held is an event of the one, diverted of the other.
	held, diverted diverted.Key
}

// retries are those of the webhooks of the night.
var retries = diverted.RetryStrategy{Attempts: 5, Interval: time.Minute}

// newNight has things happen within thirty days, so that all of them agree: what is diverted is in the chart, each of its
// attempts in the numbers of its hour, and no event is older than its locator and its body say.
//
// Every night a run issues invoices. In the last one the receiver of Fabrikam broke down; the run ended, and half an hour later,
// when the last of it was diverted, somebody suspended the webhook.
func newNight(s *service) *night {
	s.t.Helper()
	n := &night{service: s, now: time.Now(), random: rand.New(rand.NewPCG(7, 23)), entropy: rand.NewChaCha8([32]byte{7, 23})}
	s.history.events, s.history.webhooks = map[ulid.ULID]pastEvent{}, map[ulid.ULID]*pastWebhook{}
	s.history.pending = map[ulid.ULID][]diverted.PendingDelivery{}

	url := func(u string) func(*diverted.Webhook) { return func(w *diverted.Webhook) { w.Endpoint.URL = u } }
	signed := func(w *diverted.Webhook) {
		w.Endpoint.HMACEnabled, w.Endpoint.Secret = true, diverted.GenerateSecret()
		w.Endpoint.Headers = http.Header{"Authorization": {"Bearer not-to-be-seen"}, "X-Region": {"eu-west"}}
	}
	handled := func(alert string) func(*diverted.Webhook) {
		return func(w *diverted.Webhook) {
			w.FailureHandling = &diverted.FailureHandling{Divert: true, Retry: &retries}
			if alert != "" {
				w.FailureHandling.Alert = &diverted.Endpoint{URL: alert}
			}
		}
	}
	n.healthy = s.webhook("Northwind warehouse", url("https://hooks.northwind.example/in"), signed, handled(""))
	s.webhook("Contoso ledger (staging)", url("https://staging.contoso.example/in?token=t0ps3cret"), func(w *diverted.Webhook) { w.Enabled = false })
	n.billing = s.webhook("Fabrikam billing", url("https://api.fabrikam.example/webhooks/orders"), signed, handled("https://oncall.fabrikam.example/alerts"))
	n.flaky = s.webhook("Adventure Works mailing", url("https://mail.adventure-works.example/events"))
	s.webhook("Tailspin analytics", url("https://collect.tailspin.example/v2"))

	n.past(n.billing, func(ago int) (delivered, failed int) {
		switch {
		case ago < 3:
			return 0, 0
		case ago <= 9:
			return 4, 0 // beside what fails
		case ago%24 >= 4 && ago%24 <= 9:
			return 200 + n.random.IntN(180), n.random.IntN(4)
		}
		return 60 + n.random.IntN(60), n.random.IntN(3)
	})
	n.past(n.healthy, func(int) (int, int) { return 180 + n.random.IntN(80), n.random.IntN(2) })
	n.past(n.flaky, func(int) (int, int) { return 200, 30 + n.random.IntN(20) })

	n.breakdown()
	n.outage()
	past := s.history.webhooks[n.flaky.Locator]
	past.success, past.failure = n.now.Add(-50*time.Second), n.now.Add(-4*time.Second)
	for i, ago := range []time.Duration{5, 4, 2} {
		accepted := n.now.Add(-ago * time.Minute)
		failures := n.attempts("mail.adventure-works.example", accepted, []diverted.Trigger{"500", "500", "500"}[:3-i/2])
		n.pend(n.flaky, n.event(accepted, i), accepted, failures)
	}
	return n
}

// past has a webhook's hours go by.
func (n *night) past(w diverted.Webhook, each func(ago int) (delivered, failed int)) {
	past := &pastWebhook{hours: map[time.Time]*diverted.HourStats{}}
	n.history.webhooks[w.Locator] = past
	for ago := diverted.MaxStatsHours - 1; ago >= 0; ago-- {
		at := n.now.Add(-time.Duration(ago) * time.Hour)
		hour := past.hour(at)
		hour.Delivered, hour.Failed = each(ago)
		past.success, past.failure = at.Add(-3*time.Second), at.Add(-time.Minute)
	}
}

// breakdown has 1,217 of Fabrikam's invoices diverted in six hours, more and more of them, and then suspends the webhook.
func (n *night) breakdown() {
	suspended := n.now.Add(-3 * time.Hour)
	past := n.history.webhooks[n.billing.Locator]
	past.suspended, past.success, past.failure = suspended, suspended.Add(-12*time.Minute), time.Time{}
	for hour, many := range []int{62, 118, 164, 208, 296, 369} {
		for i := range many {
			end := suspended.Add(time.Duration(hour-6)*time.Hour + time.Duration(i+1)*time.Hour/time.Duration(many))
			accepted := end.Add(-36 * time.Minute) // the longest that five retries take
			triggers := make([]diverted.Trigger, 6)
			for k := range triggers {
				triggers[k] = n.trigger()
			}
			key := n.divert(n.billing, n.event(accepted, hour*400+i), accepted, n.attempts("api.fabrikam.example", accepted, triggers))
			if hour == 0 && i == 3 {
				n.held = key
			}
		}
	}
	for i := range 38 {
		accepted := suspended.Add(time.Duration(i-2) * 4 * time.Minute)
		var failures []diverted.Failure
		if i < 2 {
			failures = n.attempts("api.fabrikam.example", accepted, []diverted.Trigger{"503", "503", "503", "503"}[:4-i])
			past.failed(failures, false)
		}
		n.pend(n.billing, n.event(accepted, 3000+i), accepted, failures)
	}
	n.is.NoErr(n.store.Suspend(n.t.Context(), n.billing.Key()))
}

// outage has Northwind's receiver away for half an hour, five hours ago: the first that it missed are diverted, the others got
// through by a retry.
func (n *night) outage() {
	past := n.history.webhooks[n.healthy.Locator]
	began := n.now.Add(-5*time.Hour - 40*time.Minute)
	for i := range 12 {
		accepted := began.Add(time.Duration(i) * 20 * time.Second)
		triggers := []diverted.Trigger{"503", "503", "503", "503", "503", "503"}
		triggers[i%5] = diverted.TriggerTimeout
		key := n.divert(n.healthy, n.event(accepted, 5000+i), accepted, n.attempts("hooks.northwind.example", accepted, triggers))
		if i == 1 {
			n.diverted = key
		}
	}
	for i := range 90 {
		accepted := began.Add(time.Duration(12+i) * 20 * time.Second)
		past.failed(n.attempts("hooks.northwind.example", accepted, []diverted.Trigger{"503", "503", "503", "503"}), false)
	}
	past.success, past.failure = n.now.Add(-3*time.Second), began.Add(40*time.Minute)
}

// trigger is what an attempt at a receiver that broke down fails with.
func (n *night) trigger() diverted.Trigger {
	switch k := n.random.IntN(60); {
	case k < 3:
		return diverted.TriggerTimeout
	case k < 4:
		return "429"
	}
	return "503"
}

// attempts are those of a delivery that failed with these, as a dispatcher makes them.
func (n *night) attempts(host string, accepted time.Time, triggers []diverted.Trigger) []diverted.Failure {
	const excerpt = `{"error":"down for maintenance"}`
	var all []diverted.Failure
	at := accepted.Add(4 * time.Millisecond)
	waits := retries.Schedule()
	for i, trigger := range triggers {
		f := diverted.Failure{Trigger: trigger, Attempt: i + 1, Duration: time.Duration(180+n.random.IntN(240)) * time.Millisecond}
		switch trigger {
		case diverted.TriggerTimeout:
			f.Duration, f.Message = diverted.DefaultTimeout, "https://"+host+": no answer within "+diverted.DefaultTimeout.String()
		case "503":
			f.Status, f.Message, f.Excerpt = 503, "503 Service Unavailable: "+excerpt, excerpt
			if i == 3 {
				f.RetryAfter = 2 * time.Minute
			}
		case "429":
			f.Status, f.Message, f.RetryAfter = 429, "429 Too Many Requests", time.Minute
		case "500":
			f.Status, f.Message = 500, "500 Internal Server Error"
		}
		at = at.Add(f.Duration)
		f.At = at
		all = append(all, f)
		if i < len(waits) {
			at = at.Add(max(time.Duration(float64(waits[i])*(0.9+0.2*n.random.Float64())), f.RetryAfter)) // the dispatcher's jitter
		}
	}
	return all
}

// order is what the events of a shop are about. They are not the real ones of package testdata, which are none of a shop's.
type order struct {
	Order    string   `json:"order"`
	Invoice  string   `json:"invoice"`
	Customer customer `json:"customer"`
	Lines    []line   `json:"lines"`
	Currency string   `json:"currency"`
	Total    float64  `json:"total"`
	Gift     bool     `json:"gift"`
	Note     *string  `json:"note"`
}

type customer struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

type line struct {
	SKU      string  `json:"sku"`
	Title    string  `json:"title"`
	Quantity int     `json:"quantity"`
	Price    float64 `json:"price"`
}

// event is the ith of a shop, published at this moment.
func (n *night) event(at time.Time, i int) diverted.Event {
	n.t.Helper()
	types := []string{"invoice.issued", "invoice.issued", "order.paid", "invoice.issued", "invoice.paid", "order.shipped"}
	customers := []string{"Adatum Corporation", "Wide World Importers", "Fourth Coffee", "Litware", "Proseware", "Alpine Ski House"}
	teas := 1 + i%4
	data, err := json.Marshal(order{
		Order: fmt.Sprintf("ord_%d", 104_821+i), Invoice: fmt.Sprintf("inv_2026_%05d", 8_112+i),
		Customer: customer{fmt.Sprintf("cus_%d", 2_000+i%97), customers[i%len(customers)]},
		Lines:    []line{{"TEA-0412", "Darjeeling, first flush, 250 g", teas, 18.9}},
		Currency: "EUR", Total: float64(teas*1890) / 100,
	})
	n.is.NoErr(err)
	return diverted.Event{Locator: n.locator(at), RequestLocator: n.locator(at), Timestamp: at, Type: types[i%len(types)], Data: data}
}

func (n *night) locator(at time.Time) ulid.ULID {
	id, err := ulid.New(ulid.Timestamp(at), n.entropy)
	n.is.NoErr(err)
	return id
}

// divert sets an event aside that went through this.
func (n *night) divert(w diverted.Webhook, event diverted.Event, accepted time.Time, failures []diverted.Failure) diverted.Key {
	n.t.Helper()
	body, err := event.Encode()
	n.is.NoErr(err)
	d := diverted.DivertedEvent{
		Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Locator}, RequestLocator: event.RequestLocator,
		EventType: event.Type, Body: body, Failure: failures[len(failures)-1],
	}
	n.is.NoErr(n.store.Divert(n.t.Context(), d))
	n.history.events[event.Locator] = pastEvent{accepted, failures}
	n.history.webhooks[w.Locator].failed(failures, true)
	return d.Key
}

// pend has an event wait.
func (n *night) pend(w diverted.Webhook, event diverted.Event, accepted time.Time, failures []diverted.Failure) {
	d := diverted.PendingDelivery{
		Key: diverted.Key{Tenant: w.Tenant, Webhook: w.Locator, Event: event.Locator}, RequestLocator: event.RequestLocator,
		EventType: event.Type, AcceptedAt: accepted, Attempts: len(failures),
	}
	if k := len(failures); k > 0 {
		d.Failure = &failures[k-1]
		if w.Active() {
			d.Due = d.Failure.At.Add(retries.Schedule()[k-1])
		}
	}
	n.history.pending[w.Locator] = append(n.history.pending[w.Locator], d)
}
