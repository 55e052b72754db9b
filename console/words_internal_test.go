package console

import (
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestNumbersAndTimesAreForPeople(t *testing.T) {
	is := is.New(t)
	for _, c := range []struct{ got, want string }{
		{count(0), "0"}, {count(999), "999"}, {count(1_204_311), "1,204,311"}, {count(-12_000), "−12,000"},
		{percent(0, 0), "–"}, {percent(0, 9), "0 %"}, {percent(9, 9), "100 %"}, {percent(1, 100_000), "< 0.1 %"},
		{percent(99_999, 100_000), "> 99 %"}, {percent(1, 15), "6.7 %"}, {percent(2, 3), "67 %"},
		{about(1500 * time.Millisecond), "1 s"}, {about(90 * time.Minute), "1 h"}, {about(50 * time.Hour), "2 days"},
		{span(0), "less than 1 ms"}, {span(87 * time.Millisecond), "87 ms"}, {span(4230 * time.Millisecond), "4.2 s"}, {span(15 * time.Second), "15 s"},
		{span(512 * time.Second), "8 min 32 s"}, {span(time.Minute), "1 min"}, {span(17*time.Hour + 3*time.Minute), "17 h 3 min"}, {span(34 * time.Hour), "1 day 10 h"},
		{size(1), "1 byte"}, {size(9_600), "9.4 KiB"}, {size(16 << 20), "16.0 MiB"},
		{meaning("503"), "Service Unavailable"}, {meaning("timeout"), "no complete answer"}, {meaning("599"), ""}, {meaning(otherTriggers), ""},
	} {
		is.Equal(c.got, c.want)
	}

	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	for at, want := range map[time.Duration]string{0: "just now", -3 * time.Minute: "3 min ago", 2 * time.Hour: "in 2 h",
		119 * time.Minute: "in 1 h 59 min", 59600 * time.Millisecond: "in 1 min", 45200 * time.Millisecond: "in 45 s"} {
		is.Equal(moment{now.Add(at), now}.Relative(), want)
	}
	is.Equal(moment{Time: now.In(time.FixedZone("", 3600))}.Exact(), "2026-11-23 03:00:00 UTC")
}

func TestGradesOfFailureRates(t *testing.T) {
	is := is.New(t)
	for _, c := range []struct {
		delivered, failed int
		want              string
	}{{0, 0, "none"}, {9, 0, "none"}, {100, 1, "none"}, {99, 1, "low"}, {81, 19, "low"}, {4, 1, "high"}, {0, 1, "high"}} {
		is.Equal((&numbers{Delivered: c.delivered, Failed: c.failed}).Grade(), c.want)
	}
}

func TestFailureHandlingInWords(t *testing.T) {
	for _, c := range []struct {
		name     string
		handling diverted.FailureHandling
		want     []string
	}{
		{"default", diverted.DefaultFailureHandling(), []string{
			"Failed deliveries are retried 10 times over 17\u00a0h\u00a03\u00a0min, at growing intervals from 1\u00a0min.",
			"When the retries are used up, the event is diverted (set aside until someone resends or deletes it).",
		}},
		{"nothing", diverted.FailureHandling{}.WithDefaults(), []string{"Every failed event is dropped, without retries."}},
		{"nothing, for one trigger", diverted.FailureHandling{Triggers: []diverted.Trigger{"503"}}.WithDefaults(), []string{"Every failed event is dropped, without retries."}},
		{"nothing but an alert", diverted.FailureHandling{Triggers: []diverted.Trigger{"503"}, Alert: &diverted.Endpoint{URL: "https://alerts.example/in"}}.WithDefaults(), []string{
			"There are no retries. After a failure with 503 the event is dropped and a notice is sent to https://alerts.example.",
			"Events that fail in any other way are dropped.",
		}},
		{"no retries", diverted.FailureHandling{Divert: true, Suspend: true}.WithDefaults(), []string{
			"There are no retries. After the first failure the event is diverted (set aside until someone resends or deletes it) and the webhook is suspended.",
		}},
		{"all of it", diverted.FailureHandling{
			Triggers: []diverted.Trigger{"5xx", "timeout"}, Divert: true, Suspend: true,
			Retry: &diverted.RetryStrategy{Attempts: 3, Interval: 30 * time.Second, Type: diverted.Linear},
			Alert: &diverted.Endpoint{URL: "https://alerts.example/in?key=secret"},
		}.WithDefaults(), []string{
			"Deliveries that fail with 5xx or timeout are retried 3 times over 1\u00a0min\u00a030\u00a0s, every 30\u00a0s.",
			"When the retries are used up, the event is diverted (set aside until someone resends or deletes it), the webhook is suspended and a notice is sent to https://alerts.example.",
			"Events that fail in any other way are dropped.",
		}},
		{"held", diverted.FailureHandling{Suspend: true, Retry: &diverted.RetryStrategy{Attempts: 1}}.WithDefaults(), []string{
			"Failed deliveries are retried once, after 1\u00a0min.",
			"When the retries are used up, the event stays pending and the webhook is suspended.",
		}},
	} {
		t.Run(c.name, func(t *testing.T) { is.New(t).Equal(handlingWords(c.handling), c.want) })
	}
}

func TestURLsAreShownWithoutWhatMayBeACredential(t *testing.T) {
	is := is.New(t)
	for raw, want := range map[string]string{
		"https://a.example/in":                      "https://a.example/in",
		"https://a.example/in?token=t0p&x=1":        "https://a.example/in?token=***&x=***",
		"https://a.example/in?t0p":                  "https://a.example/in?***",
		"https://a.example/in?a=b=c?d&&e":           "https://a.example/in?a=***&&***",
		"https://a.example/%3Cscript%3E?q=<script>": "https://a.example/%3Cscript%3E?q=***",
		"https://a.example/\u202egpj.\u200bx":       `https://a.example/\u202egpj.\u200bx`,
		"https://a.example/?\u202e=1&\u200b":        `https://a.example/?\u202e=***&***`,
	} {
		is.Equal(shownURL(raw), want)
	}
}

func TestEventTypesBreakAtTheirParts(t *testing.T) {
	is := is.New(t)
	for eventType, want := range map[string][]string{
		"push": {"push"}, "order.paid": {"order.", "paid"}, "github.branch_protection_rule.edited": {"github.", "branch_", "protection_", "rule.", "edited"},
		"": {""}, "odd._": {"odd.", "_"}, "odd.": {"odd."},
	} {
		is.Equal(pieces(eventType), want)
	}
}

func TestAMessageDoesNotRepeatItsTrigger(t *testing.T) {
	is := is.New(t)
	for _, c := range []struct{ trigger, message, unmeant, unnumbered string }{
		{"503", `503 Service Unavailable: {"error":1}`, `{"error":1}`, `Service Unavailable: {"error":1}`},
		{"503", "503 Service Unavailable", "", "Service Unavailable"},
		{"302", "302 Found (redirects are not followed)", "(redirects are not followed)", "Found (redirects are not followed)"},
		{"599", "599: busy", "599: busy", "599: busy"}, // it has no meaning
		{"timeout", "https://a.example: no answer within 15s", "https://a.example: no answer within 15s", "https://a.example: no answer within 15s"},
		{"404", "the host's own words", "the host's own words", "the host's own words"},
		{"404", "404 Not Foundation", "404 Not Foundation", "404 Not Foundation"},
	} {
		f := diverted.Failure{Trigger: diverted.Trigger(c.trigger), Message: c.message}
		is.Equal(unrepeated(f, true), c.unmeant)
		is.Equal(unrepeated(f, false), c.unnumbered)
	}
}

func TestFilterInWords(t *testing.T) {
	is := is.New(t)
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	is.Equal(filterWords(diverted.DivertedFilter{}), "")
	is.Equal(filterWords(diverted.DivertedFilter{Trigger: "5xx", EventType: "order.paid", Since: at}),
		"with type order.paid that failed with 5xx and were diverted since 2026-11-23 03:00:00 UTC")
	is.Equal(filterWords(diverted.DivertedFilter{EventType: "order.paid"}), "with type order.paid")
	is.Equal(filterWords(diverted.DivertedFilter{Since: at, Until: at.Add(time.Hour)}), "that were diverted between 2026-11-23 03:00:00 UTC and 2026-11-23 04:00:00 UTC")
}

func TestFactsTellOfARotationWhileItGoesOn(t *testing.T) {
	is := is.New(t)
	now := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	signed := func(until ...time.Time) string {
		w := diverted.Webhook{Endpoint: diverted.Endpoint{HMACEnabled: true}}
		for _, u := range until {
			w.Endpoint.OldSecrets = append(w.Endpoint.OldSecrets, diverted.OldSecret{Until: u})
		}
		for _, f := range factsOf(w, now) {
			if f.Name == "Signed" {
				return f.Value
			}
		}
		return ""
	}
	is.Equal(signed(), "yes (HMAC)")
	is.Equal(signed(now.Add(time.Hour)), "yes (HMAC), with 2 secrets during rotation")
	is.Equal(signed(now.Add(-time.Hour)), "yes (HMAC)") // it is over
}
