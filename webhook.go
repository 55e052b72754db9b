package diverted

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// The limits of a [Webhook].
const (
	// MaxNameLength is the longest name of a webhook, or tag of an endpoint, in characters.
	MaxNameLength = 200
	// MaxEventTypes is the number of event types that a webhook may subscribe to.
	MaxEventTypes = 100
	// MaxAttemptsPerSecond is the largest MaxPerSecond of a webhook.
	MaxAttemptsPerSecond = 10_000
)

// Webhook is a tenant's subscription: which events go to which endpoint, and what becomes of failures.
type Webhook struct {
	// Tenant owns the webhook. Required.
	Tenant uuid.UUID
	// Locator identifies it within the tenant. Required; NewWebhook makes one.
	Locator ulid.ULID
	// Name is for people: 1 to 200 characters without control or bidi characters; it need not be unique.
	Name string
	// Enabled webhooks are delivered to. For a disabled one nothing is attempted: what Send accepts is held
	// until it is enabled, and Publish leaves it out.
	Enabled bool
	// EventTypes are what Publish sends it, 1 to 100 of: an exact type, a prefix such as policy.* (which
	// covers policy.issued and policy.renewal.issued), or * for all.
	EventTypes []string
	// Endpoint is where its events go.
	Endpoint Endpoint
	// FailureHandling says what becomes of failures. Nil: DefaultFailureHandling.
	FailureHandling *FailureHandling
	// MaxPerSecond bounds the attempts that a dispatcher begins in a second, 1 to 10,000. 0: no bound but
	// what the receiver shows it can bear.
	MaxPerSecond int

	// SuspendedAt is when the webhook was suspended, zero while it is not. The store keeps it: what a
	// caller puts here is ignored, see [WebhookStore.Suspend] and [WebhookStore.Unsuspend].
	SuspendedAt time.Time
	// Version counts how often the webhook was saved, from 1; suspending, unsuspending and a PutWebhook that
	// changes nothing do not count. The
	// store keeps it, and [WebhookStore.UpdateWebhook] compares it.
	Version int64
}

// NewWebhook returns an enabled webhook with a fresh locator and the default failure handling. Its messages
// are not signed: for that set Endpoint.HMACEnabled and Endpoint.Secret, see [GenerateSecret].
func NewWebhook(tenant uuid.UUID, name, url string, eventTypes ...string) Webhook {
	return Webhook{
		Tenant:     tenant,
		Locator:    ulid.Make(),
		Name:       name,
		Enabled:    true,
		EventTypes: eventTypes,
		Endpoint:   Endpoint{URL: url},
	}
}

// Key returns the webhook's identity.
func (w Webhook) Key() WebhookKey { return WebhookKey{Tenant: w.Tenant, Webhook: w.Locator} }

// String returns the webhook's key, so that a text shows which one it is and nothing confidential.
func (w Webhook) String() string { return w.Key().String() }

// Suspended reports whether the webhook is suspended.
func (w Webhook) Suspended() bool { return !w.SuspendedAt.IsZero() }

// Active reports whether the webhook is delivered to: enabled, and not suspended.
func (w Webhook) Active() bool { return w.Enabled && !w.Suspended() }

// Handling returns the failure handling in effect.
func (w Webhook) Handling() FailureHandling {
	if w.FailureHandling == nil {
		return DefaultFailureHandling()
	}
	return w.FailureHandling.WithDefaults()
}

// Subscribes reports whether Publish sends the webhook events of this type.
func (w Webhook) Subscribes(eventType string) bool {
	return slices.ContainsFunc(w.EventTypes, func(pattern string) bool {
		if pattern == "*" || pattern == eventType {
			return true
		}
		prefix, isPrefix := strings.CutSuffix(pattern, "*")
		return isPrefix && len(eventType) > len(prefix) && strings.HasPrefix(eventType, prefix)
	})
}

// Validate returns nil, or an [InvalidError] that names every fault.
func (w Webhook) Validate() error {
	var f faults
	if w.Tenant == uuid.Nil {
		f.add("tenantLocator", "must not be zero")
	}
	if w.Locator.IsZero() {
		f.add("locator", "must not be zero; NewWebhook assigns one")
	}
	if w.Name == "" || !validLabel(w.Name) {
		f.add("name", "must be 1 to %d characters without control or bidi characters", MaxNameLength)
	}
	if n := len(w.EventTypes); n < 1 || n > MaxEventTypes {
		f.add("eventTypes", "must be 1 to %d entries, was %d", MaxEventTypes, n)
	}
	for i, t := range w.EventTypes {
		if !validEventPattern(t) {
			f.add(fmt.Sprintf("eventTypes[%d]", i), "must be %s, with .* at its end for a prefix, or *, was %s", eventTypeRule, quote(t))
		}
	}
	if w.MaxPerSecond < 0 || w.MaxPerSecond > MaxAttemptsPerSecond {
		f.add("maxPerSecond", "must be 1 to %d, was %d", MaxAttemptsPerSecond, w.MaxPerSecond)
	}
	f.merge("endpoint", w.Endpoint.Validate())
	if w.FailureHandling != nil {
		f.merge("failureHandling", w.FailureHandling.Validate())
	}
	return f.err()
}

const eventTypeRule = "1 to 128 of the characters A–Z a–z 0–9 . _ -"

func validEventType(s string) bool {
	if len(s) < 1 || len(s) > 128 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

func validEventPattern(s string) bool {
	if s == "*" {
		return true
	}
	return validEventType(strings.TrimSuffix(s, ".*"))
}

// validLabel says whether s, which may be empty, can be shown to people wherever it turns up.
func validLabel(s string) bool {
	return utf8.ValidString(s) && utf8.RuneCountInString(s) <= MaxNameLength &&
		!strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) })
}

// clone returns a webhook that shares no memory with w.
func (w Webhook) clone() Webhook {
	w.EventTypes = slices.Clone(w.EventTypes)
	w.Endpoint = w.Endpoint.clone()
	if w.FailureHandling != nil {
		h := *w.FailureHandling
		h.Triggers = slices.Clone(h.Triggers)
		if h.Retry != nil {
			r := *h.Retry
			h.Retry = &r
		}
		if h.Alert != nil {
			a := h.Alert.clone()
			h.Alert = &a
		}
		w.FailureHandling = &h
	}
	return w
}

// Replacing returns w as a store saves it in place of stand, at the store's time now: the suspension and
// the old secrets of stand remain, less those whose time is over, and a secret that w replaces goes on signing
// for [SecretOverlap]. The version is the next one, or that of stand if nothing of this changes anything: then
// the store writes nothing. [WebhookStore.PutWebhook] is defined by it.
func (w Webhook) Replacing(stand Webhook, now time.Time) Webhook {
	w = w.clone()
	w.SuspendedAt, w.Version = stand.SuspendedAt, stand.Version
	w.Endpoint = w.Endpoint.rotate(stand.Endpoint, now, SecretOverlap)
	if w.FailureHandling != nil && w.FailureHandling.Alert != nil && stand.FailureHandling != nil && stand.FailureHandling.Alert != nil {
		a := w.FailureHandling.Alert.rotate(*stand.FailureHandling.Alert, now, SecretOverlap)
		w.FailureHandling.Alert = &a
	}
	if !w.sameRecord(stand) {
		w.Version++
	}
	return w
}

// sameRecord says whether a store keeps the same of both, whatever distinguishes them in memory, such as an empty list
// and none.
func (w Webhook) sameRecord(v Webhook) bool {
	a, err := EncodeWebhook(w)
	b, err2 := EncodeWebhook(v)
	return err == nil && err2 == nil && bytes.Equal(a, b) && w.Enabled == v.Enabled
}

// WebhookUpdate changes a [Webhook]; fields that are nil or empty change nothing.
type WebhookUpdate struct {
	Name     *string
	Enabled  *bool
	Endpoint *EndpointUpdate
	// FailureHandling changes the handling in effect. It contradicts RemoveFailureHandling, which returns
	// to the default.
	FailureHandling       *FailureHandlingUpdate
	RemoveFailureHandling bool
	// MaxPerSecond replaces the bound; 0 takes it away.
	MaxPerSecond *int
	// AddEventTypes are appended, RemoveEventTypes taken away. They must not overlap, and one must remain.
	AddEventTypes, RemoveEventTypes []string
}

// Apply returns the webhook after the update, or an [InvalidError]; w stays as it is.
func (w Webhook) Apply(u WebhookUpdate) (Webhook, error) {
	var f faults
	w = w.clone()
	if u.Name != nil {
		w.Name = *u.Name
	}
	if u.Enabled != nil {
		w.Enabled = *u.Enabled
	}
	if u.MaxPerSecond != nil {
		w.MaxPerSecond = *u.MaxPerSecond
	}
	if u.Endpoint != nil {
		e, err := w.Endpoint.Apply(*u.Endpoint)
		f.merge("endpoint", err)
		if err == nil {
			w.Endpoint = e
		}
	}
	switch {
	case u.RemoveFailureHandling && u.FailureHandling != nil:
		f.add("removeFailureHandling", "contradicts the failureHandling beside it")
	case u.RemoveFailureHandling:
		w.FailureHandling = nil
	case u.FailureHandling != nil:
		h, err := w.Handling().Apply(*u.FailureHandling)
		f.merge("failureHandling", err)
		if err == nil {
			w.FailureHandling = &h
		}
	}
	w.EventTypes = updateEventTypes(&f, w.EventTypes, u.AddEventTypes, u.RemoveEventTypes)
	if err := w.Validate(); err != nil {
		f.merge("", err)
	}
	if err := f.err(); err != nil {
		return Webhook{}, err
	}
	return w, nil
}

func updateEventTypes(f *faults, stand, add, remove []string) []string {
	for i, t := range add {
		if slices.Contains(remove, t) {
			f.add("removeEventTypes", "must not overlap addEventTypes, both name %s", quote(t))
			return stand
		}
		if !validEventPattern(t) {
			f.add(fmt.Sprintf("addEventTypes[%d]", i), "must be %s, with .* at its end for a prefix, or *, was %s", eventTypeRule, quote(t))
			return stand
		}
		if !slices.Contains(stand, t) {
			stand = append(stand, t)
		}
	}
	result := slices.DeleteFunc(slices.Clone(stand), func(t string) bool { return slices.Contains(remove, t) })
	if len(result) == 0 && len(stand) > 0 {
		f.add("removeEventTypes", "must leave at least one event type")
		return stand
	}
	return result
}
