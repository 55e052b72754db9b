package console

import (
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
)

// Machine is the time for a machine.
func (m moment) Machine() string { return diverted.FormatTime(m.Time) }

// Exact is the time for a person who compares it with a log.
func (m moment) Exact() string { return m.UTC().Format("2006-01-02 15:04:05 UTC") }

// Relative is the time for a person at three in the morning: how long ago, or in how long.
func (m moment) Relative() string {
	d := m.now.Sub(m.Time)
	switch {
	case d > -time.Second && d < 2*time.Second:
		return "just now"
	case d < 0:
		return "in " + span((-d).Round(time.Second)) // cut, it would be up to an hour too early
	default:
		return about(d) + " ago"
	}
}

// Age is how long ago it was.
func (m moment) Age() string { return about(max(m.now.Sub(m.Time), 0)) }

// about is a duration in its largest unit: 45 s, 12 min, 5 h, 3 days.
func about(d time.Duration) string {
	switch {
	case d < time.Minute:
		return count(int(d/time.Second)) + " s"
	case d < time.Hour:
		return count(int(d/time.Minute)) + " min"
	case d < 48*time.Hour:
		return count(int(d/time.Hour)) + " h"
	default:
		return count(int(d/(24*time.Hour))) + " days"
	}
}

// span is a duration in its two largest units: 90 ms, 4.2 s, 8 min 32 s, 17 h 3 min, 1 day 10 h.
func span(d time.Duration) string {
	two := func(large, small time.Duration, largeName, smallName string) string {
		s := strconv.Itoa(int(d/large)) + largeName
		if rest := d % large / small; rest > 0 {
			s += " " + strconv.Itoa(int(rest)) + smallName
		}
		return s
	}
	switch {
	case d < time.Millisecond:
		return "under 1 ms"
	case d < time.Second:
		return strconv.Itoa(int(d/time.Millisecond)) + " ms"
	case d < time.Minute:
		return strconv.FormatFloat(float64(d/(100*time.Millisecond))/10, 'f', -1, 64) + " s"
	case d < time.Hour:
		return two(time.Minute, time.Second, " min", " s")
	case d < 24*time.Hour:
		return two(time.Hour, time.Minute, " h", " min")
	case d < 48*time.Hour:
		return two(24*time.Hour, time.Hour, " day", " h")
	default:
		return two(24*time.Hour, time.Hour, " days", " h")
	}
}

// count is a number with its thousands apart: 1,204,311.
func count(n int) string {
	digits := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, digits = "−", digits[1:]
	}
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return sign + b.String()
}

// plural is a number with its noun: 1 event, 1,204 events.
func plural(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return count(n) + " " + many
}

// percent is a share: 0 %, 0.4 %, 12 %. What is not all or nothing never looks like it.
func percent(part, whole int) string {
	if whole == 0 {
		return "–"
	}
	p := 100 * float64(part) / float64(whole)
	switch {
	case part == 0 || part == whole:
		return strconv.Itoa(int(p)) + " %"
	case p < 0.1:
		return "< 0.1 %"
	case p > 99:
		return "> 99 %"
	case p < 10:
		return strconv.FormatFloat(p, 'f', 1, 64) + " %"
	default:
		return strconv.Itoa(int(p+0.5)) + " %"
	}
}

// size is a number of bytes.
func size(n int) string {
	switch {
	case n < 1<<10:
		return plural(n, "byte", "bytes")
	case n < 1<<20:
		return strconv.FormatFloat(float64(n)/(1<<10), 'f', 1, 64) + " KiB"
	default:
		return strconv.FormatFloat(float64(n)/(1<<20), 'f', 1, 64) + " MiB"
	}
}

// meaning says what a trigger is: Service Unavailable, no answer.
func meaning(t diverted.Trigger) string {
	switch t {
	case diverted.TriggerTimeout:
		return "no complete answer"
	case diverted.Trigger3xx:
		return "redirects"
	case diverted.Trigger4xx:
		return "refused by the receiver"
	case diverted.Trigger5xx:
		return "faults of the receiver"
	}
	status, _ := strconv.Atoi(string(t))
	return http.StatusText(status)
}

// named is a trigger with its meaning: 503 (Service Unavailable).
func named(t diverted.Trigger) string {
	if m := meaning(t); m != "" {
		return string(t) + " (" + m + ")"
	}
	return string(t)
}

// shownURL is an endpoint's URL without the values of its query, which may be credentials.
func shownURL(raw string) string {
	if _, err := url.Parse(raw); err != nil {
		return "(malformed URL)"
	}
	base, query, found := strings.Cut(raw, "?")
	if !found {
		return visible(base)
	}
	pairs := strings.Split(query, "&")
	for i, pair := range pairs {
		if name, _, valued := strings.Cut(pair, "="); valued {
			pairs[i] = name + "=" + diverted.Mask
		} else if pair != "" {
			pairs[i] = diverted.Mask // a bare word may be the credential itself
		}
	}
	return visible(base + "?" + strings.Join(pairs, "&"))
}

// handlingWords says what becomes of failures, in sentences.
func handlingWords(h diverted.FailureHandling) []string {
	all := h.Matches(diverted.TriggerTimeout)
	for _, class := range []diverted.Trigger{"3xx", "4xx", "5xx"} {
		all = all && h.Matches(class)
	}
	what := "Every failure"
	var words []string
	if !all {
		what = "A failure with " + list(h.Triggers)
	}
	if h.Retry == nil {
		words = append(words, what+" counts at once: there are no retries.")
	} else {
		schedule := h.Retry.Schedule()
		var sum time.Duration
		for _, wait := range schedule {
			sum += wait
		}
		growth := "at growing intervals from " + span(schedule[0])
		if h.Retry.Type == diverted.Linear || len(schedule) == 1 {
			growth = "after " + span(schedule[0])
			if len(schedule) > 1 {
				growth = "every " + span(schedule[0])
			}
		}
		words = append(words, fmt.Sprintf("%s is retried %s, %s, %s in all.", what, plural(len(schedule), "time", "times"), growth, span(sum)))
	}
	var then []string
	if h.Divert {
		then = append(then, "the event is diverted: set aside until somebody resends or deletes it")
	}
	if h.Suspend {
		if h.Divert {
			then = append(then, "the webhook is suspended")
		} else {
			then = append(then, "the webhook is suspended, and holds the event")
		}
	}
	if h.Alert != nil {
		then = append(then, "a notice goes to "+origin(h.Alert.URL))
	}
	when := "When that is spent, "
	if h.Retry == nil {
		when = "Then "
	}
	if !h.Divert && !h.Suspend {
		then = append([]string{"the event is dropped"}, then...)
	}
	words = append(words, when+sentence(then)+".")
	if !all {
		words = append(words, "Any other failure drops the event.")
	}
	return words
}

// origin is the scheme, host and port of a URL.
func origin(raw string) string { return visible(diverted.Endpoint{URL: raw}.String()) }

func list(triggers []diverted.Trigger) string {
	names := make([]string, len(triggers))
	for i, t := range triggers {
		names[i] = string(t)
	}
	return join(names, " or ")
}

// sentence joins clauses: a; b; and c.
func sentence(clauses []string) string {
	if len(clauses) == 1 {
		return clauses[0]
	}
	return strings.Join(clauses[:len(clauses)-1], "; ") + "; and " + clauses[len(clauses)-1]
}

func join(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + last + words[len(words)-1]
}

// filterWords says what a filter selects: "that failed with 503, of the type order.paid".
func filterWords(f diverted.DivertedFilter) string {
	var words []string
	if f.Trigger != "" {
		words = append(words, "that failed with "+string(f.Trigger))
	}
	if f.EventType != "" {
		words = append(words, "of the type "+f.EventType)
	}
	exact := func(t time.Time) string { return moment{Time: t}.Exact() }
	switch {
	case !f.Since.IsZero() && !f.Until.IsZero():
		words = append(words, "diverted from "+exact(f.Since)+" to "+exact(f.Until))
	case !f.Since.IsZero():
		words = append(words, "diverted since "+exact(f.Since))
	case !f.Until.IsZero():
		words = append(words, "diverted before "+exact(f.Until))
	}
	return strings.Join(words, ", ")
}
