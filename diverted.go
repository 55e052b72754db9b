// Package diverted sends webhooks from a Go service and loses none.
//
// A service that sends webhooks accepts an [Event] once and wants it to reach every [Webhook] that
// asked for it, however long the receiver is away. This package does that: it keeps each delivery in a
// [Store], attempts it by HTTP POST, retries it by the webhook's own [RetryStrategy], sets aside
// ("diverts") what cannot be delivered as a [DivertedEvent], suspends a webhook that is broken, and tells
// someone.
//
// # The life of a delivery
//
// Data flows one way: accept → claim → attempt → settle.
//
//   - [Dispatcher.Send] and [Dispatcher.Publish] accept: the delivery is durable when they return nil.
//   - [Dispatcher.Run] claims what is due, attempts it, and settles the outcome in the store.
//   - 2xx: delivered, and forgotten. To know later what was delivered, keep a record of your own, in
//     [Observer.Attempted], which is called before the row is deleted.
//   - A failure with budget left: pending, until the wait before the next retry is over.
//   - A failure with its budget spent: diverted, or held by the webhook that it suspended, or dropped,
//     as the webhook's [FailureHandling] says.
//   - A diverted event stays until it is resent or deleted, by [DivertedStore.Resend] and
//     [DivertedStore.DeleteDiverted] or over HTTP by package httpapi.
//
// Delivery is at least once. A receiver recognises a repetition by the webhook-id header, which is the
// event's locator on every attempt. No order is promised.
//
// # Where to begin
//
// [OpenSQLite] makes a store for one machine, [NewSQLiteStore] one in the host's own database,
// [NewMemoryStore] one for unit tests, and the module postgres one for many machines. [NewDispatcher] makes a
// dispatcher on it, [NewWebhook] a webhook, and [NewEvent] an event. The program examples/quickstart of this
// module shows the whole life of a delivery.
//
// A service needs these functions, the types [Webhook], [Endpoint], [FailureHandling], [Config] and
// [DivertedEvent], and the errors. The types of [DeliveryStore] ([Message], [Claim], [Outcome], [Notice]
// and their parts) pass between the dispatcher and a store: they concern only those who write a [Store].
//
// Everything exported is safe for concurrent use unless it says otherwise; values such as [Event],
// [Webhook] and [FailureHandling] are plain data: copy them, and do not change one while another goroutine
// reads it.
//
// # Identifiers
//
// A tenant is a UUID, a webhook and an event are ULIDs. A service with one tenant takes any constant but the
// zero UUID. One whose tenants have other identifiers derives a UUID from each, for example by
// uuid.NewSHA1(namespace, []byte("customer-17")). A ULID is 16 bytes, like a UUID, so the key of a webhook
// in the service's own table can be its locator: ulid.ULID(id).
package diverted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// MaxEventBytes is the largest size of an encoded event, in bytes: 16 MiB.
const MaxEventBytes = 16 << 20

// timeFormat writes a time as this package's messages and answers do: RFC 3339, UTC, milliseconds.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// FormatTime writes t as every message and answer of this library does: RFC 3339 in UTC, with
// milliseconds, such as 2026-11-23T17:58:00.000Z.
func FormatTime(t time.Time) string { return t.UTC().Format(timeFormat) }

// WebhookKey is the identity of a webhook: its tenant and its locator.
type WebhookKey struct {
	Tenant  uuid.UUID
	Webhook ulid.ULID
}

// String returns the key as tenant/webhook.
func (k WebhookKey) String() string { return k.Tenant.String() + "/" + k.Webhook.String() }

// Key is the identity of a delivery, and of a diverted event: one event on its way to one webhook.
type Key struct {
	Tenant  uuid.UUID
	Webhook ulid.ULID
	Event   ulid.ULID
}

// WebhookKey returns the identity of the delivery's webhook.
func (k Key) WebhookKey() WebhookKey { return WebhookKey{Tenant: k.Tenant, Webhook: k.Webhook} }

// String returns the key as tenant/webhook/event.
func (k Key) String() string {
	return k.Tenant.String() + "/" + k.Webhook.String() + "/" + k.Event.String()
}

// Event is something that happened and that webhooks are told of. [NewEvent] makes one.
type Event struct {
	// Locator identifies the event; it is the webhook-id header of every attempt. Required.
	Locator ulid.ULID
	// RequestLocator identifies the request that raised the event. Required; NewEvent makes a fresh one.
	RequestLocator ulid.ULID
	// UserLocator identifies the user on whose behalf it was raised. Zero: none.
	UserLocator uuid.UUID
	// Timestamp is when it happened, in the years 0 to 9999, sent in UTC with milliseconds. Required.
	Timestamp time.Time
	// Type says what happened, such as order.paid: 1 to 128 of the characters A–Z a–z 0–9 . _ -.
	Type string
	// Data is any JSON value in UTF-8, nested less than 10,000 deep. Its bytes are sent as given, but
	// without insignificant space. The encoded event is at most [MaxEventBytes]; package httpapi takes
	// request bodies of up to 256 KiB.
	Data json.RawMessage
}

// NewEvent returns an event of the given type that happened now, with a fresh locator and a fresh
// request locator. data is encoded by [json.Marshal], unless it is a [json.RawMessage] or a []byte,
// which is taken as JSON that is already encoded. The error, if any, is an [ErrInvalid].
func NewEvent(eventType string, data any) (Event, error) {
	e := Event{
		Locator:        ulid.Make(),
		RequestLocator: ulid.Make(),
		Timestamp:      time.Now().UTC(),
		Type:           eventType,
	}
	switch d := data.(type) {
	case json.RawMessage:
		e.Data = d
	case []byte:
		e.Data = d
	default:
		encoded, err := json.Marshal(data)
		if err != nil {
			// The message of the JSON package can quote the data; its type is enough to mend it.
			return Event{}, invalid("data", "must be a value that JSON can encode, was a %T", data)
		}
		e.Data = encoded
		if len(encoded) <= MaxEventBytes/2 && !mayBeDeep(encoded) { // the data needs no second look
			var f faults
			e.check(&f)
			if err := f.err(); err != nil {
				return Event{}, err
			}
			return e, nil
		}
	}
	if err := e.Validate(); err != nil {
		return Event{}, err
	}
	return e, nil
}

// Validate returns nil if the event can be sent, else an [InvalidError] that names every field at fault.
func (e Event) Validate() error {
	_, err := e.Encode()
	return err
}

// Encode returns the body of the event's message, the bytes that every attempt sends and that every
// signature covers:
//
//	{"locator","requestId","userLocator"?,"timestamp","type","data"}
//
// The error, if any, is an [InvalidError].
func (e Event) Encode() ([]byte, error) {
	var f faults
	e.check(&f)
	var b bytes.Buffer
	b.Grow(len(e.Data) + 256)
	b.WriteString(`{"locator":"`)
	b.WriteString(e.Locator.String())
	b.WriteString(`","requestId":"`)
	b.WriteString(e.RequestLocator.String())
	if e.UserLocator != uuid.Nil {
		b.WriteString(`","userLocator":"`)
		b.WriteString(e.UserLocator.String())
	}
	b.WriteString(`","timestamp":"`)
	b.WriteString(FormatTime(e.Timestamp))
	b.WriteString(`","type":"`)
	b.WriteString(e.Type)
	b.WriteString(`","data":`)
	// Compact keeps every byte but insignificant space: json.Marshal would rewrite < > & and U+2028.
	if err := json.Compact(&b, e.Data); err != nil || !utf8.Valid(e.Data) { // RFC 8259, section 8.1
		f.add("data", "must be one JSON value, in UTF-8")
	}
	b.WriteByte('}')
	if mayBeDeep(e.Data) && len(f.fields) == 0 && !json.Valid(b.Bytes()) {
		f.add("data", "must be nested less than %d deep", maxDepth)
	}
	if b.Len() > MaxEventBytes {
		f.add("data", "must leave the encoded event within %d bytes, was %d bytes", MaxEventBytes, b.Len())
	}
	if err := f.err(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// maxDepth is how deep JSON may be nested for package encoding/json to read it.
const maxDepth = 10_000

// mayBeDeep says whether data could be nested so deep that the event around it is too deep to be read again.
func mayBeDeep(data []byte) bool {
	return len(data) >= maxDepth && bytes.Count(data, []byte{'['})+bytes.Count(data, []byte{'{'}) >= maxDepth
}

// check adds the faults of all fields but Data.
func (e *Event) check(f *faults) {
	if e.Locator.IsZero() {
		f.add("locator", "must not be zero; NewEvent assigns one")
	}
	if e.RequestLocator.IsZero() {
		f.add("requestId", "must not be zero; NewEvent assigns one")
	}
	if e.Timestamp.IsZero() {
		f.add("timestamp", "must not be zero")
	} else if y := e.Timestamp.UTC().Year(); y < 0 || y > 9999 {
		f.add("timestamp", "must be in the years 0 to 9999 (RFC 3339), was in %d", y)
	}
	if !validEventType(e.Type) {
		f.add("type", "must be %s, was %s", eventTypeRule, quote(e.Type))
	}
}

// DecodeEvent reads an event back from the body of its message, as [Event.Encode] wrote it. Data is a copy.
// A body that is not an encoded event is an [ErrInvalid].
func DecodeEvent(body []byte) (Event, error) {
	var wire struct {
		Locator        ulid.ULID       `json:"locator"`
		RequestLocator ulid.ULID       `json:"requestId"`
		UserLocator    uuid.UUID       `json:"userLocator"`
		Timestamp      time.Time       `json:"timestamp"`
		Type           string          `json:"type"`
		Data           json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(body, &wire); err != nil {
		return Event{}, invalid("body", "must be an encoded event")
	}
	e := Event{
		Locator:        wire.Locator,
		RequestLocator: wire.RequestLocator,
		UserLocator:    wire.UserLocator,
		Timestamp:      wire.Timestamp.UTC(),
		Type:           wire.Type,
		Data:           wire.Data,
	}
	return e, e.Validate()
}

// DivertedEvent is a delivery that was set aside: it could not be delivered, and waits to be resent or
// deleted.
type DivertedEvent struct {
	Key
	// RequestLocator identifies the request that raised the event.
	RequestLocator ulid.ULID
	// Failure is the last one, the one that set the delivery aside.
	Failure Failure
	// Failures are those of its attempts, before a resend too, oldest first and ending with Failure: at
	// most the last [MaxFailures]. Lists leave it nil unless the query asks for it, and
	// [DivertedStore.Divert] ignores it.
	Failures []Failure
	// EventType is the event's type.
	EventType string
	// Attempts counts the attempts of its last budget.
	Attempts int
	// AcceptedAt is when the delivery was accepted, DivertedAt when it was set aside, by the store's
	// clock. [DivertedStore.Divert] sets both itself.
	AcceptedAt, DivertedAt time.Time
	// Body is the encoded event (see [DecodeEvent]). Lists leave it nil.
	Body []byte
	// Expunged: the body was forgotten on request, see [RetentionStore.Expunge].
	Expunged bool
}

// String says which event it is and why it was set aside, without its body.
func (d DivertedEvent) String() string {
	return fmt.Sprintf("%s %s: %s after %d attempts: %s", d.Key, d.EventType, d.Failure.Trigger, d.Attempts, d.Failure.Message)
}

// MaxFailures is how many failures of a delivery are kept: the last ones.
const MaxFailures = 20

// Validate returns nil if [DivertedStore.Divert] may take the event, else an [InvalidError] that names
// every field at fault.
func (d DivertedEvent) Validate() error {
	var f faults
	if d.Tenant == uuid.Nil {
		f.add("tenantLocator", "must not be zero")
	}
	if d.Webhook.IsZero() {
		f.add("webhookLocator", "must not be zero")
	}
	if d.Event.IsZero() {
		f.add("eventLocator", "must not be zero")
	}
	if d.RequestLocator.IsZero() {
		f.add("requestLocator", "must not be zero")
	}
	if _, err := ParseTrigger(string(d.Failure.Trigger)); err != nil || d.Failure.Trigger.isClass() {
		f.add("failureTrigger", "must be an observed trigger, a status 300 to 599 or timeout, was %s", quote(string(d.Failure.Trigger)))
	}
	if !validEventType(d.EventType) {
		f.add("eventType", "must be %s, was %s", eventTypeRule, quote(d.EventType))
	}
	switch {
	case len(d.Body) == 0 || len(d.Body) > MaxEventBytes:
		f.add("body", "must be 1 to %d bytes, was %d", MaxEventBytes, len(d.Body))
	case !json.Valid(d.Body):
		f.add("body", "must be JSON")
	}
	return f.err()
}

// quote shows a short piece of untrusted input in an error's text: cut, and with nothing unprintable.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%+q…", s[:most])
	}
	return fmt.Sprintf("%+q", s)
}
