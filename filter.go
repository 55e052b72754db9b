package diverted

import (
	"strings"
	"time"
)

// DivertedFilter selects diverted events. Conditions that are zero select all; those that are given must
// all hold.
type DivertedFilter struct {
	// Trigger selects what was set aside for this: an exact status, a class of them, or timeout; in upper or
	// lower case.
	Trigger Trigger
	// EventType selects the events of exactly this type.
	EventType string
	// Since and Until select what was set aside at or after the one and before the other.
	Since, Until time.Time
}

// IsZero reports whether the filter selects all.
func (f DivertedFilter) IsZero() bool {
	return f.Trigger == "" && f.EventType == "" && f.Since.IsZero() && f.Until.IsZero()
}

// Validate returns nil, or an [InvalidError] that names every condition at fault.
func (f DivertedFilter) Validate() error {
	var bad faults
	if f.Trigger != "" {
		if _, err := ParseTrigger(string(f.Trigger)); err != nil {
			bad.add("trigger", "must be %s, was %s", triggerRule, quote(string(f.Trigger)))
		}
	}
	if f.EventType != "" && !validEventType(f.EventType) {
		bad.add("eventType", "must be %s, was %s", eventTypeRule, quote(f.EventType))
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		bad.add("until", "must be after since")
	}
	return bad.err()
}

// normal returns the filter with its trigger in lower case.
func (f DivertedFilter) normal() DivertedFilter {
	f.Trigger = Trigger(strings.ToLower(string(f.Trigger)))
	return f
}

// Selects reports whether the filter, which is valid and whose trigger is in lower case, selects a diverted
// event, for those who write a [Store].
func (f DivertedFilter) Selects(e *DivertedEvent) bool {
	return (f.Trigger == "" || f.Trigger.Matches(e.Failure.Trigger)) &&
		(f.EventType == "" || f.EventType == e.EventType) &&
		(f.Since.IsZero() || !e.DivertedAt.Before(f.Since)) &&
		(f.Until.IsZero() || e.DivertedAt.Before(f.Until))
}
