package service

import (
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestTheServerRefusesToStartWithoutSayingWhoMayDoWhat(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, o := range map[string]options{
		"neither tokens nor open": {},
		"both":                    {tokens: "x", open: true},
		"no such file":            {tokens: filepath.Join(dir, "none.json")},
		"no JSON":                 {tokens: write("bad.json", `nonsense`)},
		"unknown permission":      {tokens: write("typo.json", `{"t": {"tenant": "7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11", "permissions": ["webhooks:wriet"]}}`)},
		"unknown member":          {tokens: write("member.json", `{"t": {"tenant": "7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11", "permission": ["webhooks:read"]}}`)},
		"no tenant":               {tokens: write("tenant.json", `{"t": {"permissions": []}}`)},
		"bad network":             {open: true, allow: "10.0.0.0"},
	} {
		t.Run(name, func(t *testing.T) {
			o.addr, o.timeout = "127.0.0.1:0", time.Second
			o.program.Open = func(context.Context, string) (diverted.Store, error) { return diverted.NewMemoryStore(), nil }
			err := run(t.Context(), o)
			t.Log(err)
			is.New(t).True(err != nil)
		})
	}
}

// A receiver that hangs is what one pings for: the answer has to come, however long an attempt may take.
func TestAPingHasTheTimeOfAnAttempt(t *testing.T) {
	for _, attempt := range []time.Duration{time.Second, 15 * time.Second, 30 * time.Second, 5 * time.Minute} {
		if server := newServer(nil, attempt); server.WriteTimeout < attempt+10*time.Second {
			t.Errorf("an attempt may take %v, an answer %v", attempt, server.WriteTimeout)
		}
	}
}

// The scheme of credentials is the same in any case (RFC 9110, section 11.1); a token is not.
func TestATokenComesAsBearerOrAsAPassword(t *testing.T) {
	tokens := filepath.Join(t.TempDir(), "tokens.json")
	if err := os.WriteFile(tokens, []byte(`{"s3cret": {"tenant": "7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11", "permissions": ["webhooks:read"]}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	authorize, err := authorizer(options{tokens: tokens})
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]error{
		"Bearer s3cret": nil, "bearer s3cret": nil, "BEARER s3cret": nil,
		"Basic YW55Om5hbWU=": httpapi.ErrUnauthenticated, "Basic b3BlcmF0b3I6czNjcmV0": nil,
		"Bearer S3CRET": httpapi.ErrUnauthenticated, "Bearers3cret": httpapi.ErrUnauthenticated, "Digest s3cret": httpapi.ErrUnauthenticated,
		"s3cret": httpapi.ErrUnauthenticated, "": httpapi.ErrUnauthenticated,
	} {
		t.Run(header, func(t *testing.T) {
			r := httptest.NewRequest("GET", "/", nil)
			r.Header.Set("Authorization", header)
			is.New(t).Equal(authorize(r, uuid.MustParse("7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"), httpapi.WebhooksRead), want)
		})
	}
}
