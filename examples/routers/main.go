// Command routers mounts the Diverted Events API on five routers and checks, by real requests, that it
// answers the same on each of them. It exits with status 0 only if all of it is right.
//
// It is the place to copy a mount from: see mounts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/oklog/ulid/v2"
)

// mount is a way to serve the API.
type mount struct {
	name   string
	prefix string // what stands before /event
	router func(api http.Handler) http.Handler
}

// mounts are the ways. No router needs to strip its prefix, and all may.
var mounts = []mount{
	{"http.ServeMux", "", func(api http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/event/", api)
		return mux
	}},
	{"http.ServeMux, prefix kept", "/api/v1", func(api http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/api/v1/", api)
		return mux
	}},
	{"http.ServeMux, prefix stripped", "/api/v1", func(api http.Handler) http.Handler {
		mux := http.NewServeMux()
		mux.Handle("/api/v1/", http.StripPrefix("/api/v1", api))
		return mux
	}},
	{"chi", "/api", func(api http.Handler) http.Handler {
		r := chi.NewRouter()
		r.Mount("/api", api)
		return r
	}},
	{"gin", "/api", func(api http.Handler) http.Handler {
		gin.SetMode(gin.ReleaseMode)
		r := gin.New()
		r.Any("/api/*path", gin.WrapH(api))
		return r
	}},
	{"echo", "/api", func(api http.Handler) http.Handler {
		e := echo.New()
		e.Any("/api/*", echo.WrapHandler(api))
		return e
	}},
}

func main() {
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run checks every mount and says on out how it went.
func run(ctx context.Context, out io.Writer) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var failed error
	for _, m := range mounts {
		if err := check(ctx, m); err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", m.name, err))
			fmt.Fprintf(out, "wrong  %s\n", m.name)
			continue
		}
		fmt.Fprintf(out, "right  %s\n", m.name)
	}
	return failed
}

// check serves the API as m does, on a real port, and asks for everything it should do.
func check(ctx context.Context, m mount) error {
	store := diverted.NewMemoryStore()
	defer store.Close()
	webhook := diverted.NewWebhook(uuid.New(), "orders", "https://receiver.example/hook", "*")
	if _, err := store.CreateWebhook(ctx, webhook); err != nil {
		return err
	}
	var events []ulid.ULID
	for range 3 {
		event, err := divert(ctx, store, webhook.Key())
		if err != nil {
			return err
		}
		events = append(events, event)
	}

	api, err := httpapi.New(httpapi.Config{Diverted: store, Authorize: httpapi.AllowAll})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: m.router(api), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() { _ = server.Close(); <-served }()

	c := client{base: "http://" + listener.Addr().String() + m.prefix + "/event/" + webhook.Tenant.String()}
	list := "/webhooks/" + webhook.Locator.String() + "/diverted"
	one := func(i int) string { return list + "/" + events[i].String() }

	first := c.ask(ctx, "GET", list+"?count=2", 200, events[0].String(), events[1].String())
	next, _, _ := strings.Cut(strings.TrimPrefix(first.Get("Link"), "<"), ">")
	c.ask(ctx, "GET", list+next, 200, events[2].String()) // the link holds under the prefix
	c.ask(ctx, "GET", one(0), 200, `"failureTrigger":"503"`)
	c.ask(ctx, "HEAD", one(0), 200)
	c.ask(ctx, "POST", one(0)+"/resend", 200, "{}")
	c.ask(ctx, "DELETE", one(1), 200, "{}")
	c.ask(ctx, "GET", one(1), 404, "not_found")
	c.ask(ctx, "PUT", one(2), 405, "method_not_allowed")
	c.ask(ctx, "GET", one(2)+"/nothing", 404, "no_route")
	c.ask(ctx, "GET", list+"/"+strings.Replace(events[2].String(), "0", "%2F", 1), 400, "eventLocator")
	c.ask(ctx, "GET", list+"?count=%2B5", 400, "count")
	c.ask(ctx, "GET", list, 200, events[2].String()) // and that alone remains
	return c.err
}

// divert sets an event aside.
func divert(ctx context.Context, store diverted.DivertedStore, webhook diverted.WebhookKey) (ulid.ULID, error) {
	event, err := diverted.NewEvent("order.paid", map[string]any{"order": "A-1001", "total": 129.9, "currency": "EUR"})
	if err != nil {
		return ulid.Zero, err
	}
	body, err := event.Encode()
	if err != nil {
		return ulid.Zero, err
	}
	return event.Locator, store.Divert(ctx, diverted.DivertedEvent{
		Key:            diverted.Key{Tenant: webhook.Tenant, Webhook: webhook.Webhook, Event: event.Locator},
		RequestLocator: event.RequestLocator,
		Failure:        diverted.Failure{Trigger: "503", Message: "answered 503 Service Unavailable", Status: 503},
		EventType:      event.Type,
		Body:           body,
	})
}

// client asks, and remembers what was wrong.
type client struct {
	base string
	err  error
}

// ask makes a request and checks the status of its answer, and that its body holds what is wanted.
func (c *client) ask(ctx context.Context, method, path string, status int, wanted ...string) http.Header {
	wrong := func(err error) http.Header {
		c.err = errors.Join(c.err, fmt.Errorf("%s %s: %w", method, path, err))
		return http.Header{}
	}
	target, err := url.Parse(c.base + path)
	if err != nil {
		return wrong(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, target.String(), nil)
	if err != nil {
		return wrong(err)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return wrong(err)
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return wrong(err)
	}
	if response.StatusCode != status {
		return wrong(fmt.Errorf("status %d, not %d: %s", response.StatusCode, status, body))
	}
	if method != http.MethodHead && !json.Valid(body) {
		return wrong(fmt.Errorf("no JSON: %s", body))
	}
	for _, want := range wanted {
		if !strings.Contains(string(body), want) {
			return wrong(fmt.Errorf("nothing of %s in %s", want, body))
		}
	}
	return response.Header
}
