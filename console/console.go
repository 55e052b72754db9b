// Package console is the operator's page on what a [diverted.Store] holds, as an [http.Handler] to mount on
// any router: which webhooks fail, since when and why, one event with its attempts, and the buttons to send
// everything again once the receiver is back.
//
//	pages, err := console.New(console.Config{Store: store, Authorize: authorize, Pinger: dispatcher})
//	…
//	mux.Handle("/console/", pages)
//
// # Pages
//
//	/                                                                    asks for a tenant
//	/tenants/{tenantLocator}/webhooks                                    its webhooks
//	/tenants/{tenantLocator}/webhooks/{webhookLocator}                   one webhook, and its diverted events
//	/tenants/{tenantLocator}/webhooks/{webhookLocator}/pending           its pending deliveries
//	/tenants/{tenantLocator}/webhooks/{webhookLocator}/diverted/{event}  one event, and its attempts
//
// They are HTML that works without JavaScript; a script only makes the steps of a long resend go on by
// themselves. There is nothing to build, and nothing is loaded from elsewhere.
//
// What the store can do beyond a [diverted.Store] decides what the pages show: numbers and charts with a
// [diverted.StatsStore], many events at once with a [diverted.BulkStore], expunging with a
// [diverted.RetentionStore]. The stores of this project are all three.
//
// # Mounting
//
// Pages find their place and link to each other relative to the request's own path, so the handler works under
// any prefix, stripped ([http.StripPrefix]) or not. A path is read from the first segment "tenants" or "assets"
// from which the rest is a page's; a path without one that ends in a slash is the first page's.
//
// # Who may do what
//
// The console asks [Config.Authorize] for the same permissions that the API's routes need, and shows no button that
// would be refused. Seeing webhooks takes webhooks:read and webhooks:list, diverted events diverted-events:read and
// diverted-events:list, and the body of one diverted-events:payload as well.
//
// Whatever changes something is a POST, and refused if a browser says that it comes from another origin (see
// [http.CrossOriginProtection]). Pages carry a Content-Security-Policy that runs no script but the console's own
// file, and cannot be framed. What came from outside (payloads, names, answers of receivers) is shown as text.
// Secrets, and the values of an endpoint's headers and of its URL's query, are never shown.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/hostresend"
	"github.com/divertedevents/diverted/internal/pings"
	"github.com/divertedevents/diverted/internal/reports"
	"github.com/divertedevents/diverted/internal/requests"
	"github.com/divertedevents/diverted/internal/routes"
)

// Config sets up a [Handler].
type Config struct {
	// Store is what the console shows and changes. Required.
	Store diverted.Store

	// Authorize says whether the request has these permissions, all of them, within the tenant, as
	// [httpapi.Config.Authorize] does. Required; [httpapi.AllowAll] lets everybody do everything. If customers call
	// the API, give the console a function of its own, for operators: with the API's, customers can open the
	// console for their tenant. A page calls it several times, once for each thing that it might show or offer; it
	// must not read the request's body.
	Authorize func(r *http.Request, tenant uuid.UUID, permissions ...httpapi.Permission) error

	// Challenge is the header WWW-Authenticate of a 401. Empty: Bearer, as in package httpapi. With Basic and a
	// realm, browsers ask for a name and a password.
	Challenge string

	// Resend delivers a diverted event again, for a host that delivers by itself and uses the store only for what
	// was set aside; it can be that of [httpapi.Config]. Nil: [diverted.DivertedStore.Resend], for those who run a
	// [diverted.Dispatcher].
	//
	// It is given the whole event, of a webhook that the store need not know, and that may be disabled or suspended
	// there: the host decides. If it returns nil the event is deleted, unless the host diverted it again meanwhile.
	// An error keeps it: [diverted.ErrSuspended], [diverted.ErrDisabled] and [diverted.ErrWebhookUnknown] are shown
	// as the store's own, 409, and anything else as a 502, and logged. It is called concurrently, for the same
	// event too, and again after a crash between its return and the deletion. Where many events are resent it is
	// called for each of them, 16 at once; those that it does not take stay, and are counted as skipped.
	Resend func(ctx context.Context, event diverted.DivertedEvent) error

	// Pinger makes test attempts, for a webhook at most one in 5 s. A [diverted.Dispatcher] is one. Nil:
	// there is no button for it.
	Pinger httpapi.Pinger

	// CrossOrigin decides which cross-origin requests of browsers may change something. Nil: none.
	CrossOrigin *http.CrossOriginProtection

	// Logger is told what was answered with a 5xx, and why. Nil: slog.Default().
	Logger *slog.Logger
}

func (c Config) validate() error {
	var fields []diverted.FieldError
	if c.Store == nil {
		fields = append(fields, diverted.FieldError{Path: "Store", Detail: "is required"})
	}
	if c.Authorize == nil {
		fields = append(fields, diverted.FieldError{Path: "Authorize", Detail: "is required; httpapi.AllowAll lets everybody do everything"})
	}
	if fields != nil {
		return &diverted.InvalidError{Fields: fields}
	}
	return nil
}

// Handler serves the console. It is safe for concurrent use.
type Handler struct {
	config Config
	log    *slog.Logger
	table  routes.Table[*route]
	pings  pings.Limiter
	// host resends where Config.Resend is set.
	host hostresend.Resender

	// What the store can do beyond a [diverted.Store]; nil where it cannot.
	bulk      diverted.BulkStore
	stats     diverted.StatsStore
	retention diverted.RetentionStore
}

// New returns the handler, or a [diverted.InvalidError] that names what the configuration lacks.
func New(config Config) (*Handler, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Challenge == "" {
		config.Challenge = "Bearer"
	}
	if config.CrossOrigin == nil {
		config.CrossOrigin = http.NewCrossOriginProtection()
	}
	if config.Logger == nil {
		config.Logger = slog.Default()
	}
	h := &Handler{config: config, log: config.Logger}
	h.bulk, _ = config.Store.(diverted.BulkStore)
	h.stats, _ = config.Store.(diverted.StatsStore)
	h.retention, _ = config.Store.(diverted.RetentionStore)
	h.host = hostresend.Resender{Store: config.Store, Bulk: h.bulk, Resend: config.Resend, Handler: "console", Log: h.log}
	for _, t := range h.routes() {
		h.table.Add(t.method, t.path, &t)
	}
	return h, nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.contained(w, r).write(w, r)
}

// contained answers a request; a panic becomes a 500. The answer is complete before anything of it is
// written.
func (h *Handler) contained(w http.ResponseWriter, r *http.Request) (a answer) {
	c := &call{h: h, w: w, r: r, now: time.Now(), root: "./"}
	defer func() {
		if c.report().Recovered(h.log, "console", recover()) {
			c.allowed = false
			a = c.problem(errPanicked)
		}
	}()
	a, err := h.serve(c)
	if err == nil {
		err = c.unsure
	}
	if err != nil {
		c.report().Failed(h.log, "console", problemOf(err).status, err)
		a = c.problem(err)
	}
	return a
}

// serve makes the checks that all routes share: route, path, cross-origin, credentials and permission, query and
// form. Nothing is looked up before the caller is known to be allowed to.
func (h *Handler) serve(c *call) (answer, error) {
	found, values, err := h.find(c)
	if err != nil {
		return answer{}, err
	}
	c.route = found
	if c.r.URL.Path == "" { // stripped of all that it had, so that links would lead beside the mount point
		asked, _, _ := strings.Cut(c.r.RequestURI, "?")
		return seeOther("./" + asked[strings.LastIndexByte(asked, '/')+1:] + "/"), nil
	}
	if err := c.readPath(values); err != nil {
		return answer{}, err
	}
	if err := h.config.CrossOrigin.Check(c.r); err != nil {
		return answer{}, errCrossOrigin
	}
	if !found.open {
		if err := c.authorize(found.permissions...); err != nil {
			return answer{}, err
		}
		c.allowed = true
	}
	if err := c.readQuery(); err != nil {
		return answer{}, err
	}
	return found.serve(c)
}

// call is a request on its way through the handler.
type call struct {
	h     *Handler
	w     http.ResponseWriter
	r     *http.Request
	now   time.Time
	route *route
	// root leads from the request's path to the place where the handler is mounted.
	root string
	// The path's parameters; those that the route does not have are zero.
	tenant         uuid.UUID
	webhook, event ulid.ULID
	asset          string
	// query holds the parameters of the query, or of the form of a POST.
	query values
	// allowed says that the caller has what the route needs. Until then, and after a panic, a page asks the
	// authorizer for nothing beyond, since it may be what failed.
	allowed bool
	// asked remembers the answers of the authorizer, unsure its first fault.
	asked  map[string]bool
	unsure error
}

func (c *call) webhookKey() diverted.WebhookKey {
	return diverted.WebhookKey{Tenant: c.tenant, Webhook: c.webhook}
}

func (c *call) key() diverted.Key {
	return diverted.Key{Tenant: c.tenant, Webhook: c.webhook, Event: c.event}
}

// authorize asks the host.
func (c *call) authorize(permissions ...httpapi.Permission) error {
	return requests.Refusal("console", c.h.config.Authorize(c.r, c.tenant, permissions...), httpapi.ErrUnauthenticated, httpapi.ErrForbidden)
}

// may says whether the caller has these permissions, for what a page shows or offers beyond what it needs.
func (c *call) may(permissions ...httpapi.Permission) bool {
	if !c.allowed {
		return false
	}
	var name strings.Builder
	for _, p := range permissions {
		name.WriteString(string(p) + " ")
	}
	allowed, known := c.asked[name.String()]
	if known {
		return allowed
	}
	err := c.authorize(permissions...)
	if err != nil && err != httpapi.ErrForbidden && err != httpapi.ErrUnauthenticated && c.unsure == nil {
		c.unsure = err
	}
	if c.asked == nil {
		c.asked = map[string]bool{}
	}
	c.asked[name.String()] = err == nil
	return err == nil
}

// report is what a line of the log says of the request.
func (c *call) report() reports.Request {
	r := reports.Request{HTTP: c.r, Tenant: c.tenant, Webhook: c.webhook, Event: c.event}
	if c.route != nil {
		r.Route = c.route.path
	}
	return r
}
