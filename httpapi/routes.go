package httpapi

import (
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"
)

// route is one method of one path.
type route struct {
	method string
	// path begins with the segment "event"; {name} is a parameter of it.
	path string
	// permissions are what a caller needs, all of them.
	permissions []Permission
	// more adds permissions that the query asks for. Nil: none.
	more func(query url.Values) []Permission
	// open routes need no credentials.
	open bool
	// query names the query parameters that the route has.
	query []string
	serve func(*call) (answer, error)
}

// needs returns the permissions for this request.
func (t *route) needs(r *http.Request) []Permission {
	if t.more == nil {
		return t.permissions
	}
	return append(slices.Clip(t.permissions), t.more(r.URL.Query())...)
}

const (
	webhooksPath = "event/{tenantLocator}/webhooks"
	webhookPath  = webhooksPath + "/{webhookLocator}"
	divertedPath = webhookPath + "/diverted"
	eventPath    = divertedPath + "/{eventLocator}"
)

// routes is the table of the routes that the configuration has. Where two paths match, the one that comes
// first does.
func (h *Handler) routes() []route {
	routes := []route{{method: "GET", path: "event/openapi.json", open: true, serve: h.serveOpenAPI}}
	if h.bulk != nil { // diverted/resend comes before the path of one event
		bulk := []string{"all", "limit", "after", "dryRun"}
		filtered := slices.Concat(filterParameters, bulk)
		routes = append(routes,
			route{method: "POST", path: divertedPath + "/resend", permissions: []Permission{DivertedList, DivertedResend}, query: filtered, serve: h.resendAll},
			route{method: "DELETE", path: divertedPath, permissions: []Permission{DivertedList, DivertedDelete}, query: filtered, serve: h.deleteAll},
			route{method: "POST", path: webhookPath + "/divert", permissions: []Permission{WebhooksWrite, DivertedList}, query: append([]string{"eventType"}, bulk...), serve: h.divertAll},
		)
	}
	routes = append(routes,
		route{method: "GET", path: divertedPath, permissions: []Permission{DivertedRead, DivertedList},
			query: slices.Concat(filterParameters, []string{"extended", "offset", "count", "after"}), serve: h.listDiverted},
		route{method: "GET", path: eventPath, permissions: []Permission{DivertedRead}, query: []string{"extended"}, serve: h.fetchDiverted},
		route{method: "DELETE", path: eventPath, permissions: []Permission{DivertedDelete}, serve: h.deleteDiverted},
		route{method: "POST", path: eventPath + "/resend", permissions: []Permission{DivertedResend}, serve: h.resendDiverted},
	)
	if h.retention != nil {
		routes = append(routes, route{method: "DELETE", path: eventPath + "/payload", permissions: []Permission{DivertedDelete}, serve: h.expungeDiverted})
	}
	if h.pending != nil {
		routes = append(routes, route{method: "GET", path: webhookPath + "/pending", permissions: []Permission{DivertedRead, DivertedList}, query: []string{"offset", "count", "after"}, serve: h.listPending})
	}
	if h.statistics != nil { // webhooks/stats comes before the path of one webhook
		routes = append(routes,
			route{method: "GET", path: webhooksPath + "/stats", permissions: []Permission{WebhooksRead, WebhooksList}, query: []string{"hours"}, serve: h.tenantStats},
			route{method: "GET", path: webhookPath + "/stats", permissions: []Permission{WebhooksRead}, query: []string{"hours"}, serve: h.webhookStats},
		)
	}
	if h.config.Webhooks != nil {
		routes = append(routes,
			route{method: "GET", path: webhooksPath + "/list", permissions: []Permission{WebhooksRead, WebhooksList},
				query: []string{"offset", "count", "after", "name", "enabled", "suspended", "active", "eventTypes"}, serve: h.listWebhooks},
			route{method: "POST", path: webhooksPath, permissions: []Permission{WebhooksWrite}, serve: h.createWebhook},
			route{method: "GET", path: webhookPath, permissions: []Permission{WebhooksRead}, serve: h.fetchWebhook},
			route{method: "PATCH", path: webhookPath, permissions: []Permission{WebhooksWrite}, serve: h.updateWebhook},
			route{method: "DELETE", path: webhookPath, permissions: []Permission{WebhooksWrite}, more: discardPermissions, query: []string{"discard"}, serve: h.deleteWebhook},
			route{method: "PATCH", path: webhookPath + "/unsuspend", permissions: []Permission{WebhooksWrite}, serve: h.unsuspendWebhook},
		)
	}
	if h.config.Pinger != nil {
		routes = append(routes, route{method: "POST", path: webhookPath + "/ping", permissions: []Permission{WebhooksWrite}, serve: h.pingWebhook})
	}
	if h.config.Publisher != nil {
		routes = append(routes, route{method: "POST", path: "event/{tenantLocator}/events", permissions: []Permission{EventsWrite}, serve: h.publishEvent})
	}
	return routes
}

// resource is a path with the routes of its methods.
type resource struct {
	segments []string
	methods  map[string]*route
	allow    string
}

func newResources(routes []route) []*resource {
	var resources []*resource
	byPath := map[string]*resource{}
	for _, t := range routes {
		s := byPath[t.path]
		if s == nil {
			s = &resource{segments: strings.Split(t.path, "/"), methods: map[string]*route{}}
			byPath[t.path] = s
			resources = append(resources, s)
		}
		s.methods[t.method] = &t
		if t.method == http.MethodGet {
			s.methods[http.MethodHead] = &t
		}
	}
	for _, s := range resources {
		var methods []string
		for method := range s.methods {
			methods = append(methods, method)
		}
		slices.Sort(methods)
		s.allow = strings.Join(methods, ", ")
	}
	return resources
}

// match returns the values of the path's parameters if the segments, still escaped, are this path's.
func (s *resource) match(segments []string) (values map[string]string, ok bool) {
	if len(segments) != len(s.segments) {
		return nil, false
	}
	values = map[string]string{}
	for i, want := range s.segments {
		have, err := url.PathUnescape(segments[i])
		if err != nil {
			have = segments[i] // an escape that is none: no literal, and no good parameter
		}
		if name, isParameter := strings.CutPrefix(want, "{"); isParameter {
			values[strings.TrimSuffix(name, "}")] = have
		} else if have != want {
			return nil, false
		}
	}
	return values, true
}

// find returns the route of a request and the values of its path's parameters.
func (h *Handler) find(r *http.Request) (*route, map[string]string, error) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for i, segment := range segments {
		if segment != "event" {
			continue
		}
		for _, s := range h.resources {
			values, ok := s.match(segments[i:])
			if !ok {
				continue
			}
			if t := s.methods[r.Method]; t != nil {
				return t, values, nil
			}
			return nil, nil, methodError{allow: s.allow}
		}
	}
	return nil, nil, errNoRoute
}

// call is a request on its way through the handler.
type call struct {
	r     *http.Request
	w     http.ResponseWriter
	route *route
	// The path's parameters; those that the route does not have are zero.
	tenant         uuid.UUID
	webhook, event ulid.ULID
	query          url.Values
}

// attrs says which request a log line is about.
func (c *call) attrs() []slog.Attr {
	attrs := []slog.Attr{slog.String("method", c.r.Method)}
	if c.route == nil {
		return attrs
	}
	attrs = append(attrs, slog.String("route", c.route.path))
	if c.tenant != uuid.Nil {
		attrs = append(attrs, slog.String("tenant", c.tenant.String()))
	}
	if !c.webhook.IsZero() {
		attrs = append(attrs, slog.String("webhook", c.webhook.String()))
	}
	if !c.event.IsZero() {
		attrs = append(attrs, slog.String("event", c.event.String()))
	}
	return attrs
}
