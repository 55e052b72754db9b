package diverted

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/matryer/is"
)

// loopback opens what the address guard refuses, for receivers on this machine.
var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// newTestSender returns a sender that may reach this machine, and is closed with the test.
func newTestSender(t testing.TB, c Config) *sender {
	t.Helper()
	if c.AllowedNetworks == nil {
		c.AllowedNetworks = loopback
	}
	s := newSender(c.WithDefaults())
	t.Cleanup(s.close)
	return s
}

func TestAnAttemptIsAPostOfTheBodyAsItIsWithTheHeadersOfStandardWebhooks(t *testing.T) {
	is := is.New(t)
	secret := GenerateSecret()
	payload := []byte(testdata.Payloads()[0].Data)
	var got *http.Request
	var body []byte
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		got = r
		body, _ = io.ReadAll(r.Body)
	}))
	defer receiver.Close()

	s := newTestSender(t, Config{})
	e := &Endpoint{
		URL:         receiver.URL + "/hooks?tenant=7",
		Headers:     http.Header{"x-tenant": {"a", "b"}, "Authorization": {"Bearer t0p-s3cret"}},
		HMACEnabled: true,
		Secret:      secret,
	}
	res := s.send(t.Context(), request{endpoint: e, id: "01JZZZZZZZZZZZZZZZZZZZZZZZ", body: payload})

	is.True(res.failure == nil)
	is.Equal(res.status, http.StatusOK)
	is.True(!res.aborted)
	is.Equal(got.Method, http.MethodPost)
	is.Equal(got.URL.RequestURI(), "/hooks?tenant=7")
	is.True(bytes.Equal(body, payload))
	is.Equal(got.ContentLength, int64(len(body)))
	is.Equal(got.Header.Get("Content-Type"), "application/json")
	is.Equal(got.Header.Get("User-Agent"), DefaultUserAgent)
	is.Equal(got.Header.Values("X-Tenant"), []string{"a", "b"})
	is.Equal(got.Header.Get("Authorization"), "Bearer t0p-s3cret")
	is.Equal(got.Header.Get("webhook-id"), "01JZZZZZZZZZZZZZZZZZZZZZZZ")
	is.Equal(got.Header.Get("Accept-Encoding"), "")
	is.NoErr(Verify(got.Header, body, secret))
}

func TestTheStatusDecides(t *testing.T) {
	is := is.New(t)
	status := 0
	receiver := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.WriteHeader(status)
		io.WriteString(w, "out of\nservice")
	}))
	defer receiver.Close()
	s := newTestSender(t, Config{})
	for _, tt := range []struct {
		status  int
		trigger Trigger
		message string
	}{
		{200, "", ""},
		{202, "", ""},
		{299, "", ""},
		{301, "301", `301 Moved Permanently (redirects are not followed): out of\nservice`},
		{308, "308", `308 Permanent Redirect (redirects are not followed): out of\nservice`},
		{404, "404", `404 Not Found: out of\nservice`},
		{503, "503", `503 Service Unavailable: out of\nservice`},
		{599, "599", `599: out of\nservice`},
		{600, "timeout", `600 is no status of a final answer`},
	} {
		status = tt.status
		res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL}, id: "x", body: []byte(`{}`)})
		is.Equal(res.status, tt.status)
		if tt.trigger == "" {
			is.True(res.failure == nil)
			continue
		}
		is.True(res.failure != nil)
		is.Equal(res.failure.Trigger, tt.trigger)
		is.Equal(res.failure.Message, tt.message)
		is.Equal(res.failure.Status, tt.status)
		is.Equal(res.failure.Excerpt != "", tt.trigger != TriggerTimeout)
		is.True(!res.failure.At.Before(res.began))
	}
}

func TestAnAttemptThatTheCallerAbortsHasNoOutcome(t *testing.T) {
	is := is.New(t)
	arrived := make(chan struct{})
	release := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	}))
	defer receiver.Close()
	defer close(release)

	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-arrived; cancel() }()
	res := newTestSender(t, Config{}).send(ctx, request{endpoint: &Endpoint{URL: receiver.URL}, id: "x"})
	is.True(res.aborted)
	is.True(res.failure == nil)
}

func TestAReceiverThatNeverAnswersIsGivenUpAtTheTimeout(t *testing.T) {
	is := is.New(t)
	release := make(chan struct{})
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-release }))
	defer receiver.Close()
	defer close(release)

	s := newTestSender(t, Config{Timeout: 500 * time.Millisecond})
	res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL + "/path?key=hush"}, id: "x", body: []byte(`{}`)})
	is.Equal(res.failure.Trigger, TriggerTimeout)
	is.Equal(res.failure.Message, receiver.URL+": no answer within 500ms")
	is.True(!res.aborted)
	is.True(res.duration < 500*time.Millisecond+slack)
}

func TestAnAddressInsideTheNetworkIsNotReached(t *testing.T) {
	is := is.New(t)
	receiver := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("reached") }))
	defer receiver.Close()
	s := newTestSender(t, Config{AllowedNetworks: []netip.Prefix{}})
	res := s.send(t.Context(), request{endpoint: &Endpoint{URL: receiver.URL}, id: "x"})
	is.Equal(res.failure.Trigger, TriggerTimeout)
	is.True(strings.HasSuffix(res.failure.Message, ": address is not allowed, by default only public ones are"))
}
