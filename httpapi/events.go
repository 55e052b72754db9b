package httpapi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/locators"
)

// Publisher publishes events. [diverted.Dispatcher] is one.
type Publisher interface {
	// Publish makes an event pending for every webhook of the tenant that subscribes to it, durably when it
	// returns nil, and says for each what became of it there. If some have no room for it, it returns a
	// [diverted.ErrFull] with the whole answer, and the others have it durably.
	Publish(ctx context.Context, tenant uuid.UUID, event diverted.Event) ([]diverted.Acceptance, error)
}

type publishResponse struct {
	Locator string `json:"locator"`
	// Deliveries counts the webhooks where the event is newly pending, Refused those that had no room for it.
	Deliveries int `json:"deliveries"`
	Refused    int `json:"refused,omitempty"`
}

func (h *Handler) publishEvent(c *call) (answer, error) {
	raw, err := c.readBody(maxEventBody)
	if err != nil {
		return answer{}, err
	}
	var f faults
	event := readEvent(&f, raw)
	f.Merge("", event.Validate())
	if err := f.Err(errBody); err != nil {
		return answer{}, err
	}
	results, err := h.config.Publisher.Publish(c.r.Context(), c.tenant, event)
	response := publishResponse{Locator: event.Locator.String()}
	for _, r := range results {
		switch r.Status {
		case diverted.Accepted:
			response.Deliveries++
		case diverted.Refused:
			response.Refused++
		}
	}
	// One webhook that stays full must not have the publishers of its tenant repeat all their events.
	partly := errors.Is(err, diverted.ErrFull) && response.Refused < len(results)
	if err != nil && !partly {
		return answer{}, publishError{event.Locator, err}
	}
	return answer{status: http.StatusAccepted, body: response}, nil
}

// readEvent reads a PublishEventRequest. What it leaves out is made.
func readEvent(f *faults, raw json.RawMessage) diverted.Event {
	event := diverted.Event{Locator: ulid.Make(), RequestLocator: ulid.Make(), Timestamp: time.Now().UTC()}
	o := readObject(f, "", raw)
	o.need("type", "data")
	event.Type = value(o.text("type"))
	event.Data, _ = o.value("data", "") // any value; its inner names are the caller's
	locator := func(name string, into *ulid.ULID) {
		if s := o.text(name); s != nil {
			id, ok := locators.ParseULID(*s)
			if !ok {
				f.Add(name, "%s, was %s", locators.ULIDRule, quote(*s))
				return
			}
			*into = id
		}
	}
	locator("locator", &event.Locator)
	locator("requestId", &event.RequestLocator)
	if s := o.text("userLocator"); s != nil {
		id, ok := locators.ParseUUID(*s)
		if !ok {
			f.Add("userLocator", "%s, was %s", locators.UUIDRule, quote(*s))
		}
		event.UserLocator = id
	}
	if s := o.text("timestamp"); s != nil {
		t, ok := parseTime(*s)
		if !ok {
			f.Add("timestamp", "must be a time as RFC 3339 writes it, such as 2026-11-23T17:58:00.000Z, was %s", quote(*s))
		}
		event.Timestamp = t
	}
	o.end()
	return event
}

// publishError tells under which locator the event is to be repeated: after an error it may be on its way to
// some webhooks, and the one who asked does not know a locator that was made for them.
type publishError struct {
	locator ulid.ULID
	err     error
}

func (e publishError) Error() string { return fmt.Sprintf("event %s: %v", e.locator, e.err) }
func (e publishError) Unwrap() error { return e.err }
