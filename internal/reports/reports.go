// Package reports is how the handlers tell the operator's log what an answer hides.
package reports

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"runtime/debug"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// Request is what a line is about. It names the route, not the path or the query, which may have secrets in them.
type Request struct {
	HTTP  *http.Request
	Route string // empty: none was found, and nothing below is known
	// The path's parameters; zero: it has none.
	Tenant         uuid.UUID
	Webhook, Event ulid.ULID
}

// Attrs returns the attributes of a line about the request, and more.
func (r Request) Attrs(more ...slog.Attr) []slog.Attr {
	attrs := []slog.Attr{slog.String("method", r.HTTP.Method)}
	if r.Route != "" {
		attrs = append(attrs, slog.String("route", r.Route))
		if r.Tenant != uuid.Nil {
			attrs = append(attrs, slog.String("tenant", r.Tenant.String()))
		}
		if !r.Webhook.IsZero() {
			attrs = append(attrs, slog.String("webhook", r.Webhook.String()))
		}
		if !r.Event.IsZero() {
			attrs = append(attrs, slog.String("event", r.Event.String()))
		}
	}
	return append(attrs, more...)
}

// Failed tells why the handler of that name answers a status. Problems of the caller's own making are not logged.
func (r Request) Failed(log *slog.Logger, handler string, status int, err error) {
	level := slog.LevelError
	switch {
	case errors.Is(err, context.Canceled) && errors.Is(r.HTTP.Context().Err(), context.Canceled):
		level = slog.LevelDebug // it failed because the client has gone, and nobody reads the answer
	case status == http.StatusServiceUnavailable:
		level = slog.LevelWarn
	case status < 500:
		return
	}
	log.LogAttrs(r.HTTP.Context(), level, handler+": request failed", r.Attrs(slog.Any("error", err))...)
}

// Recovered tells of the panic that recover has ended, false if there was none. One that is to abort the answer goes on.
func (r Request) Recovered(log *slog.Logger, handler string, v any) bool {
	if v == http.ErrAbortHandler {
		panic(v)
	}
	if v != nil {
		r.Panicked(log, handler, v)
	}
	return v != nil
}

// Panicked tells where it happened, called by what recovered. What was panicked with may quote anything, a
// credential too, so that it is told only where the runtime made it.
func (r Request) Panicked(log *slog.Logger, handler string, v any) {
	attrs := r.Attrs()
	if err, ok := v.(runtime.Error); ok {
		attrs = append(attrs, slog.String("error", err.Error()))
	} else {
		attrs = append(attrs, slog.String("type", fmt.Sprintf("%T", v)))
	}
	attrs = append(attrs, slog.String("stack", string(debug.Stack())))
	log.LogAttrs(r.HTTP.Context(), slog.LevelError, handler+": panic", attrs...)
}
