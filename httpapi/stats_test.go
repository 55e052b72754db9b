package httpapi_test

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
)

// statistics are the numbers of a webhook, or, with the first three, of a tenant.
type statistics struct {
	Webhooks, Suspended, Disabled *int
	Pending, Due, Diverted        int
	OldestPending                 *time.Time
	DivertedByTrigger             map[string]int
	LastSuccess, LastFailure      *time.Time
	SuspendedSince                *time.Time
	Hours                         []struct {
		Hour                        time.Time
		Delivered, Failed, Diverted int
		DivertedByTrigger           map[string]int
	}
}

func (a *api) stats(target string) (s statistics) {
	a.t.Helper()
	res := a.do("GET", target, "")
	a.is.Equal(res.StatusCode, 200)
	a.is.NoErr(json.Unmarshal([]byte(res.body), &s))
	return s
}

func TestStatsOfAWebhookThatHasNothingAreZeros(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	const nothing = `"pending":0,"due":0,"oldestPending":null,"diverted":0,"divertedByTrigger":{},"lastSuccess":null,"lastFailure":null,"suspendedSince":null`
	a.is.Equal(a.do("GET", webhookPath(w)+"/stats", "").body, `{`+nothing+`}`)
	a.is.Equal(a.do("GET", webhookPath(w)+"/stats?hours=24", "").body, `{`+nothing+`,"hours":[]}`)
	a.is.Equal(a.do("GET", webhooksPath(tenant)+"/stats", "").body, `{"webhooks":1,"suspended":0,"disabled":0,`+nothing+`}`)
	a.is.Equal(a.do("GET", webhooksPath(foreign)+"/stats", "").body, `{"webhooks":0,"suspended":0,"disabled":0,`+nothing+`}`)
	for _, hours := range []string{"0", "721", "-1", "1.5", ""} {
		a.is.True(a.do("GET", webhookPath(w)+"/stats?hours="+hours, "").names("hours"))
		a.is.True(a.do("GET", webhooksPath(tenant)+"/stats?hours="+hours, "").names("hours"))
	}

	unknown := webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(9)}) + "/stats"
	theirs := webhookPath(diverted.WebhookKey{Tenant: foreign, Webhook: w.Webhook}) + "/stats"
	a.is.Equal(a.do("GET", unknown, "").code(), "not_found")
	a.is.Equal(a.do("GET", theirs, "").body, a.do("GET", unknown, "").body)
}

func TestStatsTellWhatIsWaitingWhatFailedAndSinceWhen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		w, held := a.webhook(tenant, 1).Key(), a.webhook(tenant, 2).Key()
		a.webhook(tenant, 3, func(w *diverted.Webhook) { w.Enabled = false })
		began := time.Now()
		dispatcher, err := diverted.NewDispatcher(a.store, diverted.Config{Jitter: -1, Logger: slog.New(slog.DiscardHandler), Transport: receiver(func(r *http.Request) int {
			if r.Header.Get("webhook-id") == locator(7).String() {
				return 200
			}
			return 500
		})})
		a.is.NoErr(err)
		a.accept(w, 7)
		a.accept(w, 8)
		a.is.NoErr(dispatcher.Flush(t.Context())) // one is delivered, one waits for its retry
		a.divert(w, 9)
		a.divert(w, 10, of("timeout"))
		a.divert(w, 11)
		time.Sleep(time.Minute + time.Second)
		a.is.NoErr(a.store.Suspend(t.Context(), held))
		a.accept(held, 12)

		s := a.stats(webhookPath(w) + "/stats?hours=2")
		a.is.Equal([3]int{s.Pending, s.Due, s.Diverted}, [3]int{1, 1, 3})
		a.is.Equal(s.DivertedByTrigger, map[string]int{"503": 2, "timeout": 1})
		a.is.True(s.OldestPending.Equal(began))
		a.is.True(s.LastSuccess.Equal(began))
		a.is.True(s.LastFailure.Equal(began))
		a.is.True(s.SuspendedSince == nil && s.Webhooks == nil)
		a.is.Equal(len(s.Hours), 1)
		a.is.True(s.Hours[0].Hour.Equal(began)) // midnight
		a.is.Equal([3]int{s.Hours[0].Delivered, s.Hours[0].Failed, s.Hours[0].Diverted}, [3]int{1, 1, 3})
		a.is.Equal(s.Hours[0].DivertedByTrigger, map[string]int{"503": 2, "timeout": 1})
		a.is.Equal(len(a.stats(webhookPath(w)+"/stats").Hours), 0)

		s = a.stats(webhookPath(held) + "/stats")
		a.is.Equal([3]int{s.Pending, s.Due, s.Diverted}, [3]int{1, 0, 0})
		a.is.True(s.SuspendedSince.Equal(began.Add(time.Minute + time.Second)))

		s = a.stats(webhooksPath(tenant) + "/stats?hours=1")
		a.is.Equal([3]int{*s.Webhooks, *s.Suspended, *s.Disabled}, [3]int{3, 1, 1})
		a.is.Equal([3]int{s.Pending, s.Due, s.Diverted}, [3]int{2, 1, 3})
		a.is.Equal(len(s.Hours), 1)
	})
}

func TestPendingTellsWhatIsWaitingForWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		w := a.webhook(tenant, 1).Key()
		dispatcher, err := diverted.NewDispatcher(a.store, diverted.Config{Jitter: -1, Logger: slog.New(slog.DiscardHandler), Transport: receiver(func(*http.Request) int { return 500 })})
		a.is.NoErr(err)
		waiting := a.accept(w, 7)
		a.is.NoErr(dispatcher.Flush(t.Context()))
		time.Sleep(time.Second)
		fresh := a.accept(w, 8)

		var items []map[string]any
		a.is.NoErr(json.Unmarshal([]byte(a.do("GET", webhookPath(w)+"/pending", "").body), &items))
		a.is.Equal(len(items), 2)
		message, _ := items[0]["failureMessage"].(string)
		a.is.True(strings.Contains(message, "500"))
		delete(items[0], "failureMessage")
		a.is.Equal(items[0], map[string]any{
			"eventLocator": waiting.Event.String(), "requestLocator": locator(200).String(), "eventType": items[0]["eventType"],
			"acceptedAt": "2000-01-01T00:00:00.000Z", "due": "2000-01-01T00:01:00.000Z", "claimed": false, "attempts": 1.0,
			"failureTimestamp": "2000-01-01T00:00:00.000Z", "failureTrigger": "500",
		})
		a.is.Equal(items[1], map[string]any{ // due now, and never attempted
			"eventLocator": fresh.Event.String(), "requestLocator": locator(200).String(), "eventType": items[1]["eventType"],
			"acceptedAt": "2000-01-01T00:00:01.000Z", "claimed": false, "attempts": 0.0,
		})

		page := a.do("GET", webhookPath(w)+"/pending?count=1", "")
		a.is.Equal(page.Header.Get("Link"), `<?count=1&after=`+waiting.Event.String()+`>; rel="next"`)
		for _, query := range []string{"count=1&after=" + waiting.Event.String(), "offset=1"} {
			a.is.NoErr(json.Unmarshal([]byte(a.do("GET", webhookPath(w)+"/pending?"+query, "").body), &items))
			a.is.Equal(items[0]["eventLocator"], fresh.Event.String())
		}
		a.is.True(a.do("GET", webhookPath(w)+"/pending?trigger=503", "").names("trigger"))
		unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(9)}
		a.is.Equal(a.do("GET", webhookPath(unknown)+"/pending", "").body, `[]`)
		a.is.Equal(a.do("GET", webhookPath(diverted.WebhookKey{Tenant: foreign, Webhook: w.Webhook})+"/pending", "").body, `[]`)
	})
}
