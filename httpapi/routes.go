package httpapi

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/reports"
	"github.com/divertedevents/diverted/internal/requests"
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
			route{method: "PATCH", path: webhookPath + "/suspend", permissions: []Permission{WebhooksWrite}, serve: h.suspendWebhook},
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

// find returns the route of a request and the values of its path's parameters.
func (h *Handler) find(r *http.Request) (*route, map[string]string, error) {
	switch match, found := h.table.Find(r); {
	case !found:
		return nil, nil, errNoRoute
	case match.Route == nil:
		return nil, nil, requests.OtherMethod(errMethod, match.Allow)
	default:
		return match.Route, match.Values, nil
	}
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

func (c *call) webhookKey() diverted.WebhookKey {
	return diverted.WebhookKey{Tenant: c.tenant, Webhook: c.webhook}
}

func (c *call) key() diverted.Key {
	return diverted.Key{Tenant: c.tenant, Webhook: c.webhook, Event: c.event}
}

// report is what a line of the log says of the request.
func (c *call) report() reports.Request {
	r := reports.Request{HTTP: c.r, Tenant: c.tenant, Webhook: c.webhook, Event: c.event}
	if c.route != nil {
		r.Route = c.route.path
	}
	return r
}
