package diverted_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// "alertEndpoint gets a signed JSON notice when a budget is spent."

// alerting is a webhook without retries whose notices go to /alert.
func alerting(w *world) diverted.WebhookKey {
	return w.webhook("a", handling(diverted.FailureHandling{
		Divert: true,
		Alert:  &diverted.Endpoint{URL: "https://receiver.example/alert", HMACEnabled: true, Secret: alertSecret},
	}))
}

const alertSecret = diverted.Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")

func notAlerts(code int) func(message, int) response {
	return func(m message, _ int) response {
		if m.path == "/alert" {
			return response{status: 200}
		}
		return response{status: code}
	}
}

func TestLifeANoticeIsASignedJSONObject(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := alerting(w)
		w.receiver.answers(notAlerts(404))
		w.run()
		event := w.event()
		_, err := w.d.Send(w.ctx, tenant, hook.Webhook, event)
		w.is.NoErr(err)
		synctest.Wait()

		notices := w.receiver.got("alert")
		w.is.Equal(len(notices), 1) // at once
		n := notices[0]
		failed := fmt.Sprintf(`{"eventLocator":"%s","requestLocator":"%s","failureMessage":"404 Not Found","failureTimestamp":"%s","failureTrigger":"404"}`,
			event.Locator, event.RequestLocator, diverted.FormatTime(n.at))
		w.is.Equal(string(n.body), fmt.Sprintf(
			`{"tenantLocator":"%s","webhookLocator":"%s","webhookName":"a","failures":1,"diverted":1,"suspended":false,"first":%s,"last":%s}`,
			tenant, hook.Webhook, failed, failed))
		w.is.NoErr(diverted.Verify(n.header, n.body, alertSecret))
		_, err = ulid.ParseStrict(n.id)
		w.is.NoErr(err)
	})
}

func TestLifeFailuresWithinTheWindowJoinOneNoticeAndTheWindowDoublesToAnHour(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := alerting(w)
		w.receiver.answers(notAlerts(404))
		w.run()
		began := time.Now()
		w.send(hook)
		w.sleep(30 * time.Second)
		for range 60 * 4 {
			w.send(hook)
			w.sleep(time.Minute)
		}
		var at []time.Duration
		failures := 0
		for _, m := range w.receiver.got("alert") {
			at = append(at, m.at.Sub(began).Round(time.Second))
			var notice struct{ Failures int }
			w.is.NoErr(json.Unmarshal(m.body, &notice))
			failures += notice.Failures
		}
		// After 1 min, then 2, 4, 8, 16, 32, and then every hour.
		w.is.Equal(at, []time.Duration{0, 1 * time.Minute, 3 * time.Minute, 7 * time.Minute, 15 * time.Minute,
			31 * time.Minute, 63 * time.Minute, 123 * time.Minute, 183 * time.Minute})
		w.is.Equal(failures, 184) // none was left out: the one at 0:00, and those from 0:30 to 182:30

		w.sleep(10 * time.Hour) // silence: it begins anew
		before := len(w.receiver.got("alert"))
		w.send(hook)
		w.is.Equal(len(w.receiver.got("alert")), before+1)
	})
}

func TestLifeANoticeIsTriedFiveTimesOverTenMinutesAndThenGivenUpLoudly(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := alerting(w)
		w.receiver.answers(status(500)) // the alert endpoint too
		w.run()
		began := time.Now()
		w.send(hook)
		w.sleep(time.Hour)
		var at []time.Duration
		for _, m := range w.receiver.got("alert") {
			at = append(at, m.at.Sub(began))
			w.is.Equal(m.id, w.receiver.got("alert")[0].id)
		}
		w.is.Equal(at, []time.Duration{0, 40 * time.Second, 2 * time.Minute, 280 * time.Second, 10 * time.Minute})
		w.is.Equal(w.seen("alerted"), 0)
		w.is.Equal(w.seen("alert given up"), 1)
		w.is.Equal(w.log.count(`msg="diverted: notice given up"`), 1)
		w.is.Equal(len(w.diverted(hook)), 1) // a notice never causes another, nor a diverted event
	})
}

func TestLifeANoticeSurvivesTheProcessThatSpentTheBudget(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := alerting(w)
		key := w.send(hook)
		// A process that dies after the transaction that spent the budget.
		claimed, err := w.store.Work(w.ctx, diverted.WorkRequest{Claim: &diverted.ClaimRequest{
			Count: 1, Bytes: 1, Lease: time.Second,
			Reserve:  func(_ diverted.WebhookKey, want int) int { return want },
			InFlight: func(diverted.Key) bool { return false },
		}})
		w.is.NoErr(err)
		_, err = w.store.Work(w.ctx, diverted.WorkRequest{Outcomes: []diverted.Outcome{{
			Key: key, Token: claimed.Claims[0].Token, Kind: diverted.OutcomeDivert, Alert: true,
			Failure: &diverted.Failure{Trigger: "500", Message: "500 Internal Server Error", Status: 500, At: time.Now()},
		}}})
		w.is.NoErr(err)
		w.is.NoErr(w.d.Flush(w.ctx))
		w.is.Equal(len(w.receiver.got("alert")), 1)
	})
}

func TestLifeNoticesOfATenantWhoseAlertEndpointHangsHoldUpNobodyElses(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.receiver.answers(func(m message, _ int) response {
			switch m.path {
			case "/hangs":
				return response{after: time.Hour}
			case "/alert":
				return response{status: 200}
			}
			return response{status: 500}
		})
		alerts := func(path string) func(*diverted.Webhook) {
			return handling(diverted.FailureHandling{Divert: true, Alert: &diverted.Endpoint{URL: "https://receiver.example/" + path}})
		}
		w.run()
		for i := range 100 {
			w.send(w.webhook(fmt.Sprint(i), alerts("hangs")))
		}
		w.sleep(time.Second)
		w.send(w.webhook("other", alerts("alert"), func(h *diverted.Webhook) { h.Tenant = uuid.New() }))
		w.sleep(diverted.DefaultTimeout)
		w.is.Equal(len(w.receiver.got("alert")), 1)
	})
}
