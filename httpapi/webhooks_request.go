package httpapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/google/uuid"
)

// shown says which secrets the answer shows in full, since this request made them.
type shown struct{ endpoint, alert bool }

// readCreateWebhook reads a CreateWebhookRequest.
func (h *Handler) readCreateWebhook(f *faults, raw json.RawMessage) (webhook diverted.Webhook, shown shown) {
	o := readObject(f, "", raw)
	o.need("name", "enabled", "eventTypes", "endpoint")
	webhook.Name = value(o.text("name"))
	webhook.Enabled = value(o.flag("enabled"))
	webhook.EventTypes = o.texts("eventTypes")
	if e := o.object("endpoint"); e != nil {
		webhook.Endpoint, shown.endpoint = h.readCreateEndpoint(e)
	}
	if fh := o.object("failureHandling"); fh != nil {
		var handling diverted.FailureHandling
		handling, shown.alert = h.readCreateHandling(fh)
		webhook.FailureHandling = &handling
	}
	webhook.MaxPerSecond = value(o.integer("maxPerSecond", 1, diverted.MaxAttemptsPerSecond))
	if value(o.flag("useAutomationPlugin")) {
		f.Add("useAutomationPlugin", "must be false or absent; there is no automation plugin")
	}
	o.end()
	return webhook, shown
}

// readCreateEndpoint reads a CreateEndpointRequest; generated says that it asked for a secret.
func (h *Handler) readCreateEndpoint(o *object) (e diverted.Endpoint, generated bool) {
	o.need("url")
	e.URL = value(o.text("url"))
	e.Headers = o.headers("headers")
	secure := h.readSecureTLS(o)
	e.InsecureTLS = secure != nil && !*secure
	e.HMACEnabled = value(o.flag("hmacEnabled"))
	if secret := readSecret(o); secret != nil {
		e.Secret = *secret
	} else if e.HMACEnabled {
		e.Secret, generated = diverted.GenerateSecret(), true
	}
	e.Tag = value(o.text("tag"))
	o.end()
	return e, generated
}

// readSecureTLS reads secureSsl, which may be false only where the operator allows it.
func (h *Handler) readSecureTLS(o *object) *bool {
	secure := o.flag("secureSsl")
	if secure != nil && !*secure && !h.config.AllowInsecureTLS {
		o.faults.Add(o.at("secureSsl"), "must be true; this service delivers to receivers with a valid certificate alone")
	}
	return secure
}

// readSecret reads a secret. An empty one is not one that was left out.
func readSecret(o *object) *diverted.Secret {
	text := o.text("secret")
	if text == nil {
		return nil
	}
	secret := diverted.Secret(*text)
	if secret == "" {
		o.faults.Add(o.at("secret"), "must not be empty; leave it out, and one is made where it is needed")
	}
	o.faults.Merge(o.at("secret"), secret.Validate())
	return &secret
}

// readCreateHandling reads a FailureHandlingCreateRequest.
func (h *Handler) readCreateHandling(o *object) (handling diverted.FailureHandling, generated bool) {
	if a := o.object("alertEndpoint"); a != nil {
		var alert diverted.Endpoint
		alert, generated = h.readCreateEndpoint(a)
		handling.Alert = &alert
	}
	handling.Divert = true // absent: true on the wire
	if divert := o.flag("divert"); divert != nil {
		handling.Divert = *divert
	}
	if r := o.object("retryStrategy"); r != nil {
		strategy, _ := diverted.RetryStrategy{}.Apply(readRetry(r)) // which has told the faults
		handling.Retry = &strategy
	}
	handling.Suspend = value(o.flag("suspend"))
	handling.Triggers = triggers(o.texts("triggers"))
	o.end()
	return handling, generated
}

// readRetry reads a RetryStrategyCreateRequest or a RetryStrategyUpdateRequest. An explicit 0 is out of
// range, not a default.
func readRetry(o *object) (u diverted.RetryStrategyUpdate) {
	u.Attempts = o.integer("attempts", 1, diverted.MaxRetryAttempts)
	if seconds := o.integer("interval", 1, int(diverted.MaxRetryInterval/time.Second)); seconds != nil {
		u.Interval = new(time.Duration(*seconds) * time.Second)
	}
	if text := o.text("type"); text != nil {
		if t := diverted.RetryType(*text); t == diverted.Exponential || t == diverted.Linear {
			u.Type = &t
		} else {
			o.faults.Add(o.at("type"), "must be exponential or linear, was %s", quote(*text))
		}
	}
	o.end()
	return u
}

// readUpdateWebhook reads an UpdateWebhookRequest.
func (h *Handler) readUpdateWebhook(f *faults, raw json.RawMessage) (u diverted.WebhookUpdate) {
	o := readObject(f, "", raw)
	u.Name = o.text("name")
	u.Enabled = o.flag("enabled")
	if e := o.object("endpoint"); e != nil {
		u.Endpoint = new(h.readUpdateEndpoint(e))
	}
	if fh := o.object("failureHandling"); fh != nil {
		u.FailureHandling = new(h.readUpdateHandling(fh))
	}
	u.RemoveFailureHandling = value(o.flag("removeFailureHandling"))
	u.MaxPerSecond = o.integer("maxPerSecond", 1, diverted.MaxAttemptsPerSecond)
	if value(o.flag("removeMaxPerSecond")) {
		if u.MaxPerSecond != nil {
			f.Add("removeMaxPerSecond", "contradicts the maxPerSecond beside it")
		}
		u.MaxPerSecond = new(0)
	}
	u.AddEventTypes = o.texts("addEventTypes")
	u.RemoveEventTypes = o.texts("removeEventTypes")
	o.end()
	return u
}

// readUpdateEndpoint reads an UpdateEndpointRequest.
func (h *Handler) readUpdateEndpoint(o *object) (u diverted.EndpointUpdate) {
	u.URL = o.text("url")
	u.AddHeaders = o.headers("addHeaders")
	u.RemoveHeaders = o.texts("removeHeaders")
	if secure := h.readSecureTLS(o); secure != nil {
		u.InsecureTLS = new(!*secure)
	}
	u.HMACEnabled = o.flag("hmacEnabled")
	u.Secret = readSecret(o)
	u.SecretOverlap = h.config.SecretOverlap
	u.RevokeOldSecrets = value(o.flag("revokeOldSecrets"))
	u.Tag = o.text("tag")
	o.end()
	return u
}

// readUpdateHandling reads a FailureHandlingUpdateRequest.
func (h *Handler) readUpdateHandling(o *object) (u diverted.FailureHandlingUpdate) {
	if a := o.object("alertEndpoint"); a != nil {
		u.Alert = new(h.readUpdateEndpoint(a))
	}
	u.RemoveAlert = value(o.flag("removeAlertEndpoint"))
	u.Divert = o.flag("divert")
	if r := o.object("retryStrategy"); r != nil {
		u.Retry = new(readRetry(r))
	}
	u.RemoveRetry = value(o.flag("removeRetryStrategy"))
	u.Suspend = o.flag("suspend")
	u.AddTriggers = triggers(o.texts("addTriggers"))
	u.RemoveTriggers = triggers(o.texts("removeTriggers"))
	o.end()
	return u
}

// value is the value of a member, zero if it is absent.
func value[T any](p *T) (v T) {
	if p != nil {
		v = *p
	}
	return v
}

func triggers(texts []string) []diverted.Trigger {
	if texts == nil {
		return nil
	}
	out := make([]diverted.Trigger, len(texts))
	for i, t := range texts {
		out[i] = diverted.Trigger(t)
	}
	return out
}

// withSecrets adds a generated secret wherever an update makes an endpoint sign that has none.
func withSecrets(u diverted.WebhookUpdate, stand diverted.Webhook) (_ diverted.WebhookUpdate, made shown) {
	if u.Endpoint != nil {
		u.Endpoint, made.endpoint = withSecret(*u.Endpoint, stand.Endpoint)
	}
	if u.FailureHandling != nil && u.FailureHandling.Alert != nil {
		var alert diverted.Endpoint
		if a := stand.Handling().Alert; a != nil {
			alert = *a
		}
		handling := *u.FailureHandling
		handling.Alert, made.alert = withSecret(*handling.Alert, alert)
		u.FailureHandling = &handling
	}
	return u, made
}

func withSecret(u diverted.EndpointUpdate, stand diverted.Endpoint) (*diverted.EndpointUpdate, bool) {
	if !value(u.HMACEnabled) || u.Secret != nil || stand.Secret != "" {
		return &u, false
	}
	u.Secret = new(diverted.GenerateSecret())
	return &u, true
}

// updateFaults returns the faults of an update that do not depend on the webhook it changes, so that they
// are told before that is looked up: those it would have on a webhook that has everything.
func updateFaults(u diverted.WebhookUpdate) error {
	endpoint := diverted.Endpoint{URL: "https://receiver.example", Secret: diverted.GenerateSecret()}
	stand := diverted.NewWebhook(uuid.New(), "stand-in", endpoint.URL)
	stand.Endpoint = endpoint
	handling := diverted.DefaultFailureHandling()
	handling.Alert = &endpoint
	stand.FailureHandling = &handling
	// Whatever the update takes away, something remains.
	for i := 0; len(stand.EventTypes) == 0; i++ {
		if t := fmt.Sprintf("stand.in.%d", i); !slices.Contains(u.RemoveEventTypes, t) {
			stand.EventTypes = []string{t}
		}
	}
	for status := range 300 {
		handling.Triggers = append(handling.Triggers, diverted.StatusTrigger(300+status))
	}
	_, err := stand.Apply(u)
	var invalid *diverted.InvalidError
	if errors.As(err, &invalid) {
		// How many event types there are then is for the webhook itself to say.
		invalid.Fields = slices.DeleteFunc(invalid.Fields, func(f diverted.FieldError) bool { return f.Path == "eventTypes" })
	}
	return err
}
