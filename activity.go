package diverted

import (
	"cmp"
	"maps"
	"slices"
	"time"
)

// activity is what happened at a webhook, for [Stats]: of the last 30 days. The zero value is that nothing
// did.
type activity struct {
	lastSuccess, lastFailure time.Time
	hours                    map[int64]*HourStats // by unixHour
}

func unixHour(t time.Time) int64 { return t.Unix() / 3600 }

// settled counts an outcome.
func (a *activity) settled(kind OutcomeKind, now time.Time) {
	switch kind {
	case OutcomeDelivered:
		a.lastSuccess = now.Truncate(time.Millisecond)
		a.hour(now).Delivered++
	case OutcomeRetry, OutcomeDivert, OutcomeHold, OutcomeDrop:
		a.lastFailure = now.Truncate(time.Millisecond)
		a.hour(now).Failed++
	}
}

// diverted counts an event that was set aside.
func (a *activity) diverted(observed Trigger, now time.Time) {
	h := a.hour(now)
	if h.Diverted == nil {
		h.Diverted = make(map[Trigger]int)
	}
	h.Diverted[observed]++
}

// hour returns the numbers of this hour. When an hour begins, what is too old is forgotten.
func (a *activity) hour(now time.Time) *HourStats {
	n := unixHour(now)
	h := a.hours[n]
	if h == nil {
		maps.DeleteFunc(a.hours, func(hour int64, _ *HourStats) bool { return hour <= n-MaxStatsHours })
		if a.hours == nil {
			a.hours = make(map[int64]*HourStats)
		}
		h = &HourStats{Hour: time.Unix(n*3600, 0).UTC()}
		a.hours[n] = h
	}
	return h
}

// add adds what happened at another webhook, or at the same one, in the given number of last hours.
func (a *activity) add(other *activity, hours int, now time.Time) {
	a.lastSuccess, a.lastFailure = later(a.lastSuccess, other.lastSuccess), later(a.lastFailure, other.lastFailure)
	for n, from := range other.hours {
		if n <= unixHour(now)-int64(hours) {
			continue
		}
		to := a.hour(from.Hour)
		to.Delivered += from.Delivered
		to.Failed += from.Failed
		for trigger, count := range from.Diverted {
			if to.Diverted == nil {
				to.Diverted = make(map[Trigger]int)
			}
			to.Diverted[trigger] += count
		}
	}
}

// tell writes what happened into the answer to a query.
func (a *activity) tell(s *Stats) {
	s.LastSuccess, s.LastFailure = a.lastSuccess, a.lastFailure
	for _, h := range a.hours {
		s.Hours = append(s.Hours, *h)
	}
	slices.SortFunc(s.Hours, func(a, b HourStats) int { return cmp.Compare(a.Hour.Unix(), b.Hour.Unix()) })
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// earlier returns the earlier of two times, of which the zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
