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
		{span(0), "under 1 ms"}, {span(87 * time.Millisecond), "87 ms"}, {span(4230 * time.Millisecond), "4.2 s"}, {span(15 * time.Second), "15 s"},
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
			"Every failure is retried 10 times, at growing intervals from 1 min, 17 h 3 min in all.",
			"When that is spent, the event is diverted: set aside until somebody resends or deletes it.",
		}},
		{"nothing", diverted.FailureHandling{}.WithDefaults(), []string{
			"Every failure counts at once: there are no retries.",
			"Then the event is dropped.",
		}},
		{"all of it", diverted.FailureHandling{
			Triggers: []diverted.Trigger{"5xx", "timeout"}, Divert: true, Suspend: true,
			Retry: &diverted.RetryStrategy{Attempts: 3, Interval: 30 * time.Second, Type: diverted.Linear},
			Alert: &diverted.Endpoint{URL: "https://alerts.example/in?key=secret"},
		}.WithDefaults(), []string{
			"A failure with 5xx or timeout is retried 3 times, every 30 s, 1 min 30 s in all.",
			"When that is spent, the event is diverted: set aside until somebody resends or deletes it; the webhook is suspended; and a notice goes to https://alerts.example.",
			"Any other failure drops the event.",
		}},
		{"held", diverted.FailureHandling{Suspend: true, Retry: &diverted.RetryStrategy{Attempts: 1}}.WithDefaults(), []string{
			"Every failure is retried 1 time, after 1 min, 1 min in all.",
			"When that is spent, the webhook is suspended, and holds the event.",
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

func TestFilterInWords(t *testing.T) {
	is := is.New(t)
	at := time.Date(2026, 11, 23, 3, 0, 0, 0, time.UTC)
	is.Equal(filterWords(diverted.DivertedFilter{}), "")
	is.Equal(filterWords(diverted.DivertedFilter{Trigger: "5xx", EventType: "order.paid", Since: at}),
		"that failed with 5xx, of the type order.paid, diverted since 2026-11-23 03:00:00 UTC")
}
