package console

import (
	"slices"
	"strings"

	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/requests"
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
	// stepNames are of a form that does something to many events, beside those that select them.
	stepNames = []string{"after", "before", "counted", "done", "missed", "state", "limit"}
)

// routes is the table of what the console answers. Where two paths match, the one that comes first does.
func (h *Handler) routes() []route {
	needs := func(p ...httpapi.Permission) []httpapi.Permission { return p }
	routes := []route{
		{method: "GET", path: "", open: true, query: []string{"tenant"}, serve: (*call).home},
		{method: "GET", path: "assets/{asset}", open: true, query: []string{"v"}, serve: (*call).serveAsset},
		{method: "GET", path: webhooksPath, permissions: needs(httpapi.WebhooksRead, httpapi.WebhooksList),
			query: []string{"name", "state", "eventType", "after", "webhook"}, serve: (*call).listWebhooks},
		{method: "GET", path: webhookPath, permissions: needs(httpapi.WebhooksRead),
			query: append(slices.Clip(filterNames), "after", "hours", "notice"), serve: (*call).showWebhook},
		{method: "GET", path: webhookPath + "/suspend", permissions: needs(httpapi.WebhooksWrite), serve: (*call).confirmSuspend},
		{method: "POST", path: webhookPath + "/suspend", permissions: needs(httpapi.WebhooksWrite), serve: (*call).suspend},
		{method: "POST", path: webhookPath + "/unsuspend", permissions: needs(httpapi.WebhooksWrite), serve: (*call).unsuspend},
		{method: "GET", path: webhookPath + "/pending", permissions: needs(httpapi.WebhooksRead, httpapi.DivertedRead, httpapi.DivertedList),
			query: []string{"after"}, serve: (*call).listPending},
	}
	if h.config.Pinger != nil {
		routes = append(routes, route{method: "POST", path: webhookPath + "/ping", permissions: needs(httpapi.WebhooksWrite), serve: (*call).ping})
	}
	if h.bulk != nil {
		for _, b := range h.bulks() {
			query := slices.Concat(b.filters, stepNames)
			routes = append(routes,
				route{method: "GET", path: webhookPath + "/" + b.path, permissions: b.permissions, query: query, serve: b.plan},
				route{method: "POST", path: webhookPath + "/" + b.path, permissions: b.permissions, query: query, serve: b.step},
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

// find returns the route of a request and the values of its path's parameters, and has the call know where the
// handler is mounted.
func (h *Handler) find(c *call) (*route, map[string]string, error) {
	match, found := h.table.Find(c.r)
	if !found {
		return nil, nil, errNoPage
	}
	c.root = "./" + strings.Repeat("../", match.Segments-1)
	if match.Route == nil {
		return nil, nil, requests.OtherMethod(errMethod, match.Allow)
	}
	return match.Route, match.Values, nil
}

// readPath reads the parameters of the path.
func (c *call) readPath(values map[string]string) error {
	var f faults
	c.tenant, c.webhook, c.event = requests.ReadPath(values, func(name, rule, _ string) { f.Add(name, "%s", rule) })
	c.asset = values["asset"]
	return f.Err(errParameter)
}
