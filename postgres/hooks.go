package postgres

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// hook is a row of webhooks. It never changes, but is replaced.
type hook struct {
	id    int64
	epoch int64
	// known: the store knows the webhook. Else the row only holds events that the host diverted.
	known   bool
	deleted bool
	// webhook is shared with claims.
	webhook *diverted.Webhook
	// err: the record could not be decoded.
	err error
}

func (h *hook) active() bool { return h.known && h.webhook.Active() }

// letsGo returns why the webhook, which may be nil, does not let diverted events go, nil if it does.
func (h *hook) letsGo() error {
	switch {
	case h == nil || !h.known:
		return diverted.ErrWebhookUnknown
	case !h.webhook.Enabled:
		return diverted.ErrDisabled
	case h.webhook.Suspended():
		return diverted.ErrSuspended
	}
	return nil
}

// hookColumns are what scanHook reads.
const hookColumns = `id, tenant, locator, record, enabled, suspended_at, epoch, version, deleted`

// hookRow is a row with hookColumns. All of it may be NULL, after an outer join.
type hookRow struct {
	id              pgtype.Int8
	tenant, locator pgtype.UUID
	record          []byte
	enabled         pgtype.Bool
	suspended       pgtype.Timestamptz
	epoch, version  pgtype.Int8
	deleted         pgtype.Bool
}

func (r *hookRow) dest() []any {
	return []any{&r.id, &r.tenant, &r.locator, &r.record, &r.enabled, &r.suspended, &r.epoch, &r.version, &r.deleted}
}

func (r *hookRow) hook() *hook {
	w := &diverted.Webhook{
		Tenant: r.tenant.Bytes, Locator: r.locator.Bytes,
		Enabled: r.enabled.Bool, SuspendedAt: timeOf(r.suspended), Version: r.version.Int64,
	}
	h := &hook{id: r.id.Int64, epoch: r.epoch.Int64, known: r.record != nil, deleted: r.deleted.Bool, webhook: w}
	if h.known {
		h.err = diverted.DecodeWebhook(r.record, w)
	}
	return h
}

// timeOf returns the time of a column, in UTC; the zero time of NULL.
func timeOf(t pgtype.Timestamptz) time.Time {
	if !t.Valid || t.InfinityModifier != pgtype.Finite {
		return time.Time{}
	}
	return t.Time.UTC()
}

// maxCached bounds the webhooks that a process remembers. One that meets more begins anew now and then.
const maxCached = 200_000

// hooks is this process's copy of the webhooks of the tenants that it has met, all of a tenant at once,
// ascending by locator. Every transaction that decides by it proves first that it is of the generation
// that stands.
type hooks struct {
	refreshing sync.Mutex // one refresh at a time

	mu         sync.Mutex
	generation int64 // of what is here; 0: nothing is, or it is known to be out of date
	tenants    map[uuid.UUID][]*hook
	ids        map[int64]*hook
	stale      bool
	most       int // of ids
	// begun counts how often it was begun anew, empty.
	begun int
}

func (c *hooks) init() {
	c.most = maxCached
	c.begin()
}

// begin begins anew. mu is held.
func (c *hooks) begin() {
	c.tenants = make(map[uuid.UUID][]*hook)
	c.ids = make(map[int64]*hook)
	c.begun++
}

func (c *hooks) timesBegun() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.begun
}

// spoil says that webhooks have changed, so that the next use reads what did.
func (c *hooks) spoil() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = true
}

// forget says that nothing of what is here may hold: it may be of another server's past, which has the same generation.
func (c *hooks) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begin()
	c.generation = 0
}

// find returns the row of a webhook, nil if there is none.
func (c *hooks) find(key diverted.WebhookKey) *hook {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.tenants[key.Tenant]
	if i, ok := searchHook(all, key.Webhook); ok {
		return all[i]
	}
	return nil
}

// byID returns the row with this id, nil if there is none.
func (c *hooks) byID(id int64) *hook {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ids[id]
}

// publishes says whether Publish sends the webhook events of this type. To one whose record is damaged it
// does, whatever the type: the delivery is diverted, saying so, where leaving it out would lose the event in
// silence.
func (h *hook) publishes(eventType string) bool {
	return h.known && h.webhook.Enabled && (h.err != nil || h.webhook.Subscribes(eventType))
}

// subscribers returns the webhooks of a tenant that Publish sends events of a type to.
func (c *hooks) subscribers(tenant uuid.UUID, eventType string) []*hook {
	c.mu.Lock()
	all := slices.Clone(c.tenants[tenant])
	c.mu.Unlock()
	return slices.DeleteFunc(all, func(h *hook) bool { return !h.publishes(eventType) })
}

func searchHook(all []*hook, locator ulid.ULID) (int, bool) {
	return slices.BinarySearchFunc(all, locator, func(h *hook, l ulid.ULID) int { return h.webhook.Locator.Compare(l) })
}

// put takes over a row that was read. mu is held.
func (c *hooks) put(h *hook) {
	tenant := h.webhook.Tenant
	all, loaded := c.tenants[tenant]
	if !loaded {
		return
	}
	i, found := searchHook(all, h.webhook.Locator)
	switch {
	case h.deleted:
		delete(c.ids, h.id)
		if found && all[i].id == h.id {
			c.tenants[tenant] = slices.Delete(slices.Clone(all), i, i+1)
		}
		return
	case found:
		delete(c.ids, all[i].id)
		all[i] = h
	default:
		c.tenants[tenant] = slices.Insert(all, i, h)
	}
	c.ids[h.id] = h
}

// wanted is what a caller is about to look up.
type wanted struct {
	tenants []uuid.UUID
	ids     []int64 // of webhooks, whose tenants it wants
}

// missing returns what of it is not here. mu is held.
func (c *hooks) missing(w wanted) (tenants uuids, ids []int64) {
	for _, t := range w.tenants {
		if _, loaded := c.tenants[t]; !loaded && !slices.ContainsFunc(tenants, func(u pgtype.UUID) bool { return u.Bytes == t }) {
			tenants = append(tenants, pgUUID(t))
		}
	}
	for _, id := range w.ids {
		if c.ids[id] == nil {
			ids = append(ids, id)
		}
	}
	return tenants, ids
}

// selectHooks reads the state, and in the same snapshot the webhooks that changed since $1, those of the
// tenants $2, and those of the tenants of the webhooks $3.
const selectHooks = `
	SELECT s.generation, s.floor, w.*
	FROM diverted.state s LEFT JOIN LATERAL (
		SELECT ` + hookColumns + ` FROM diverted.webhooks WHERE changed > $1
		UNION ALL
		SELECT ` + hookColumns + ` FROM diverted.webhooks WHERE tenant = ANY($2::uuid[]) AND NOT deleted
		UNION ALL
		SELECT ` + hookColumns + ` FROM diverted.webhooks WHERE NOT deleted AND tenant IN (
			SELECT tenant FROM diverted.webhooks WHERE id = ANY($3::bigint[]))
	) w ON true`

// know makes sure that what is wanted is here, and of a generation that is at least atLeast. It returns
// the generation.
func (s *Store) know(ctx context.Context, atLeast int64, w wanted) (int64, error) {
	c := &s.hooks
	need := func() (generation int64, tenants uuids, ids []int64, enough bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		tenants, ids = c.missing(w)
		generation = c.generation
		enough = generation > 0 && !c.stale && generation >= atLeast && len(tenants)+len(ids) == 0
		return generation, tenants, ids, enough
	}
	if generation, _, _, enough := need(); enough {
		return generation, nil
	}
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	for again := true; again; {
		generation, tenants, ids, enough := need()
		if enough {
			return generation, nil
		}
		var err error
		if again, err = s.refresh(ctx, generation, tenants, ids); err != nil {
			return 0, err
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.generation, nil
}

// look is know, and then a look at what is wanted. If all was forgotten in between, by a refresh of somebody else's,
// it looks again: what is not here any more would pass for what there is not.
func (s *Store) look(ctx context.Context, atLeast int64, w wanted, at func() error) (generation int64, err error) {
	for {
		begun := s.hooks.timesBegun()
		if generation, err = s.know(ctx, atLeast, w); err == nil {
			err = at()
		}
		if err != nil || s.hooks.timesBegun() == begun {
			return generation, err
		}
	}
}

// refresh reads what changed since the generation known, and what is missing besides. It answers again if
// it has forgotten what is not among that.
func (s *Store) refresh(ctx context.Context, known int64, tenants uuids, ids []int64) (again bool, err error) {
	c := &s.hooks
	c.mu.Lock()
	c.stale = false // what changes from here on says so again
	c.mu.Unlock()

	since := known
	if known == 0 {
		since = math.MaxInt64 // nothing is here that could have changed
	}
	var generation, floor int64
	var rows []*hook
	err = s.read(ctx, func(b *pgx.Batch) {
		b.Queue(s.q(selectHooks), since, tenants, ids).Query(func(r pgx.Rows) error {
			rows = rows[:0]
			for r.Next() {
				var row hookRow
				if err := r.Scan(append([]any{&generation, &floor}, row.dest()...)...); err != nil {
					return err
				}
				if row.id.Valid {
					rows = append(rows, row.hook())
				}
			}
			return r.Err()
		})
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.stale = true
		return false, err
	}
	if known > 0 && (known < floor || known > generation) || len(c.ids) > c.most {
		again = true // rows have gone that this process may hold, or, with a failover, changes that it has seen
		c.begin()
	}
	c.generation = generation
	for _, t := range tenants {
		if _, loaded := c.tenants[t.Bytes]; !loaded {
			c.tenants[t.Bytes] = nil
		}
	}
	wanted := make(map[int64]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	for _, h := range rows {
		if _, loaded := c.tenants[h.webhook.Tenant]; !loaded && wanted[h.id] && !h.deleted {
			c.tenants[h.webhook.Tenant] = nil
		}
	}
	for _, h := range rows {
		c.put(h)
	}
	return again, nil
}

// knownHook returns the row of a webhook that the store knows, or ErrNotFound.
func (s *Store) knownHook(key diverted.WebhookKey) (*hook, error) {
	h := s.hooks.find(key)
	if h == nil || !h.known {
		return nil, notFound(key)
	}
	return h, nil
}

func notFound(key diverted.WebhookKey) error {
	return fmt.Errorf("webhook %s: %w", key.Webhook, diverted.ErrNotFound)
}

// uuids is a parameter of the type uuid[].
type uuids = pgtype.FlatArray[pgtype.UUID]

func pgUUID[T ~[16]byte](id T) pgtype.UUID { return pgtype.UUID{Bytes: id, Valid: true} }
