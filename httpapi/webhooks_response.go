package httpapi

import (
	"time"

	"github.com/divertedevents/diverted"
)

// webhookResponse is a webhook on the wire.
type webhookResponse struct {
	Locator         string           `json:"locator"`
	Name            string           `json:"name"`
	Enabled         bool             `json:"enabled"`
	Suspended       bool             `json:"suspended"`
	SuspendedAt     *string          `json:"suspendedAt"`
	EventTypes      []string         `json:"eventTypes"`
	Endpoint        endpointResponse `json:"endpoint"`
	FailureHandling handlingResponse `json:"failureHandling"`
	MaxPerSecond    *int             `json:"maxPerSecond"`
}

type endpointResponse struct {
	URL         string              `json:"url"`
	Headers     map[string][]string `json:"headers"`
	SecureSSL   bool                `json:"secureSsl"`
	HMACEnabled bool                `json:"hmacEnabled"`
	Secret      *string             `json:"secret"`
	Tag         *string             `json:"tag"`
}

type handlingResponse struct {
	AlertEndpoint *endpointResponse  `json:"alertEndpoint"`
	Divert        bool               `json:"divert"`
	RetryStrategy *retryResponse     `json:"retryStrategy"`
	Suspend       bool               `json:"suspend"`
	Triggers      []diverted.Trigger `json:"triggers"`
}

type retryResponse struct {
	Attempts int                `json:"attempts"`
	Interval int64              `json:"interval"` // seconds
	Type     diverted.RetryType `json:"type"`
}

type webhookListResponse struct {
	ListCompleted bool              `json:"listCompleted"`
	Items         []webhookResponse `json:"items"`
}

type pingResponse struct {
	Delivered      bool    `json:"delivered"`
	FailureTrigger *string `json:"failureTrigger"`
	FailureMessage *string `json:"failureMessage"`
}

// newWebhookResponse shows the handling in effect, and no secret but those that shown names.
func newWebhookResponse(w diverted.Webhook, shown shown) webhookResponse {
	handling := w.Handling()
	r := webhookResponse{
		Locator:    w.Locator.String(),
		Name:       w.Name,
		Enabled:    w.Enabled,
		Suspended:  w.Suspended(),
		EventTypes: w.EventTypes,
		Endpoint:   newEndpointResponse(w.Endpoint, shown.endpoint),
		FailureHandling: handlingResponse{
			Divert:   handling.Divert,
			Suspend:  handling.Suspend,
			Triggers: handling.Triggers,
		},
	}
	if w.MaxPerSecond > 0 {
		r.MaxPerSecond = &w.MaxPerSecond
	}
	if w.Suspended() {
		r.SuspendedAt = new(diverted.FormatTime(w.SuspendedAt))
	}
	if handling.Alert != nil {
		r.FailureHandling.AlertEndpoint = new(newEndpointResponse(*handling.Alert, shown.alert))
	}
	if handling.Retry != nil {
		r.FailureHandling.RetryStrategy = &retryResponse{handling.Retry.Attempts, int64(handling.Retry.Interval / time.Second), handling.Retry.Type}
	}
	return r
}

// newEndpointResponse masks every header value, since they are credentials, and the secret unless it is
// shown this once.
func newEndpointResponse(e diverted.Endpoint, shown bool) endpointResponse {
	r := endpointResponse{
		URL:         e.URL,
		Headers:     map[string][]string{},
		SecureSSL:   !e.InsecureTLS,
		HMACEnabled: e.HMACEnabled,
	}
	for name, values := range e.Headers {
		masks := make([]string, len(values))
		for i := range masks {
			masks[i] = diverted.Mask
		}
		r.Headers[name] = masks
	}
	switch {
	case e.Secret == "":
	case shown:
		r.Secret = new(string(e.Secret))
	default:
		r.Secret = new(e.Secret.String())
	}
	if e.Tag != "" {
		r.Tag = &e.Tag
	}
	return r
}

func newPingResponse(result diverted.PingResult) pingResponse {
	r := pingResponse{Delivered: result.Delivered}
	if f := result.Failure; f != nil {
		r.FailureTrigger, r.FailureMessage = new(string(f.Trigger)), &f.Message
	}
	return r
}
