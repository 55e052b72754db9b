package httpapi

import (
	"strings"
	"time"

	"github.com/divertedevents/diverted"
)

// filterParameters are the query parameters of a [diverted.DivertedFilter].
var filterParameters = []string{"trigger", "eventType", "since", "until"}

// filter reads the query parameters of a filter; those that the route does not have are absent.
func (c *call) filter(f *faults) diverted.DivertedFilter {
	filter := diverted.DivertedFilter{Since: c.moment(f, "since"), Until: c.moment(f, "until")}
	if !filter.Since.IsZero() && !filter.Until.IsZero() && !filter.Since.Before(filter.Until) {
		f.add("until", "must be after since")
	}
	if c.query.Has("trigger") {
		s := c.query.Get("trigger")
		trigger, err := diverted.ParseTrigger(s)
		if err != nil {
			f.add("trigger", "must be 3xx, 4xx, 5xx, timeout or a status 300 to 599, was %s", quote(s))
		}
		filter.Trigger = trigger
	}
	if c.query.Has("eventType") {
		filter.EventType = c.query.Get("eventType")
		if !eventType.MatchString(filter.EventType) {
			f.add("eventType", "must be an event type, 1 to 128 of the characters A–Z a–z 0–9 . _ -, was %s", quote(filter.EventType))
		}
	}
	return filter
}

// moment reads a query parameter that is a time; absent: zero. What is diverted is timed to the millisecond,
// so that a moment between two of them divides as the later one does.
func (c *call) moment(f *faults, name string) time.Time {
	if !c.query.Has(name) {
		return time.Time{}
	}
	s := c.query.Get(name)
	var t time.Time
	// Years before 1970 are refused, since the first moment of all would mean no bound.
	if err := t.UnmarshalText([]byte(s)); err != nil || t.UTC().Year() < 1970 {
		hint := ""
		if strings.Contains(s, " ") {
			hint = " (a + must be sent as %2B)"
		}
		f.add(name, "must be a time as RFC 3339 writes it, such as 2026-11-23T17:58:00.000Z, was %s%s", quote(s), hint)
		return time.Time{}
	}
	return t.Add(time.Millisecond - 1).Truncate(time.Millisecond).UTC()
}
