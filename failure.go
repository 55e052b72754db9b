package diverted

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Trigger is a condition that failed: an exact status ("503"), a class of them ("5xx"), or "timeout".
// In a [FailureHandling] it says which failures the handling applies to; in a [Failure] it is what was
// observed, and then never a class.
type Trigger string

// The triggers that are not an exact status.
const (
	// Trigger3xx matches the statuses 300 to 399. Redirects are not followed, so they are failures.
	Trigger3xx Trigger = "3xx"
	// Trigger4xx matches the statuses 400 to 499.
	Trigger4xx Trigger = "4xx"
	// Trigger5xx matches the statuses 500 to 599.
	Trigger5xx Trigger = "5xx"
	// TriggerTimeout matches every attempt that got no complete, valid header section: deadline, refused,
	// reset, DNS, TLS, a blocked address, malformed, a status outside 200 to 599.
	TriggerTimeout Trigger = "timeout"
)

const triggerRule = "3xx, 4xx, 5xx, timeout or a status 300 to 599"

// AllTriggers returns the four classes, which together match every failure.
func AllTriggers() []Trigger {
	return []Trigger{Trigger3xx, Trigger4xx, Trigger5xx, TriggerTimeout}
}

// ParseTrigger reads a trigger, in upper or lower case, and returns it in lower case. Anything but
// 3xx, 4xx, 5xx, timeout and the exact statuses 300 to 599 is an [ErrInvalid].
func ParseTrigger(s string) (Trigger, error) {
	t := Trigger(strings.ToLower(s))
	if t == TriggerTimeout || t.isClass() {
		return t, nil
	}
	if len(s) == 3 && s[0] >= '3' && s[0] <= '5' && isDigit(s[1]) && isDigit(s[2]) {
		return t, nil
	}
	return "", invalid("", "must be %s, was %s", triggerRule, quote(s))
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// StatusTrigger returns the trigger that an answer with this status is observed as: the status itself
// from 300 to 599, "" for a success (200 to 299), and timeout for everything else.
func StatusTrigger(status int) Trigger {
	switch {
	case status >= 200 && status <= 299:
		return ""
	case status >= 300 && status <= 599:
		return Trigger(strconv.Itoa(status))
	default:
		return TriggerTimeout
	}
}

func (t Trigger) isClass() bool { return t == Trigger3xx || t == Trigger4xx || t == Trigger5xx }

// Matches reports whether t, as a condition of a handling, covers the observed trigger.
func (t Trigger) Matches(observed Trigger) bool {
	if t == observed {
		return true
	}
	return t.isClass() && len(observed) == 3 && observed[0] == t[0]
}

// Failure is why an attempt failed.
type Failure struct {
	// Trigger is what was observed: an exact status, or timeout.
	Trigger Trigger `json:"trigger"`
	// Message says what happened, for a person: one line of valid UTF-8, at most 1 KiB, without control
	// characters, secrets, or anything of a URL but scheme, host and port.
	Message string `json:"message"`
	// Status is the answer's status code, 0 where there was none.
	Status int `json:"status,omitempty"`
	// Excerpt is the beginning of the answer's body, escaped as Message is, at most 1 KiB.
	Excerpt string `json:"excerpt,omitempty"`
	// At is when the attempt ended.
	At time.Time `json:"at"`
	// Attempt counts the attempts of the budget up to this one, from 1. 0: none was made.
	Attempt int `json:"attempt,omitempty"`
	// Duration is how long the attempt took.
	Duration time.Duration `json:"duration,omitempty"`
	// RetryAfter is the wait that a 429 or 503 asked for (RFC 9110, section 10.2.3), as it was asked:
	// [Config.MaxRetryAfter] bounds the wait that follows, not this. 0: none, or another status.
	RetryAfter time.Duration `json:"retryAfter,omitempty"`
}

// Kept returns the failure as a store keeps it: a zero At is now, the store's time, and At is in UTC, to the
// millisecond; Message and Excerpt are cut to their bounds, whoever wrote them. It is for those who write a
// [Store].
func (f Failure) Kept(now time.Time) Failure {
	if f.At.IsZero() {
		f.At = now
	}
	f.At = f.At.UTC().Truncate(time.Millisecond)
	f.Message, f.Excerpt = oneLine(f.Message, maxTextBytes), oneLine(f.Excerpt, maxTextBytes)
	return f
}

// Expunged returns the failure without anything that an answer said, for those who write a [Store].
func (f Failure) Expunged() Failure {
	f.Excerpt = ""
	if f.Status != 0 {
		f.Message = statusMessage(f.Status, "")
	}
	return f
}

// FailureHandling says what becomes of deliveries whose attempts fail. A webhook without one has
// [DefaultFailureHandling]. The zero value is no handling at all: every failure is dropped, and logged.
// Note that on the wire an absent divert is true, while here the zero value is false.
type FailureHandling struct {
	// Triggers are the failures that the handling applies to. After any other the delivery is dropped, or
	// diverted if it was diverted before, and nobody is alerted. Nil: all four classes, so every failure.
	Triggers []Trigger
	// Retry is how often and when to try again. Nil: no retries, the first failure spends the budget. So does
	// 410 Gone, whatever the strategy.
	Retry *RetryStrategy
	// Divert sets aside a delivery whose budget is spent, so that it can be resent. One that was diverted
	// or held before is set aside in any case.
	Divert bool
	// Suspend suspends the webhook when a budget is spent; its deliveries wait until it is unsuspended.
	Suspend bool
	// Alert is told when a budget is spent, by a JSON [Notice], signed if the endpoint has HMACEnabled. Nil:
	// nobody.
	Alert *Endpoint
}

// DefaultFailureHandling returns what applies to a webhook that states none: every failure is retried
// ten times at exponential intervals from 60 s (17 hours in all), and then diverted; the webhook is not
// suspended and nobody is alerted.
func DefaultFailureHandling() FailureHandling {
	return FailureHandling{
		Triggers: AllTriggers(),
		Retry:    &RetryStrategy{Attempts: MaxRetryAttempts, Interval: DefaultRetryInterval, Type: Exponential},
		Divert:   true,
	}
}

// WithDefaults returns the handling in effect: triggers in lower case, each once, all four classes if
// there are none; the retry strategy with its defaults.
func (h FailureHandling) WithDefaults() FailureHandling {
	if len(h.Triggers) == 0 {
		h.Triggers = AllTriggers()
	} else {
		h.Triggers = mergeTriggers(nil, h.Triggers)
	}
	if h.Retry != nil {
		r := h.Retry.WithDefaults()
		h.Retry = &r
	}
	if h.Alert != nil {
		a := h.Alert.clone()
		h.Alert = &a
	}
	return h
}

// Validate returns nil, or an [InvalidError] that names every fault.
func (h FailureHandling) Validate() error {
	var f faults
	for i, t := range h.Triggers {
		_, err := ParseTrigger(string(t))
		f.merge(fmt.Sprintf("triggers[%d]", i), err)
	}
	if h.Triggers != nil && len(h.Triggers) == 0 {
		f.add("triggers", "must not be empty; allowed are %s; leave it out for all of them", triggerRule)
	}
	if h.Retry != nil {
		f.merge("retryStrategy", h.Retry.Validate())
	}
	if h.Alert != nil {
		f.merge("alertEndpoint", h.Alert.Validate())
	}
	return f.err()
}

// Matches reports whether the handling applies to the observed trigger.
func (h FailureHandling) Matches(observed Trigger) bool {
	if len(h.Triggers) == 0 {
		return true
	}
	return slices.ContainsFunc(h.Triggers, func(t Trigger) bool { return t.Matches(observed) })
}

// FailureHandlingUpdate changes a [FailureHandling]; fields that are nil or empty change nothing.
type FailureHandlingUpdate struct {
	Divert, Suspend *bool
	// AddTriggers are appended, RemoveTriggers taken away. They must not overlap, and one must remain.
	AddTriggers, RemoveTriggers []Trigger
	// Retry changes the strategy, or begins one. It contradicts RemoveRetry.
	Retry       *RetryStrategyUpdate
	RemoveRetry bool
	// Alert changes the endpoint, or begins one, which needs a URL. It contradicts RemoveAlert.
	Alert       *EndpointUpdate
	RemoveAlert bool
}

// Apply returns the handling after the update, or an [InvalidError]; h stays as it is.
func (h FailureHandling) Apply(u FailureHandlingUpdate) (FailureHandling, error) {
	var f faults
	h = h.WithDefaults()
	if u.Divert != nil {
		h.Divert = *u.Divert
	}
	if u.Suspend != nil {
		h.Suspend = *u.Suspend
	}
	h.Triggers = updateTriggers(&f, h.Triggers, u.AddTriggers, u.RemoveTriggers)

	switch {
	case u.RemoveRetry && u.Retry != nil:
		f.add("removeRetryStrategy", "contradicts the retryStrategy beside it")
	case u.RemoveRetry:
		h.Retry = nil
	case u.Retry != nil:
		var r RetryStrategy
		if h.Retry != nil {
			r = *h.Retry
		}
		r, err := r.Apply(*u.Retry)
		f.merge("retryStrategy", err)
		h.Retry = &r
	}

	switch {
	case u.RemoveAlert && u.Alert != nil:
		f.add("removeAlertEndpoint", "contradicts the alertEndpoint beside it")
	case u.RemoveAlert:
		h.Alert = nil
	case u.Alert != nil:
		var e Endpoint
		if h.Alert != nil {
			e = *h.Alert
		}
		e, err := e.Apply(*u.Alert)
		f.merge("alertEndpoint", err)
		h.Alert = &e
	}
	if err := f.err(); err != nil {
		return FailureHandling{}, err
	}
	return h, nil
}

func updateTriggers(f *faults, stand, add, remove []Trigger) []Trigger {
	parse := func(path string, in []Trigger) []Trigger {
		var out []Trigger
		for i, t := range in {
			parsed, err := ParseTrigger(string(t))
			f.merge(fmt.Sprintf("%s[%d]", path, i), err)
			if err == nil {
				out = append(out, parsed)
			}
		}
		return out
	}
	add, remove = parse("addTriggers", add), parse("removeTriggers", remove)
	for _, t := range add {
		if slices.Contains(remove, t) {
			f.add("removeTriggers", "must not overlap addTriggers, both name %s", t)
			return stand
		}
	}
	result := slices.DeleteFunc(mergeTriggers(stand, add), func(t Trigger) bool { return slices.Contains(remove, t) })
	if len(result) == 0 {
		f.add("removeTriggers", "must leave at least one trigger")
		return stand
	}
	return result
}

// mergeTriggers appends add to stand, in lower case, each trigger once, additions last. The result
// shares no memory with either.
func mergeTriggers(stand, add []Trigger) []Trigger {
	out := make([]Trigger, 0, len(stand)+len(add))
	for _, list := range [][]Trigger{stand, add} {
		for _, t := range list {
			if t = Trigger(strings.ToLower(string(t))); !slices.Contains(out, t) {
				out = append(out, t)
			}
		}
	}
	return out
}

// statusGone is 410: the receiver says that the endpoint is gone for good, so no retry is of use.
const statusGone = 410

// verdict is what follows from a failed attempt: a pure function of the handling, the failure and the
// delivery's past. See [judge].
type verdict struct {
	kind    OutcomeKind
	suspend bool
	alert   bool
}

// past is what a delivery went through before the attempt that is judged.
type past struct {
	// retries are those made already in this budget: 0 when the first attempt failed.
	retries int
	// diverted: it was diverted once, and resent.
	diverted bool
	// released: it was held with a spent budget, and got a fresh one.
	released bool
}

// judge applies the handling to a failure. The caller finds the wait of an [OutcomeRetry] by
// [RetryStrategy.Wait].
func judge(h FailureHandling, failure Failure, p past) verdict {
	if !h.Matches(failure.Trigger) {
		if p.diverted {
			return verdict{kind: OutcomeDivert}
		}
		return verdict{kind: OutcomeDrop}
	}
	if h.Retry != nil && failure.Status != statusGone {
		if _, left := h.Retry.Wait(p.retries + 1); left {
			return verdict{kind: OutcomeRetry}
		}
	}
	v := verdict{suspend: h.Suspend, alert: h.Alert != nil}
	switch {
	case h.Divert, p.diverted, p.released:
		v.kind = OutcomeDivert
	case h.Suspend:
		v.kind = OutcomeHold
	default:
		v.kind = OutcomeDrop
	}
	return v
}
