package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/divertedevents/diverted"
)

// maxExtended is the greatest page of extended events: each may have 20 attempts, of 2 KiB of text each.
const maxExtended = 100

// extendedEventResponse is a diverted event on the wire, with all that is known of it.
type extendedEventResponse struct {
	divertedEventResponse
	EventType string            `json:"eventType"`
	Attempts  []attemptResponse `json:"attempts"`
	Expunged  bool              `json:"expunged,omitempty"`
	// Event is the body that was sent. Lists leave it out, and fetches for those who may not see it.
	Event json.RawMessage `json:"event,omitempty"`
}

// attemptResponse is an attempt that failed.
type attemptResponse struct {
	// Number and DurationMillis are absent where the event was set aside without an attempt, or by a host that
	// delivers by itself and does not say.
	Number            int    `json:"number,omitempty"`
	Timestamp         string `json:"timestamp"`
	DurationMillis    *int64 `json:"durationMillis,omitempty"`
	Trigger           string `json:"trigger"`
	Status            int    `json:"status,omitempty"`
	Message           string `json:"message"`
	Excerpt           string `json:"excerpt,omitempty"`
	RetryAfterSeconds int64  `json:"retryAfterSeconds,omitempty"`
}

func extendedResponse(e diverted.DivertedEvent) extendedEventResponse {
	return extendedEventResponse{
		divertedEventResponse: divertedResponse(e),
		EventType:             e.EventType,
		Attempts:              each(e.Failures, newAttemptResponse),
		Expunged:              e.Expunged,
	}
}

func newAttemptResponse(f diverted.Failure) attemptResponse {
	response := attemptResponse{
		Number: f.Attempt, Timestamp: diverted.FormatTime(f.At),
		Trigger: string(f.Trigger), Status: f.Status, Message: f.Message, Excerpt: f.Excerpt,
		RetryAfterSeconds: int64(math.Ceil(f.RetryAfter.Seconds())),
	}
	if f.Attempt > 0 || f.Duration > 0 {
		response.DurationMillis = new(f.Duration.Milliseconds())
	}
	return response
}

// fetchExtended shows the event itself to those who have [DivertedPayload].
func (h *Handler) fetchExtended(c *call) (answer, error) {
	payload := h.permits(c, DivertedPayload)
	if payload != nil && !errors.Is(payload, ErrForbidden) {
		return answer{}, payload
	}
	event, err := h.config.Diverted.FetchDiverted(c.r.Context(), c.key())
	if err != nil {
		return answer{}, err
	}
	response := extendedResponse(event)
	if payload == nil && !event.Expunged {
		if !json.Valid(event.Body) {
			return answer{}, fmt.Errorf("the body of %s: %w", event.Key, diverted.ErrDamaged)
		}
		response.Event = event.Body
	}
	return ok(response)
}
