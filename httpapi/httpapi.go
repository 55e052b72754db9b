// Package httpapi serves the Diverted Events API over HTTP: fetch, list, resend and delete what was set
// aside, and, where [Config] says so, manage webhooks and publish events.
//
//	GET    /event/{tenantLocator}/webhooks/{webhookLocator}/diverted                        list
//	GET    /event/{tenantLocator}/webhooks/{webhookLocator}/diverted/{eventLocator}         fetch
//	POST   /event/{tenantLocator}/webhooks/{webhookLocator}/diverted/{eventLocator}/resend  resend
//	DELETE /event/{tenantLocator}/webhooks/{webhookLocator}/diverted/{eventLocator}         delete
//
// Where the store of [Config.Diverted] can:
//
//	POST   /event/{tenantLocator}/webhooks/{webhookLocator}/diverted/resend                  resend many
//	DELETE /event/{tenantLocator}/webhooks/{webhookLocator}/diverted                         delete many
//	DELETE /event/{tenantLocator}/webhooks/{webhookLocator}/diverted/{eventLocator}/payload  expunge
//	POST   /event/{tenantLocator}/webhooks/{webhookLocator}/divert                           set aside what is held
//	GET    /event/{tenantLocator}/webhooks/{webhookLocator}/pending                          list what is pending
//	GET    /event/{tenantLocator}/webhooks/{webhookLocator}/stats                            numbers of a webhook
//	GET    /event/{tenantLocator}/webhooks/stats                                             numbers of a tenant
//
// With [Config.Webhooks]:
//
//	POST   /event/{tenantLocator}/webhooks                              create
//	GET    /event/{tenantLocator}/webhooks/list                         list
//	GET    /event/{tenantLocator}/webhooks/{webhookLocator}             fetch
//	PATCH  /event/{tenantLocator}/webhooks/{webhookLocator}             update
//	DELETE /event/{tenantLocator}/webhooks/{webhookLocator}             delete
//	PATCH  /event/{tenantLocator}/webhooks/{webhookLocator}/suspend     suspend
//	PATCH  /event/{tenantLocator}/webhooks/{webhookLocator}/unsuspend   unsuspend
//	POST   /event/{tenantLocator}/webhooks/{webhookLocator}/ping        ping, with [Config.Pinger]
//
// With [Config.Publisher]:
//
//	POST   /event/{tenantLocator}/events                                publish
//
// GET /event/openapi.json needs no credentials and describes the routes that there are, as OpenAPI 3.1. Its
// server is the path that it was asked for under; behind a proxy that rewrites paths, tell clients another.
//
// # Mounting
//
// [New] returns an [http.Handler] that finds its routes wherever it is mounted, whether the router strips
// its prefix or not: a path is read from its segment "event" on (the first from which the rest is a route),
// and what stands before it is the host's. So it works on [http.ServeMux], with and without
// [http.StripPrefix], and under a wildcard of chi, gin or echo; examples/routers of this module runs them all.
// A rule of the host's about paths must therefore hold for the whole mount point, not for single paths below
// it; [Config.Authorize] is the place for finer ones.
//
// A path is split before it is unescaped, so %2F never ends a segment: within a parameter it makes the parameter
// malformed. An empty segment in a parameter's place is a malformed parameter too, so /event//webhooks/list is
// answered 400 and not as another route. [http.ServeMux] answers paths with // or /../ by a redirect to the clean
// path itself, before this package sees them.
//
// # Requests
//
// Checks are made in this order, and the first that fails is answered: route (404, 405), path parameters
// (400), cross-origin (403), credentials (401), permission (403), query and body (400, 413, 415), lookup
// (404, 409). Nothing is looked up before the caller is known to be allowed to. What belongs to another
// tenant is answered as if it did not exist, in the same bytes.
//
// A query parameter that the route does not have is refused, like one that is malformed or given twice: a
// misspelt name must not change what a request means. Numbers are decimal digits without leading zeros.
// HEAD is answered as GET. Routes that change something
// refuse cross-origin requests of browsers (see [http.CrossOriginProtection]), since Authorize may read
// cookies.
//
// Bodies are application/json, at most 64 KiB (an event: 256 KiB). Unknown and repeated names are refused at
// every level; all faults of a body are reported at once. null in place of an optional member is the same as
// leaving it out, so an update never removes anything by it; for a required member, and within an array, it
// is a wrong type. An update changes what it names and nothing else, and nothing at all if it fails.
//
// # Many at once
//
// Resending, deleting and setting aside many is done in steps that the caller drives: each takes up to limit
// events, and its answer's next, absent after the last step, is the after of the next one. Nothing is remembered
// in between. A step that failed, or whose answer was lost, may have been done in part; repeating it does the
// rest. Only what was there at the first step is taken, however long the steps go on: next carries that moment.
// The first step has none, so if it is repeated it also takes what was resent and came back meanwhile; where it
// must not, set until to the present. next belongs to the route, the webhook, the filter and dryRun that it came
// from, and is refused anywhere else. A step needs a filter or all=true, and not both.
//
// # Answers
//
// Answers are JSON with identifiers in canonical case, and carry Cache-Control: no-store. A list that goes
// on has the header Link: <?count=…&after=…>; rel="next", relative to the request's own URL, so it holds
// under any prefix, and nothing is skipped if what was listed is deleted in between.
//
// Every error is an RFC 9457 problem, application/problem+json, with a stable code beside the
// status; the README of this directory lists them all. No answer tells of internals: what was
// unforeseen is a 500 with the code internal, and is logged.
package httpapi

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/hostresend"
	"github.com/divertedevents/diverted/internal/pings"
	"github.com/divertedevents/diverted/internal/requests"
	"github.com/divertedevents/diverted/internal/routes"
	"github.com/google/uuid"
)

// Config sets up a [Handler].
type Config struct {
	// Diverted holds what was set aside. Required. A [diverted.Store] is one. The routes for many events at once,
	// for numbers, for expunging and for what is pending exist if it is a [diverted.BulkStore], a
	// [diverted.StatsStore], a [diverted.RetentionStore] and a [diverted.DeliveryStore], respectively.
	Diverted diverted.DivertedStore

	// Authorize says whether the request has these permissions, all of them, within the tenant. Required;
	// [AllowAll] lets everybody do everything. It returns nil to let the request go on, [ErrUnauthenticated]
	// if the request has no good credentials, and [ErrForbidden] if they are not enough, for instance
	// because they are another tenant's; any other error is answered 500 and logged.
	//
	// It is called after the path was checked and before anything is looked up, and must leave the request's
	// body unread. It is called once per request, but a fetch with extended=true asks again, for
	// [DivertedPayload]: if that is forbidden, the answer leaves out the event itself, but not what
	// receivers answered, who may quote it.
	Authorize func(r *http.Request, tenant uuid.UUID, permissions ...Permission) error

	// Challenge is the header WWW-Authenticate of a 401 (RFC 9110, section 11.6.1). Empty: Bearer.
	Challenge string

	// Resend delivers a diverted event again, for a host that delivers by itself and uses the store only for
	// what was set aside. Nil: [diverted.DivertedStore.Resend], for those who run a [diverted.Dispatcher].
	//
	// It is given the whole event; an expunged one is answered 409 instead. If it returns nil the event is
	// deleted, unless the host diverted it again meanwhile, and the answer is 200; if the store cannot delete
	// it, 502 resend_unfinished. An error keeps it: [diverted.ErrSuspended], [diverted.ErrDisabled] and
	// [diverted.ErrWebhookUnknown] are answered as the store's own, 409, and anything else 502 resend_failed,
	// and logged. It is called concurrently, for the same event too, and again after a crash between its return
	// and the deletion. A bulk resend calls it for each event, 16 at once; those that it does not take are
	// matched but not done.
	Resend func(ctx context.Context, event diverted.DivertedEvent) error

	// Webhooks keeps webhooks. A [diverted.Store] is one; one of yours that wraps it can refuse what breaks your own
	// rules, by a [diverted.InvalidError]. If you keep webhooks in a table of your own, it must write to that: what
	// changes in the store alone, your next PutWebhook overwrites. Nil: the webhook routes do not exist.
	Webhooks diverted.WebhookStore

	// Publisher publishes events. A [diverted.Dispatcher] is one. Nil: the event route does not exist.
	Publisher Publisher

	// Pinger makes test attempts. A [diverted.Dispatcher] is one. It needs Webhooks. A webhook is pinged at
	// most once in 5 s. Nil: the ping route does not exist.
	Pinger Pinger

	// AllowInsecureTLS permits webhooks with secureSsl: false. It must agree with the dispatcher's
	// [diverted.Config], else such a webhook is saved but never delivered to.
	AllowInsecureTLS bool

	// SecretOverlap is how long a secret that an update replaces goes on signing beside its successor. 0:
	// [diverted.SecretOverlap], 24 h. Negative: not at all.
	SecretOverlap time.Duration

	// CrossOrigin decides which cross-origin requests of browsers may change something. Nil: none. It is for
	// those whose pages are served from another origin, see [http.CrossOriginProtection.AddTrustedOrigin].
	CrossOrigin *http.CrossOriginProtection

	// Logger is told what was answered with a 5xx, and why. Nil: slog.Default().
	Logger *slog.Logger
}

func (c Config) validate() error {
	var fields []diverted.FieldError
	if c.Diverted == nil {
		fields = append(fields, diverted.FieldError{Path: "Diverted", Detail: "is required"})
	}
	if c.Authorize == nil {
		fields = append(fields, diverted.FieldError{Path: "Authorize", Detail: "is required; AllowAll lets everybody do everything"})
	}
	if c.Pinger != nil && c.Webhooks == nil {
		fields = append(fields, diverted.FieldError{Path: "Webhooks", Detail: "is required where Pinger is set"})
	}
	if fields != nil {
		return &diverted.InvalidError{Fields: fields}
	}
	return nil
}

// Handler serves the API. It is safe for concurrent use.
type Handler struct {
	config   Config
	log      *slog.Logger
	table    routes.Table[*route]
	document map[string]json.RawMessage
	pings    pings.Limiter
	// host resends where Config.Resend is set.
	host hostresend.Resender

	// What the store of Config.Diverted can do beyond what each can; nil: it cannot.
	bulk       diverted.BulkStore
	statistics diverted.StatsStore
	retention  diverted.RetentionStore
	pending    pendingStore
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
	h.bulk, _ = config.Diverted.(diverted.BulkStore)
	h.statistics, _ = config.Diverted.(diverted.StatsStore)
	h.retention, _ = config.Diverted.(diverted.RetentionStore)
	h.pending, _ = config.Diverted.(pendingStore)
	h.host = hostresend.Resender{Store: config.Diverted, Bulk: h.bulk, Resend: config.Resend, Handler: "httpapi", Log: h.log}
	for _, t := range h.routes() {
		h.table.Add(t.method, t.path, &t)
	}
	h.document = h.openapi()
	return h, nil
}

// ServeHTTP answers a request.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.contained(w, r).write(w, r)
}

// contained answers a request; a panic becomes a 500. The answer is complete before anything of it is
// written, so that a problem never follows half of another answer.
func (h *Handler) contained(w http.ResponseWriter, r *http.Request) (a answer) {
	c := &call{r: r, w: w}
	defer func() {
		if c.report().Recovered(h.log, "httpapi", recover()) {
			a = h.problem(errPanicked)
		}
	}()
	a, err := h.serve(c)
	if err != nil {
		c.report().Failed(h.log, "httpapi", problemOf(err).status, err)
		a = h.problem(err)
	}
	return a
}

// serve makes the checks that all routes share, in the order that the package's comment promises.
func (h *Handler) serve(c *call) (answer, error) {
	found, values, err := h.find(c.r)
	if err != nil {
		return answer{}, err
	}
	c.route = found
	if err := c.readPath(values); err != nil {
		return answer{}, err
	}
	if err := h.config.CrossOrigin.Check(c.r); err != nil {
		return answer{}, errCrossOrigin
	}
	if err := h.authorize(c); err != nil {
		return answer{}, err
	}
	if err := c.readQuery(); err != nil {
		return answer{}, err
	}
	return found.serve(c)
}

// authorize asks the host whether the request may do what its route does.
func (h *Handler) authorize(c *call) error {
	if c.route.open {
		return nil
	}
	return h.permits(c, c.route.needs(c.r)...)
}

// forbiddenError is an [ErrForbidden] that says what the caller would need.
type forbiddenError struct{ needs []Permission }

func (e forbiddenError) Error() string {
	needs := make([]string, len(e.needs))
	for i, p := range e.needs {
		needs[i] = string(p)
	}
	return "It needs " + strings.Join(needs, " and ") + " in this tenant."
}

func (forbiddenError) Unwrap() error { return ErrForbidden }

// permits asks the host.
func (h *Handler) permits(c *call, permissions ...Permission) error {
	err := requests.Refusal("httpapi", h.config.Authorize(c.r, c.tenant, permissions...), ErrUnauthenticated, ErrForbidden)
	if err == ErrForbidden {
		return forbiddenError{permissions}
	}
	return err
}
