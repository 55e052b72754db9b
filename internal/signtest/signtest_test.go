// Package signtest holds the signatures of package diverted against the reference library of Standard
// Webhooks. It is a module of its own, so that those who import diverted do not get that library.
package signtest

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/google/uuid"
	"github.com/matryer/is"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

// reference returns the verifier and signer of the reference library.
func reference(t *testing.T, secret diverted.Secret) *standardwebhooks.Webhook {
	t.Helper()
	w, err := standardwebhooks.NewWebhook(string(secret))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// message returns the headers of a message that is sent now with this signature.
func message(id string, now time.Time, signature string) http.Header {
	h := http.Header{}
	h.Set(standardwebhooks.HeaderWebhookID, id)
	h.Set(standardwebhooks.HeaderWebhookTimestamp, strconv.FormatInt(now.Unix(), 10))
	h.Set(standardwebhooks.HeaderWebhookSignature, signature)
	return h
}

func TestTheReferenceVerifiesWhatWeSignAndWeWhatItSigns(t *testing.T) {
	is := is.New(t)
	now := time.Now()
	for _, p := range testdata.Payloads() {
		event, err := diverted.NewEvent(p.Type, p.Data)
		is.NoErr(err)
		body, err := event.Encode()
		is.NoErr(err)
		secret, id := diverted.GenerateSecret(), event.Locator.String()

		ours, err := diverted.Sign(id, now, body, secret)
		is.NoErr(err)
		is.NoErr(reference(t, secret).Verify(body, message(id, now, ours)))

		theirs, err := reference(t, secret).Sign(id, now, body)
		is.NoErr(err)
		is.Equal(ours, theirs)
		is.NoErr(diverted.Verify(message(id, now, theirs), body, secret))
	}
}

// secretsOf returns the secrets that sign a message to the endpoint now.
func secretsOf(e diverted.Endpoint) []diverted.Secret {
	secrets := []diverted.Secret{e.Secret}
	for _, old := range e.OldSecrets {
		if time.Now().Before(old.Until) {
			secrets = append(secrets, old.Secret)
		}
	}
	return secrets
}

func TestDuringARotationBothSecretsVerifyAndAfterARevocationTheNewAlone(t *testing.T) {
	is := is.New(t)
	now := time.Now()
	body := []byte(testdata.Payloads()[0].Data)
	first, second := diverted.GenerateSecret(), diverted.GenerateSecret()
	endpoint := diverted.Endpoint{URL: "https://example.com/hooks", HMACEnabled: true, Secret: first}

	rotating, err := endpoint.Apply(diverted.EndpointUpdate{Secret: &second})
	is.NoErr(err)
	signature, err := diverted.Sign("id", now, body, secretsOf(rotating)...)
	is.NoErr(err)
	during := message("id", now, signature)
	is.NoErr(reference(t, first).Verify(body, during))
	is.NoErr(reference(t, second).Verify(body, during))

	revoked, err := rotating.Apply(diverted.EndpointUpdate{RevokeOldSecrets: true})
	is.NoErr(err)
	signature, err = diverted.Sign("id", now, body, secretsOf(revoked)...)
	is.NoErr(err)
	after := message("id", now, signature)
	is.True(errors.Is(reference(t, first).Verify(body, after), standardwebhooks.ErrNoMatchingSignature))
	is.NoErr(reference(t, second).Verify(body, after))
}

// What a dispatcher sends, over the network, is held against the reference: before, during and after a
// rotation.
func TestTheReferenceVerifiesWhatADispatcherSends(t *testing.T) {
	is := is.New(t)
	type message struct {
		header http.Header
		body   []byte
	}
	received := make(chan message, 1)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		received <- message{r.Header, body}
	}))
	defer receiver.Close()

	store := diverted.NewMemoryStore()
	defer store.Close()
	d, err := diverted.NewDispatcher(store, diverted.Config{AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	is.NoErr(err)
	first, second := diverted.GenerateSecret(), diverted.GenerateSecret()
	webhook := diverted.NewWebhook(uuid.New(), "Orders", receiver.URL, "*")
	webhook.Endpoint.HMACEnabled, webhook.Endpoint.Secret = true, first
	webhook, err = store.CreateWebhook(t.Context(), webhook)
	is.NoErr(err)

	update := func(u diverted.EndpointUpdate) {
		t.Helper()
		webhook, err = webhook.Apply(diverted.WebhookUpdate{Endpoint: &u})
		is.NoErr(err)
		webhook, err = store.UpdateWebhook(t.Context(), webhook)
		is.NoErr(err)
	}
	deliver := func() message {
		t.Helper()
		event, err := diverted.NewEvent("order.paid", testdata.Payloads()[0].Data)
		is.NoErr(err)
		_, err = d.Publish(t.Context(), webhook.Tenant, event)
		is.NoErr(err)
		is.NoErr(d.Flush(t.Context()))
		return <-received
	}
	verifies := func(m message, secret diverted.Secret) bool {
		ours, theirs := diverted.Verify(m.header, m.body, secret), reference(t, secret).Verify(m.body, m.header)
		is.Equal(ours == nil, theirs == nil)
		return theirs == nil
	}

	before := deliver()
	is.True(verifies(before, first))
	is.True(!verifies(before, second))
	update(diverted.EndpointUpdate{Secret: &second})
	during := deliver()
	is.True(verifies(during, first))
	is.True(verifies(during, second))
	update(diverted.EndpointUpdate{RevokeOldSecrets: true})
	after := deliver()
	is.True(!verifies(after, first))
	is.True(verifies(after, second))
}
