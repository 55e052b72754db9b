package console

import (
	"net/http"
	"net/url"
	"slices"
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
		return "less than 1 ms"
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
		return "errors of the receiver"
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

// pieces are what an event type may be broken into on a narrow page: after a dot or an underscore.
func pieces(eventType string) []string {
	var all []string
	for {
		i := strings.IndexAny(eventType, "._")
		if i < 0 || i == len(eventType)-1 {
			return append(all, eventType)
		}
		all, eventType = append(all, eventType[:i+1]), eventType[i+1:]
	}
}

// unrepeated is a failure's message without what its trigger says already: the status, and with meant the status' meaning too.
func unrepeated(f diverted.Failure, meant bool) string {
	known := string(f.Trigger)
	rest, found := strings.CutPrefix(f.Message, known+" "+meaning(f.Trigger))
	if !found || meaning(f.Trigger) == "" || rest != "" && rest[0] != ':' && rest[0] != ' ' {
		return f.Message
	}
	if !meant {
		return f.Message[len(known)+1:]
	}
	return strings.TrimLeft(rest, ": ")
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

// handlesAll says whether the handling applies to every failure.
func handlesAll(h diverted.FailureHandling) bool {
	return !slices.ContainsFunc(diverted.AllTriggers(), func(t diverted.Trigger) bool { return !h.Matches(t) })
}

// handlingWords says how failures are handled, in sentences.
func handlingWords(h diverted.FailureHandling) []string {
	all := handlesAll(h)
	var then []string
	switch {
	case h.Divert:
		then = append(then, "the event is diverted (set aside until someone resends or deletes it)")
	case h.Suspend:
		then = append(then, "the event stays pending")
	default:
		then = append(then, "the event is dropped")
	}
	if h.Suspend {
		then = append(then, "the webhook is suspended")
	}
	if h.Alert != nil {
		then = append(then, "a notice is sent to "+origin(h.Alert.URL))
	}
	if h.Retry == nil && len(then) == 1 && !h.Divert {
		return []string{"Every failed event is dropped, without retries."}
	}
	what, first := "Failed deliveries", "the first failure"
	if !all {
		triggers := list(h.Triggers)
		what, first = "Deliveries that fail with "+triggers, "a failure with "+triggers
	}
	var words []string
	if h.Retry != nil {
		words = append(words, what+" are retried "+retryWords(h.Retry.Schedule())+".", "When the retries are used up, "+join(then, " and ")+".")
	} else {
		words = append(words, "There are no retries. After "+first+" "+join(then, " and ")+".")
	}
	if !all {
		words = append(words, "Events that fail in any other way are dropped.")
	}
	return words
}

// retryWords says how often and when deliveries are retried: 3 times over 7 min, at growing intervals from 1 min.
func retryWords(schedule []time.Duration) string {
	unbroken := func(d time.Duration) string { return strings.ReplaceAll(span(d), " ", "\u00a0") } // 1 min is one word
	n := len(schedule)
	first := unbroken(schedule[0])
	if n == 1 {
		return "once, after " + first
	}
	var sum time.Duration
	for _, wait := range schedule {
		sum += wait
	}
	growth := "at growing intervals from " + first
	if schedule[n-1] == schedule[0] {
		growth = "every " + first
	}
	return count(n) + " times over " + unbroken(sum) + ", " + growth
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

func join(words []string, last string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + last + words[len(words)-1]
}

// filterWords says what a filter selects: "with type order.paid that failed with 503".
func filterWords(f diverted.DivertedFilter) string {
	var words, that []string
	if f.EventType != "" {
		words = append(words, "with type "+f.EventType)
	}
	if f.Trigger != "" {
		that = append(that, "failed with "+string(f.Trigger))
	}
	exact := func(t time.Time) string { return moment{Time: t}.Exact() }
	switch {
	case !f.Since.IsZero() && !f.Until.IsZero():
		that = append(that, "were diverted between "+exact(f.Since)+" and "+exact(f.Until))
	case !f.Since.IsZero():
		that = append(that, "were diverted since "+exact(f.Since))
	case !f.Until.IsZero():
		that = append(that, "were diverted before "+exact(f.Until))
	}
	if len(that) > 0 {
		words = append(words, "that "+join(that, " and "))
	}
	return strings.Join(words, " ")
}
