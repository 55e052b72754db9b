package reports_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted/internal/reports"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func logger() (*slog.Logger, *bytes.Buffer) {
	var b bytes.Buffer
	return slog.New(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug})), &b
}

func TestRequestIsToldByItsRouteAndLocators(t *testing.T) {
	is := is.New(t)
	r := reports.Request{
		HTTP:    httptest.NewRequest("DELETE", "/a/path?token=s3cret", nil),
		Route:   "/tenants/{tenant}/webhooks/{webhook}",
		Tenant:  uuid.MustParse("7f9c24e8-3b12-4fef-91e0-56a2d5a1c1aa"),
		Webhook: ulid.MustParse("01JD0000000000000000000001"),
	}
	log, lines := logger()
	r.Failed(log, "httpapi", http.StatusInternalServerError, errors.New("disk full"))
	got := lines.String()
	for _, part := range []string{
		"level=ERROR", `msg="httpapi: request failed"`, "method=DELETE", "route=/tenants/{tenant}/webhooks/{webhook}",
		"tenant=7f9c24e8-3b12-4fef-91e0-56a2d5a1c1aa", "webhook=01JD0000000000000000000001", `error="disk full"`,
	} {
		is.True(strings.Contains(got, part)) // every part is told
	}
	is.True(!strings.Contains(got, "event="))
	is.True(!strings.Contains(got, "s3cret"))
	is.True(!strings.Contains(got, "/a/path"))

	r.Route = ""
	is.Equal(len(r.Attrs()), 1) // without a route nothing of the path was read
}

func TestFailureIsAsLoudAsItConcernsTheOperator(t *testing.T) {
	gone, leave := context.WithCancel(t.Context())
	leave()
	late, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	fault, left := errors.New("fault"), fmt.Errorf("the store: %w", context.Canceled)
	for _, tt := range []struct {
		ctx    context.Context
		status int
		err    error
		level  string // empty: no line
	}{
		{t.Context(), 404, fault, ""},
		{t.Context(), 409, fault, ""},
		{t.Context(), 500, fault, "level=ERROR"},
		{t.Context(), 502, fault, "level=ERROR"},
		{t.Context(), 503, fault, "level=WARN"},
		{t.Context(), 503, left, "level=WARN"}, // somebody else gave it up
		{gone, 503, left, "level=DEBUG"},
		{gone, 500, fault, "level=ERROR"}, // which is not because the client left
		{gone, 404, fault, ""},
		{late, 500, fault, "level=ERROR"},
		{late, 503, context.DeadlineExceeded, "level=WARN"},
	} {
		is := is.New(t)
		log, lines := logger()
		reports.Request{HTTP: httptest.NewRequest("GET", "/", nil).WithContext(tt.ctx)}.Failed(log, "console", tt.status, tt.err)
		is.Equal(lines.Len() > 0, tt.level != "")
		is.True(strings.Contains(lines.String(), tt.level))
	}
}

func TestPanicIsToldByItsPlace(t *testing.T) {
	panicked := func(f func()) string {
		log, lines := logger()
		func() {
			defer func() {
				reports.Request{HTTP: httptest.NewRequest("GET", "/", nil)}.Panicked(log, "console", recover())
			}()
			f()
		}()
		return lines.String()
	}
	is := is.New(t)
	got := panicked(func() { panic("Bearer s3cret") })
	is.True(strings.Contains(got, "console: panic"))
	is.True(strings.Contains(got, "type=string"))
	is.True(strings.Contains(got, "reports_test.go"))
	is.True(!strings.Contains(got, "s3cret"))

	var list []int
	got = panicked(func() { list[len(list)]++ })
	is.True(strings.Contains(got, "index out of range")) // the runtime's own words quote nobody
}
