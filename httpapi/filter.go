package httpapi

import (
	"regexp"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
)

// filterParameters are the query parameters of a [diverted.DivertedFilter].
var filterParameters = []string{"trigger", "eventType", "since", "until"}

// filter reads the query parameters of a filter; those that the route does not have are absent.
func (c *call) filter(f *faults) diverted.DivertedFilter {
	filter := diverted.DivertedFilter{
		Trigger:   diverted.Trigger(strings.ToLower(c.query.Get("trigger"))), // in either case it is the same to a cursor
		EventType: c.query.Get("eventType"),
		Since:     c.moment(f, "since"),
		Until:     c.moment(f, "until"),
	}
	for _, name := range []string{"trigger", "eventType"} {
		if c.query.Has(name) && c.query.Get(name) == "" {
			f.Add(name, "must not be empty; leave it out to select all") // whoever names it does not mean all
		}
	}
	f.Merge("", filter.Validate())
	return filter
}

// moment reads a query parameter that is a time; absent: zero. What is diverted is timed to the millisecond,
// so that a moment between two of them divides as the later one does.
func (c *call) moment(f *faults, name string) time.Time {
	if !c.query.Has(name) {
		return time.Time{}
	}
	s := c.query.Get(name)
	t, ok := parseTime(s)
	// Years before 1970 are refused, since the first moment of all would mean no bound.
	if !ok || t.UTC().Year() < 1970 {
		hint := ""
		if strings.Contains(s, " ") {
			hint = " (a + must be sent as %2B)"
		}
		f.Add(name, "must be a time as RFC 3339 writes it, such as 2026-11-23T17:58:00.000Z, was %s%s", quote(s), hint)
		return time.Time{}
	}
	return t.Add(time.Millisecond - 1).Truncate(time.Millisecond).UTC()
}

// rfc3339 is what [time.Parse] takes more than: hours of one digit, commas, offsets of a day.
var rfc3339 = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$`)

// parseTime reads a time as RFC 3339 writes it, and nothing else.
func parseTime(s string) (time.Time, bool) {
	t, err := time.Parse(time.RFC3339, s)
	return t, err == nil && rfc3339.MatchString(s)
}
