package diverted

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// validWebhook returns a webhook without a fault.
func validWebhook() Webhook {
	return NewWebhook(uuid.MustParse("6f0e5c1e-8e6c-4b57-9d0a-2f4f6b9a7c11"), "Orders", "https://example.com/hooks", "order.paid", "policy.*")
}

func TestWebhookValidate(t *testing.T) {
	types := func(n int) []string {
		out := make([]string, n)
		for i := range out {
			out[i] = fmt.Sprintf("type.%d", i)
		}
		return out
	}
	for _, tt := range []struct {
		name         string
		change       func(*Webhook)
		path, detail string // "": valid
	}{
		{"as NewWebhook makes it", func(*Webhook) {}, "", ""},
		{"the longest name", func(w *Webhook) { w.Name = strings.Repeat("ß", 200) }, "", ""},
		{"as many event types as may be", func(w *Webhook) { w.EventTypes = types(100) }, "", ""},
		{"every event type", func(w *Webhook) { w.EventTypes = []string{"*"} }, "", ""},
		{"no tenant", func(w *Webhook) { w.Tenant = uuid.Nil }, "tenantLocator", "must not be zero"},
		{"no locator", func(w *Webhook) { w.Locator = ulid.ULID{} }, "locator", "must not be zero"},
		{"no name", func(w *Webhook) { w.Name = "" }, "name", "must be 1 to 200 characters"},
		{"too long a name", func(w *Webhook) { w.Name = strings.Repeat("ß", 201) }, "name", "must be 1 to 200 characters"},
		{"a control character in the name", func(w *Webhook) { w.Name = "a\tb" }, "name", "without control or bidi"},
		{"a bidi character in the name", func(w *Webhook) { w.Name = "a\u202eb" }, "name", "without control or bidi"},
		{"a name that is not UTF-8", func(w *Webhook) { w.Name = "a\xff" }, "name", "must be 1 to 200"},
		{"no event types", func(w *Webhook) { w.EventTypes = nil }, "eventTypes", "must be 1 to 100 entries, was 0"},
		{"too many event types", func(w *Webhook) { w.EventTypes = types(101) }, "eventTypes", "must be 1 to 100 entries, was 101"},
		{"an empty event type", func(w *Webhook) { w.EventTypes = []string{"a", ""} }, "eventTypes[1]", `was ""`},
		{"a space in an event type", func(w *Webhook) { w.EventTypes = []string{"a b"} }, "eventTypes[0]", `was "a b"`},
		{"a star inside an event type", func(w *Webhook) { w.EventTypes = []string{"a.*.b"} }, "eventTypes[0]", `was "a.*.b"`},
		{"a star without its dot", func(w *Webhook) { w.EventTypes = []string{"policy*"} }, "eventTypes[0]", `was "policy*"`},
		{"a prefix of nothing", func(w *Webhook) { w.EventTypes = []string{".*"} }, "eventTypes[0]", `was ".*"`},
		{"too long an event type", func(w *Webhook) { w.EventTypes = []string{strings.Repeat("a", 129)} }, "eventTypes[0]", "must be 1 to 128"},
		{"a fault of the endpoint", func(w *Webhook) { w.Endpoint.URL = "" }, "endpoint.url", "must not be empty"},
		{"a fault of the handling", func(w *Webhook) { w.FailureHandling = &FailureHandling{Retry: &RetryStrategy{Attempts: 11}} }, "failureHandling.retryStrategy.attempts", "must be 1 to 10, was 11"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			w := validWebhook()
			tt.change(&w)
			err := w.Validate()
			if tt.path == "" {
				is.NoErr(err)
				return
			}
			is.True(errors.Is(err, ErrInvalid))
			is.True(strings.Contains(detailOf(err, tt.path), tt.detail))
			is.True(detailOf(err, tt.path) != "")
		})
	}

	is := is.New(t)
	var all *InvalidError
	is.True(errors.As(Webhook{}.Validate(), &all))
	is.Equal(len(all.Fields), 5) // tenant, locator, name, eventTypes, endpoint.url: every fault at once
}

func TestAWebhookSubscribesToExactTypesPrefixesOrAll(t *testing.T) {
	for _, tt := range []struct {
		pattern, eventType string
		want               bool
	}{
		{"order.paid", "order.paid", true},
		{"order.paid", "order.paid.late", false},
		{"order.paid", "order", false},
		{"order.paid", "Order.Paid", false},
		{"policy.*", "policy.issued", true},
		{"policy.*", "policy.renewal.issued", true},
		{"policy.*", "policy.", false},
		{"policy.*", "policy", false},
		{"policy.*", "policyholder.added", false},
		{"*", "anything", true},
	} {
		t.Run(tt.pattern+" "+tt.eventType, func(t *testing.T) {
			is := is.New(t)
			is.Equal(Webhook{EventTypes: []string{"unrelated", tt.pattern}}.Subscribes(tt.eventType), tt.want)
		})
	}
	is := is.New(t)
	is.True(!Webhook{}.Subscribes("anything"))
}

func TestWebhookApply(t *testing.T) {
	for _, tt := range []struct {
		name   string
		update WebhookUpdate
		want   func(*Webhook)
		path   string // of the fault, if it has one
	}{
		{"nothing", WebhookUpdate{}, func(*Webhook) {}, ""},
		{"the name", WebhookUpdate{Name: new("Payments")}, func(w *Webhook) { w.Name = "Payments" }, ""},
		{"an empty name", WebhookUpdate{Name: new("")}, nil, "name"},
		{"disabled", WebhookUpdate{Enabled: new(false)}, func(w *Webhook) { w.Enabled = false }, ""},
		{"the endpoint", WebhookUpdate{Endpoint: &EndpointUpdate{URL: new("https://example.org")}}, func(w *Webhook) { w.Endpoint.URL = "https://example.org" }, ""},
		{"a fault of the endpoint", WebhookUpdate{Endpoint: &EndpointUpdate{URL: new("x")}}, nil, "endpoint.url"},
		{"the handling in effect is changed", WebhookUpdate{FailureHandling: &FailureHandlingUpdate{Suspend: new(true)}}, func(w *Webhook) {
			h := DefaultFailureHandling()
			h.Suspend = true
			w.FailureHandling = &h
		}, ""},
		{"the handling is removed", WebhookUpdate{RemoveFailureHandling: true}, func(w *Webhook) { w.FailureHandling = nil }, ""},
		{"removed, with a new one beside it", WebhookUpdate{RemoveFailureHandling: true, FailureHandling: &FailureHandlingUpdate{}}, nil, "removeFailureHandling"},
		{"a fault of the handling", WebhookUpdate{FailureHandling: &FailureHandlingUpdate{AddTriggers: []Trigger{"x"}}}, nil, "failureHandling.addTriggers[0]"},
		{"event types are added last, each once", WebhookUpdate{AddEventTypes: []string{"policy.*", "b", "a", "b"}}, func(w *Webhook) {
			w.EventTypes = []string{"order.paid", "policy.*", "b", "a"}
		}, ""},
		{"event types are removed", WebhookUpdate{RemoveEventTypes: []string{"order.paid", "unknown"}}, func(w *Webhook) { w.EventTypes = []string{"policy.*"} }, ""},
		{"an event type replaces all", WebhookUpdate{AddEventTypes: []string{"*"}, RemoveEventTypes: []string{"order.paid", "policy.*"}}, func(w *Webhook) {
			w.EventTypes = []string{"*"}
		}, ""},
		{"the last event type cannot be removed", WebhookUpdate{RemoveEventTypes: []string{"order.paid", "policy.*"}}, nil, "removeEventTypes"},
		{"added and removed event types may not overlap", WebhookUpdate{AddEventTypes: []string{"a"}, RemoveEventTypes: []string{"a"}}, nil, "removeEventTypes"},
		{"a malformed event type", WebhookUpdate{AddEventTypes: []string{"a", "b c"}}, nil, "addEventTypes[1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			stand := validWebhook()
			stand.SuspendedAt, stand.Version = time.Unix(1, 0).UTC(), 3
			before := stand.clone()
			got, err := stand.Apply(tt.update)
			is.Equal(stand, before) // as it was
			if tt.path != "" {
				is.True(detailOf(err, tt.path) != "")
				is.Equal(got, Webhook{})
				return
			}
			is.NoErr(err)
			tt.want(&before)
			is.Equal(got, before)
		})
	}

	is := is.New(t)
	var all *InvalidError
	_, err := validWebhook().Apply(WebhookUpdate{
		Name:            new(""),
		Endpoint:        &EndpointUpdate{URL: new("")},
		FailureHandling: &FailureHandlingUpdate{Retry: &RetryStrategyUpdate{Attempts: new(0)}},
		AddEventTypes:   []string{""},
	})
	is.True(errors.As(err, &all))
	is.Equal(len(all.Fields), 4) // every fault at once, none twice
}

func TestACloneSharesNoMemory(t *testing.T) {
	is := is.New(t)
	w := validWebhook()
	w.Endpoint = Endpoint{URL: "https://example.com", Headers: map[string][]string{"A": {"1"}}, OldSecrets: []OldSecret{{Secret: "a"}}}
	w.FailureHandling = &FailureHandling{
		Triggers: []Trigger{"503"}, Retry: &RetryStrategy{Attempts: 1},
		Alert: &Endpoint{URL: "https://example.com", Headers: map[string][]string{"A": {"1"}}},
	}
	c := w.clone()
	is.Equal(c, w)
	c.EventTypes[0] = "changed"
	c.Endpoint.Headers["A"][0] = "changed"
	c.Endpoint.OldSecrets[0].Secret = "changed"
	c.FailureHandling.Triggers[0] = "changed"
	c.FailureHandling.Retry.Attempts = 9
	c.FailureHandling.Alert.Headers["A"][0] = "changed"
	is.Equal(w.EventTypes[0], "order.paid")
	is.Equal(w.Endpoint.Headers["A"][0], "1")
	is.Equal(w.Endpoint.OldSecrets[0].Secret, Secret("a"))
	is.Equal(w.FailureHandling.Triggers[0], Trigger("503"))
	is.Equal(w.FailureHandling.Retry.Attempts, 1)
	is.Equal(w.FailureHandling.Alert.Headers["A"][0], "1")
}
