package diverted

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// Records are how a webhook is written to a store's row and read from it again: JSON with every
// secret in it, which is why they are no methods that an encoder would find by itself. Fields are only
// ever added, so that a release reads the records of the one before and the one after it.

type webhookRecord struct {
	Name       string          `json:"name"`
	EventTypes []string        `json:"eventTypes"`
	Endpoint   endpointRecord  `json:"endpoint"`
	Handling   *handlingRecord `json:"failureHandling,omitempty"`

	MaxPerSecond int `json:"maxPerSecond,omitempty"`
}

type endpointRecord struct {
	URL         string            `json:"url"`
	Headers     http.Header       `json:"headers,omitempty"`
	InsecureTLS bool              `json:"insecureTls,omitempty"`
	HMACEnabled bool              `json:"hmacEnabled,omitempty"`
	Secret      string            `json:"secret,omitempty"`
	OldSecrets  []oldSecretRecord `json:"oldSecrets,omitempty"`
	Tag         string            `json:"tag,omitempty"`
}

type oldSecretRecord struct {
	Secret string    `json:"secret"`
	Until  time.Time `json:"until"`
}

type handlingRecord struct {
	Triggers []Trigger       `json:"triggers,omitempty"`
	Retry    *retryRecord    `json:"retryStrategy,omitempty"`
	Divert   bool            `json:"divert,omitempty"`
	Suspend  bool            `json:"suspend,omitempty"`
	Alert    *endpointRecord `json:"alertEndpoint,omitempty"`
}

type retryRecord struct {
	Attempts int       `json:"attempts,omitempty"`
	Interval int64     `json:"interval,omitempty"` // seconds
	Type     RetryType `json:"type,omitempty"`
}

// EncodeWebhook returns, as JSON, what a store keeps of a webhook beside its identity, Enabled,
// SuspendedAt and Version, for those who write a [Store] of their own. It holds the secrets in the
// clear.
func EncodeWebhook(w Webhook) ([]byte, error) {
	r := webhookRecord{Name: w.Name, EventTypes: w.EventTypes, Endpoint: recordEndpoint(w.Endpoint), MaxPerSecond: w.MaxPerSecond}
	if h := w.FailureHandling; h != nil {
		r.Handling = &handlingRecord{Triggers: h.Triggers, Divert: h.Divert, Suspend: h.Suspend}
		if h.Retry != nil {
			r.Handling.Retry = &retryRecord{h.Retry.Attempts, int64(h.Retry.Interval / time.Second), h.Retry.Type}
		}
		if h.Alert != nil {
			a := recordEndpoint(*h.Alert)
			r.Handling.Alert = &a
		}
	}
	return json.Marshal(r)
}

// DecodeWebhook reads into w what [EncodeWebhook] wrote, and leaves the other fields of w alone. A
// record that cannot be read gives an [ErrDamaged].
func DecodeWebhook(record []byte, w *Webhook) error {
	var r webhookRecord
	if err := json.Unmarshal(record, &r); err != nil {
		// The JSON package's message may quote the record, which holds secrets.
		return fmt.Errorf("%w: a webhook's record cannot be decoded", ErrDamaged)
	}
	w.Name, w.EventTypes, w.Endpoint, w.FailureHandling = r.Name, r.EventTypes, r.Endpoint.endpoint(), nil
	w.MaxPerSecond = r.MaxPerSecond
	if h := r.Handling; h != nil {
		w.FailureHandling = &FailureHandling{Triggers: h.Triggers, Divert: h.Divert, Suspend: h.Suspend}
		if h.Retry != nil {
			w.FailureHandling.Retry = &RetryStrategy{h.Retry.Attempts, time.Duration(h.Retry.Interval) * time.Second, h.Retry.Type}
		}
		if h.Alert != nil {
			a := h.Alert.endpoint()
			w.FailureHandling.Alert = &a
		}
	}
	return nil
}

func recordEndpoint(e Endpoint) endpointRecord {
	r := endpointRecord{
		URL: e.URL, Headers: e.Headers, InsecureTLS: e.InsecureTLS,
		HMACEnabled: e.HMACEnabled, Secret: string(e.Secret), Tag: e.Tag,
	}
	for _, old := range e.OldSecrets {
		r.OldSecrets = append(r.OldSecrets, oldSecretRecord{string(old.Secret), old.Until})
	}
	return r
}

func (r endpointRecord) endpoint() Endpoint {
	e := Endpoint{
		URL: r.URL, Headers: r.Headers, InsecureTLS: r.InsecureTLS,
		HMACEnabled: r.HMACEnabled, Secret: Secret(r.Secret), Tag: r.Tag,
	}
	for _, old := range r.OldSecrets {
		e.OldSecrets = append(e.OldSecrets, OldSecret{Secret(old.Secret), old.Until})
	}
	return e
}
