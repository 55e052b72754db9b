package diverted

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

// planted is what must never be seen, in every place of a webhook that can hold it.
const planted = "pl4nted"

// plantedWebhook returns a valid webhook with everything set, and planted in each of its confidences.
func plantedWebhook() Webhook {
	secret := func(i byte) Secret { return Secret("whsec_pl4nted/" + strings.Repeat(string('a'+i), 36)) }
	endpoint := Endpoint{
		URL:         "https://example.com:8443/hooks/pl4nted?key=pl4nted",
		Headers:     http.Header{"Authorization": {"Bearer pl4nted"}, "X-Key": {"pl4nted", "2"}},
		InsecureTLS: true,
		HMACEnabled: true,
		Secret:      secret(0),
		OldSecrets:  []OldSecret{{secret(1), time.Date(2026, 11, 24, 0, 0, 0, 5e6, time.UTC)}, {secret(2), time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)}},
		Tag:         "ops",
	}
	alert := endpoint.clone()
	alert.OldSecrets, alert.Tag = nil, "alerts"
	w := validWebhook()
	w.Endpoint = endpoint
	w.FailureHandling = &FailureHandling{
		Triggers: []Trigger{"5xx", "404"},
		Retry:    &RetryStrategy{Attempts: 4, Interval: 90 * time.Second, Type: Linear},
		Divert:   true,
		Suspend:  true,
		Alert:    &alert,
	}
	return w
}

func TestARecordHoldsAllOfAWebhook(t *testing.T) {
	for name, w := range map[string]Webhook{"everything": plantedWebhook(), "as little as may be": validWebhook()} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.NoErr(w.Validate())
			record, err := EncodeWebhook(w)
			is.NoErr(err)
			// Identity, Enabled, SuspendedAt and Version are the store's, and are left alone.
			got := Webhook{Tenant: w.Tenant, Locator: w.Locator, Enabled: w.Enabled, FailureHandling: &FailureHandling{Suspend: true}}
			is.NoErr(DecodeWebhook(record, &got))
			is.Equal(got, w)
		})
	}
}

func TestARecordOfALaterReleaseIsRead(t *testing.T) {
	is := is.New(t)
	var w Webhook
	is.NoErr(DecodeWebhook([]byte(`{"name":"Orders","new":{"a":1},"endpoint":{"url":"https://example.com","also":2}}`), &w))
	is.Equal(w.Name, "Orders")
	is.Equal(w.Endpoint.URL, "https://example.com")
}

func TestARecordThatCannotBeReadIsDamagedAndNotQuoted(t *testing.T) {
	is := is.New(t)
	record, err := EncodeWebhook(plantedWebhook())
	is.NoErr(err)
	for _, damaged := range [][]byte{nil, record[:len(record)/2], []byte(`{"endpoint":"pl4nted"}`), []byte(`pl4nted`)} {
		w := validWebhook()
		err := DecodeWebhook(damaged, &w)
		is.True(errors.Is(err, ErrDamaged))
		is.True(!strings.Contains(err.Error(), planted))
		is.Equal(w, withLocator(validWebhook(), w)) // as it was
	}
}

// withLocator returns w with the locator of other, since each has a fresh one.
func withLocator(w, other Webhook) Webhook {
	w.Locator = other.Locator
	return w
}

func FuzzDecodeWebhook(f *testing.F) {
	for _, w := range []Webhook{plantedWebhook(), validWebhook()} {
		record, err := EncodeWebhook(w)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(record)
	}
	f.Fuzz(func(t *testing.T, record []byte) {
		w := validWebhook()
		if DecodeWebhook(record, &w) != nil || w.Validate() != nil {
			return
		}
		again, err := EncodeWebhook(w)
		if err != nil {
			t.Fatal(err)
		}
		back := withLocator(Webhook{Tenant: w.Tenant, Enabled: w.Enabled}, w)
		if err := DecodeWebhook(again, &back); err != nil || back.Validate() != nil {
			t.Fatalf("a valid webhook does not come back from its record: %v", err)
		}
	})
}

// Whatever prints, logs or encodes a value shows none of its confidences.
func TestNoConfidenceIsPrinted(t *testing.T) {
	w := plantedWebhook()
	update := EndpointUpdate{
		URL: &w.Endpoint.URL, AddHeaders: w.Endpoint.Headers, RemoveHeaders: []string{planted}, Secret: &w.Endpoint.Secret,
	}
	values := map[string]any{
		"Secret":           w.Endpoint.Secret,
		"*Secret":          &w.Endpoint.Secret,
		"OldSecret":        w.Endpoint.OldSecrets[0],
		"Endpoint":         w.Endpoint,
		"*Endpoint":        &w.Endpoint,
		"Webhook":          w,
		"*Webhook":         &w,
		"[]Webhook":        []Webhook{w},
		"FailureHandling":  *w.FailureHandling,
		"*FailureHandling": w.FailureHandling,
		"Claim":            Claim{Webhook: &w},
		"NoticeClaim":      NoticeClaim{Webhook: &w},
		"WebhookPage":      WebhookPage{Webhooks: []Webhook{w}},
		"EndpointUpdate":   update,
		"*EndpointUpdate":  &update,
		"WebhookUpdate":    WebhookUpdate{Endpoint: &update, FailureHandling: &FailureHandlingUpdate{Alert: &update}},
	}
	for name, v := range values {
		t.Run(name, func(t *testing.T) {
			for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
				if got := fmt.Sprintf(format, v); strings.Contains(got, planted) {
					t.Errorf("%s tells %s", format, got)
				}
			}
			encoded, err := json.Marshal(v)
			if err != nil || strings.Contains(string(encoded), planted) {
				t.Errorf("JSON tells %s, %v", encoded, err)
			}
			var text, lines strings.Builder
			for _, logger := range []*slog.Logger{slog.New(slog.NewTextHandler(&text, nil)), slog.New(slog.NewJSONHandler(&lines, nil))} {
				logger.Info("message", "value", v, slog.Group("group", "value", v))
			}
			if got := text.String() + lines.String(); strings.Contains(got, planted) {
				t.Errorf("slog tells %s", got)
			}
		})
	}
}

func TestNoConfidenceIsInAnError(t *testing.T) {
	w := plantedWebhook()
	faulty := func(change func(e *Endpoint)) error {
		e := w.Endpoint.clone()
		change(&e)
		return e.Validate()
	}
	for name, err := range map[string]error{
		"userinfo":   faulty(func(e *Endpoint) { e.URL = "https://user:pl4nted@example.com" }),
		"query":      faulty(func(e *Endpoint) { e.URL = "https://example.com/pl4nted?pl4nted#" }),
		"malformed":  faulty(func(e *Endpoint) { e.URL = "https://example.com/pl4nted\x7f" }),
		"scheme":     faulty(func(e *Endpoint) { e.URL = "pl4nted:pl4nted" }),
		"secret":     faulty(func(e *Endpoint) { e.Secret = "whsec_pl4nted" }),
		"prefix":     faulty(func(e *Endpoint) { e.Secret = "pl4nted" }),
		"old secret": faulty(func(e *Endpoint) { e.OldSecrets[0].Secret = "pl4nted" }),
		"header":     faulty(func(e *Endpoint) { e.Headers = http.Header{"X-Key": {"pl4nted\n"}} }),
		"refused":    faulty(func(e *Endpoint) { e.Headers = http.Header{"Cookie": {"pl4nted"}} }),
		"too many":   faulty(func(e *Endpoint) { e.Headers = http.Header{"X-Key": {strings.Repeat("pl4nted", 2000)}} }),
		"event": func() error {
			_, err := NewEvent("order.paid", json.RawMessage(`{"a":pl4nted}`))
			return err
		}(),
		"decode": func() error {
			_, err := DecodeEvent([]byte(`{"locator":"pl4nted"}`))
			return err
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.True(errors.Is(err, ErrInvalid))
			is.True(!strings.Contains(err.Error(), planted))
		})
	}
}
