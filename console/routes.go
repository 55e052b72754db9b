package console

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/httpapi"
)

// route is one method of one path.
type route struct {
	method string
	// path begins with the segment "tenants" or "assets", or is empty; {name} is a parameter of it.
	path string
	// permissions are what a caller needs, all of them.
	permissions []httpapi.Permission
	// open routes need no credentials.
	open bool
	// query names the parameters of the query, or of a POST's form.
	query []string
	serve func(*call) (answer, error)
}

const (
	webhooksPath = "tenants/{tenantLocator}/webhooks"
	webhookPath  = webhooksPath + "/{webhookLocator}"
	divertedPath = webhookPath + "/diverted"
	eventPath    = divertedPath + "/{eventLocator}"
)

var (
	filterNames = []string{"trigger", "eventType", "since", "until"}
	bulkNames   = append(slices.Clip(filterNames), "after", "before", "counted", "total", "done", "missed", "state", "limit")
)

// routes is the table of what the console answers. Where two paths match, the one that comes first does.
func (h *Handler) routes() []route {
	needs := func(p ...httpapi.Permission) []httpapi.Permission { return p }
	routes := []route{
		{method: "GET", path: "", open: true, query: []string{"tenant"}, serve: (*call).home},
		{method: "GET", path: "assets/{asset}", open: true, query: []string{"v"}, serve: (*call).serveAsset},
		{method: "GET", path: webhooksPath, permissions: needs(httpapi.WebhooksRead, httpapi.WebhooksList),
			query: []string{"name", "state", "eventType", "after"}, serve: (*call).listWebhooks},
		{method: "GET", path: webhookPath, permissions: needs(httpapi.WebhooksRead),
			query: append(slices.Clip(filterNames), "after", "hours", "notice"), serve: (*call).showWebhook},
		{method: "POST", path: webhookPath + "/unsuspend", permissions: needs(httpapi.WebhooksWrite), serve: (*call).unsuspend},
		{method: "GET", path: webhookPath + "/pending", permissions: needs(httpapi.WebhooksRead, httpapi.DivertedRead, httpapi.DivertedList),
			query: []string{"after"}, serve: (*call).listPending},
	}
	if h.config.Pinger != nil {
		routes = append(routes, route{method: "POST", path: webhookPath + "/ping", permissions: needs(httpapi.WebhooksWrite), serve: (*call).ping})
	}
	if h.bulk != nil {
		for _, b := range bulks {
			routes = append(routes,
				route{method: "GET", path: webhookPath + "/" + b.path, permissions: b.permissions, query: bulkNames, serve: b.plan},
				route{method: "POST", path: webhookPath + "/" + b.path, permissions: b.permissions, query: bulkNames, serve: b.step},
			)
		}
	}
	if h.retention != nil {
		routes = append(routes,
			route{method: "GET", path: eventPath + "/expunge", permissions: needs(httpapi.DivertedDelete), serve: (*call).confirmExpunge},
			route{method: "POST", path: eventPath + "/expunge", permissions: needs(httpapi.DivertedDelete), serve: (*call).expunge},
		)
	}
	return append(routes,
		route{method: "GET", path: eventPath, permissions: needs(httpapi.DivertedRead), query: []string{"notice"}, serve: (*call).showEvent},
		route{method: "GET", path: eventPath + "/body", permissions: needs(httpapi.DivertedRead, httpapi.DivertedPayload), serve: (*call).downloadBody},
		route{method: "POST", path: eventPath + "/resend", permissions: needs(httpapi.DivertedResend), serve: (*call).resend},
		route{method: "GET", path: eventPath + "/delete", permissions: needs(httpapi.DivertedDelete), serve: (*call).confirmDelete},
		route{method: "POST", path: eventPath + "/delete", permissions: needs(httpapi.DivertedDelete), serve: (*call).delete},
	)
}

// pages is a path with the routes of its methods.
type pages struct {
	segments []string
	methods  map[string]*route
	allow    string
}

// newPages groups the routes by path, in the order of the table.
func newPages(routes []route) []*pages {
	var all []*pages
	byPath := map[string]*pages{}
	for _, t := range routes {
		p := byPath[t.path]
		if p == nil {
			p = &pages{segments: strings.Split(t.path, "/"), methods: map[string]*route{}}
			byPath[t.path] = p
			all = append(all, p)
		}
		p.methods[t.method] = &t
		if t.method == http.MethodGet {
			p.methods[http.MethodHead] = &t
		}
	}
	for _, p := range all {
		var methods []string
		for method := range p.methods {
			methods = append(methods, method)
		}
		slices.Sort(methods)
		p.allow = strings.Join(methods, ", ")
	}
	return all
}

// match returns the values of the path's parameters if the segments, still escaped, are this path's.
func (p *pages) match(segments []string) (values map[string]string, ok bool) {
	if len(segments) != len(p.segments) {
		return nil, false
	}
	values = map[string]string{}
	for i, want := range p.segments {
		if name, isParameter := strings.CutPrefix(want, "{"); isParameter {
			have, err := url.PathUnescape(segments[i])
			if err != nil {
				return nil, false
			}
			values[strings.TrimSuffix(name, "}")] = have
		} else if segments[i] != want {
			return nil, false
		}
	}
	return values, true
}

// find returns the route of a request and the values of its path's parameters, and has the call know where the
// handler is mounted.
func (h *Handler) find(c *call) (*route, map[string]string, error) {
	segments := strings.Split(c.r.URL.EscapedPath(), "/")
	for i, segment := range segments {
		// The first page is what is left when the mount point and its slash are read.
		if segment != "tenants" && segment != "assets" && (segment != "" || i < len(segments)-1) {
			continue
		}
		for _, p := range h.pages {
			values, ok := p.match(segments[i:])
			if !ok {
				continue
			}
			c.root = "./" + strings.Repeat("../", len(segments)-i-1)
			if t := p.methods[c.r.Method]; t != nil {
				return t, values, nil
			}
			return nil, nil, methodError{allow: p.allow}
		}
	}
	return nil, nil, errNoPage
}

// readPath reads the parameters of the path.
func (c *call) readPath(values map[string]string) error {
	var f faults
	if s, given := values["tenantLocator"]; given {
		var ok bool
		if c.tenant, ok = parseUUID(s); !ok {
			f.add("tenantLocator", "must be a UUID of the form 8-4-4-4-12")
		}
	}
	locator := func(name string, into *ulid.ULID) {
		if s, given := values[name]; given {
			var err error
			if *into, err = ulid.ParseStrict(s); err != nil {
				f.add(name, "must be a ULID: 26 characters of Crockford's base 32")
			}
		}
	}
	locator("webhookLocator", &c.webhook)
	locator("eventLocator", &c.event)
	c.asset = values["asset"]
	return f.err(errParameter)
}

// parseUUID takes the form 8-4-4-4-12 alone, as package httpapi does.
func parseUUID(s string) (uuid.UUID, bool) {
	if len(s) != 36 {
		return uuid.Nil, false
	}
	id, err := uuid.Parse(s)
	return id, err == nil
}
