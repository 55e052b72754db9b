package diverted

import (
	"cmp"
	"context"
	"database/sql"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/turns"
)

// sqliteWebhook is a row of diverted_webhooks, as the writer remembers it.
type sqliteWebhook struct {
	id    int64
	epoch int64
	// known: the store knows the webhook. Else the row only holds events that the host diverted.
	known bool
	// webhook is shared with claims and never changed, but replaced.
	webhook *Webhook
	// err: the record could not be decoded.
	err error
}

func (w *sqliteWebhook) active() bool { return w.known && w.webhook.Active() }

// publishes says whether Publish goes to the webhook. To one whose record is damaged it does, whatever the
// type: the delivery is diverted, saying so, where leaving it out would lose the event in silence.
func (w *sqliteWebhook) publishes(eventType string) bool {
	return w.webhook.Enabled && (w.err != nil || w.webhook.Subscribes(eventType))
}

// letsGo returns why a webhook does not let diverted events go, nil if it does.
func (w *sqliteWebhook) letsGo() error {
	switch {
	case w == nil || !w.known:
		return ErrWebhookUnknown
	case !w.webhook.Enabled:
		return ErrDisabled
	case w.webhook.Suspended():
		return ErrSuspended
	}
	return nil
}

// with returns the identity of an event at the webhook.
func (w *sqliteWebhook) with(event ulid.ULID) Key {
	return Key{w.webhook.Tenant, w.webhook.Locator, event}
}

// webhookCache is the writer's copy of the webhooks of the tenants that it has met, all of a tenant at
// once, ascending by locator.
type webhookCache struct {
	tenants map[uuid.UUID][]*sqliteWebhook
	ids     map[int64]*sqliteWebhook
}

func newWebhookCache() webhookCache {
	return webhookCache{make(map[uuid.UUID][]*sqliteWebhook), make(map[int64]*sqliteWebhook)}
}

// put remembers a row, in place of the one with the same locator.
func (c webhookCache) put(row *sqliteWebhook) {
	all := c.tenants[row.webhook.Tenant]
	if i, ok := searchWebhook(all, row.webhook.Locator); ok {
		all[i] = row
	} else {
		c.tenants[row.webhook.Tenant] = slices.Insert(all, i, row)
	}
	c.ids[row.id] = row
}

// drop forgets a row.
func (c webhookCache) drop(row *sqliteWebhook) {
	tenant := row.webhook.Tenant
	c.tenants[tenant] = slices.DeleteFunc(c.tenants[tenant], func(w *sqliteWebhook) bool { return w.id == row.id })
	delete(c.ids, row.id)
}

// webhooks returns the webhooks of a tenant.
func (tx *sqliteTx) webhooks(tenant uuid.UUID) []*sqliteWebhook {
	if all, ok := tx.cache.tenants[tenant]; ok {
		return all
	}
	return tx.loadWebhooks(tenant, ``)
}

// loadWebhooks reads the webhooks of a tenant for which a condition holds, and makes them those that the cache has.
func (tx *sqliteTx) loadWebhooks(tenant uuid.UUID, and string, args ...any) []*sqliteWebhook {
	var all []*sqliteWebhook
	tx.queryAll(`
		SELECT id, locator, record, enabled, suspended_at, epoch, version
		FROM diverted_webhooks WHERE tenant = ? AND deleted = 0`+and+` ORDER BY locator`,
		append([]any{tenant[:]}, args...), func(rows *sql.Rows) error {
			w, err := scanWebhook(rows, tenant)
			all = append(all, w)
			return err
		})
	if tx.fault != nil {
		return nil
	}
	tx.cache.tenants[tenant] = all
	for _, w := range all {
		tx.cache.ids[w.id] = w
	}
	return all
}

// webhook returns the row of a webhook, nil if there is none.
func (tx *sqliteTx) webhook(key WebhookKey) *sqliteWebhook {
	all := tx.webhooks(key.Tenant)
	if i, ok := searchWebhook(all, key.Webhook); ok {
		return all[i]
	}
	return nil
}

// knownWebhook returns the row of a webhook that the store knows, or ErrNotFound.
func (tx *sqliteTx) knownWebhook(key WebhookKey) (*sqliteWebhook, error) {
	w := tx.webhook(key)
	if w == nil || !w.known {
		return nil, fmt.Errorf("webhook %s: %w", key.Webhook, ErrNotFound)
	}
	return w, nil
}

// webhookByID returns the row with this id, nil if it is deleted.
func (tx *sqliteTx) webhookByID(id int64) *sqliteWebhook {
	if w := tx.cache.ids[id]; w != nil {
		return w
	}
	var tenant, locator []byte
	if !tx.query1(`SELECT tenant, locator FROM diverted_webhooks WHERE id = ? AND deleted = 0`, []any{id}, &tenant, &locator) {
		return nil
	}
	if len(tenant) != len(uuid.UUID{}) || len(locator) != len(ulid.ULID{}) {
		tx.fail(errDamagedRow)
		return nil
	}
	return tx.webhook(WebhookKey{uuid.UUID(tenant), ulid.ULID(locator)})
}

func searchWebhook(all []*sqliteWebhook, locator ulid.ULID) (int, bool) {
	return slices.BinarySearchFunc(all, locator, func(w *sqliteWebhook, l ulid.ULID) int { return w.webhook.Locator.Compare(l) })
}

func scanWebhook(rows *sql.Rows, tenant uuid.UUID) (*sqliteWebhook, error) {
	var (
		row       = &sqliteWebhook{webhook: &Webhook{Tenant: tenant}}
		locator   []byte
		record    sql.RawBytes
		suspended sql.NullInt64
	)
	err := scan(rows, &row.id, &locator, &record, &row.webhook.Enabled, &suspended, &row.epoch, &row.webhook.Version)
	if err == nil && len(locator) != len(ulid.ULID{}) {
		err = errDamagedRow
	}
	if err != nil {
		return nil, err
	}
	row.webhook.Locator = ulid.ULID(locator)
	row.webhook.SuspendedAt = fromMillis(suspended.Int64)
	if row.known = record != nil; row.known {
		row.err = DecodeWebhook(record, row.webhook)
	}
	return row, nil
}

// saveWebhook writes a row and makes it what the writer remembers. row.id is 0 for a new one.
func (tx *sqliteTx) saveWebhook(row *sqliteWebhook) error {
	w := row.webhook
	var record any
	if row.known && row.err == nil {
		encoded, err := EncodeWebhook(*w)
		if err != nil {
			return err
		}
		record = string(encoded)
	}
	var suspended any
	if w.Suspended() {
		suspended = millis(w.SuspendedAt)
	}
	if row.id == 0 {
		tx.query1(`
			INSERT INTO diverted_webhooks (tenant, locator, record, enabled, suspended_at, epoch, version, deleted)
			VALUES (?, ?, ?, ?, ?, ?, ?, 0) RETURNING id`,
			[]any{w.Tenant[:], w.Locator[:], record, w.Enabled, suspended, row.epoch, w.Version}, &row.id)
	} else {
		// A record that could not be decoded stays as it is: it may be mended.
		tx.exec(`UPDATE diverted_webhooks SET record = coalesce(?, record), enabled = ?, suspended_at = ?, epoch = ?, version = ? WHERE id = ?`,
			record, w.Enabled, suspended, row.epoch, w.Version, row.id)
	}
	tx.generationUp()
	if tx.webhooks(w.Tenant); tx.fault == nil {
		tx.cache.put(row)
	}
	return nil
}

// generationUp tells other processes that webhooks have changed.
func (tx *sqliteTx) generationUp() {
	tx.query1(`UPDATE diverted_state SET generation = generation + 1 RETURNING generation`, nil, &tx.generation)
}

// releaseStep is how many waiting retries become due in one transaction when a webhook becomes active. In one of the
// host's all do, since it is one.
const releaseStep = 1000

// release makes the waiting retries of a webhook due, in the order of acceptance, and says whether there
// may be more. Held and fresh deliveries are so already.
func (tx *sqliteTx) release(row *sqliteWebhook) (more bool) {
	step := int64(releaseStep)
	if tx.host != nil {
		step = -1 // no limit
	}
	n := tx.exec(`
		UPDATE diverted_deliveries SET due = 0 WHERE id IN (
			SELECT id FROM diverted_deliveries WHERE webhook = ?1 AND due > 0 AND token IS NULL LIMIT ?2)`,
		row.id, step)
	return n == step
}

// change makes a change to a webhook. decide returns what to save: nil, or the row that stands, for nothing. If the
// webhook becomes active by it, a step of what it has is released first; if there is more, nothing is saved yet.
func (tx *sqliteTx) change(decide func(tx *sqliteTx) (*sqliteWebhook, error)) (saved Webhook, more bool, err error) {
	row, err := decide(tx)
	if row == nil || err != nil {
		return Webhook{}, false, err
	}
	stand := tx.webhook(row.webhook.Key())
	if row == stand {
		return row.webhook.clone(), false, nil
	}
	if row.active() && stand != nil && stand.known && !stand.active() {
		if tx.release(row) {
			tx.call.changes = nil
			return Webhook{}, true, nil
		}
		tx.turns.Ready(row.webhook.Tenant, row.id)
	}
	if stand != nil && stand.known && row.webhook.Enabled && !stand.webhook.Enabled {
		tx.changed(ChangeEnabled, webhookChange(row.webhook.Key()))
	}
	saved = row.webhook.clone()
	return saved, false, tx.saveWebhook(row)
}

// saveInSteps makes a change to a webhook, in as many transactions as it takes.
func (s *SQLiteStore) saveInSteps(ctx context.Context, action string, decide func(tx *sqliteTx) (*sqliteWebhook, error)) (Webhook, error) {
	for {
		var saved Webhook
		var more bool
		err := s.write(ctx, action, func(tx *sqliteTx) (err error) {
			saved, more, err = tx.change(decide)
			return err
		})
		if err != nil {
			return Webhook{}, err // and nothing of saved, which the writer may be at still
		}
		if !more {
			return saved, nil
		}
	}
}

// webhookChange is the key of a change to a webhook.
func webhookChange(key WebhookKey) Key { return Key{Tenant: key.Tenant, Webhook: key.Webhook} }

// PutWebhook implements [WebhookStore].
func (s *SQLiteStore) PutWebhook(ctx context.Context, webhook Webhook) (Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return Webhook{}, err
	}
	return s.saveInSteps(ctx, "put webhook", putting(webhook.clone())) // as ownMessages
}

// putting decides what PutWebhook saves.
func putting(webhook Webhook) func(tx *sqliteTx) (*sqliteWebhook, error) {
	return func(tx *sqliteTx) (*sqliteWebhook, error) {
		stand := tx.webhook(webhook.Key())
		if stand == nil || !stand.known {
			return createdAs(stand, webhook), nil
		}
		next := webhook.Replacing(*stand.webhook, tx.now)
		if next.Version == stand.webhook.Version {
			return stand, nil
		}
		return &sqliteWebhook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}
}

// createdAs returns the row of a webhook that is created, as it was given: in place of stand, which only holds events that
// the host diverted, or of nil.
func createdAs(stand *sqliteWebhook, webhook Webhook) *sqliteWebhook {
	row := &sqliteWebhook{known: true}
	if stand != nil {
		row.id, row.epoch = stand.id, stand.epoch
	}
	next := webhook.clone()
	next.Version, next.SuspendedAt = 1, time.Time{}
	row.webhook = &next
	return row
}

// PutWebhookTx is [WebhookStore.PutWebhook] as a part of the host's transaction, for a host that keeps webhooks in a
// table of its own: the webhook is saved if and only if tx commits, so the two never differ. Of two transactions on
// one webhook the second sees what the first has saved. tx must be on the database of the store.
//
// Within tx, [SQLiteStore.SendTx] and [SQLiteStore.PublishTx] know the webhook at once. Dispatchers and all others,
// of every process, know it with the first call after the commit; what becomes due by it they find within a second, or
// at once after [Dispatcher.Wake]. The store does not see the commit: no [Watcher] is told.
//
// As with SendTx, call nothing else that writes once tx has written, and until it ends. A webhook that becomes enabled
// has all its waiting deliveries made due in tx; while there are many, this takes a moment.
//
// The errors are [ErrInvalid] for a value that breaks a rule, after which tx can go on, and those of the database; after
// the latter roll back, and after an [ErrLocked] repeat the transaction.
func (s *SQLiteStore) PutWebhookTx(ctx context.Context, tx *sql.Tx, webhook Webhook) (saved Webhook, err error) {
	if err := webhook.Validate(); err != nil {
		return Webhook{}, err
	}
	err = s.writeTx(ctx, tx, "put webhook", webhook.Key(), func(tx *sqliteTx) (err error) {
		saved, _, err = tx.change(putting(webhook))
		return err
	})
	if err != nil {
		return Webhook{}, err
	}
	return saved, nil
}

// writeTx runs apply, which is about one webhook, in the host's transaction instead of the writer's. It knows nothing
// that the writer remembers, and what it remembers ends with it: it may never be committed. If it is, the writer sees
// by the generation that its own copies are out of date, as after a change by another process.
func (s *SQLiteStore) writeTx(ctx context.Context, host *sql.Tx, action string, key WebhookKey, apply func(tx *sqliteTx) error) error {
	done, err := s.beginTx(ctx, host, action)
	if err != nil {
		return err
	}
	defer done()
	tx := &sqliteTx{
		sqliteWriter: &sqliteWriter{stmts: make(map[string]*sql.Stmt), cache: newWebhookCache(), turns: new(turns.Turns[int64])},
		now:          s.writer.wall(), call: new(sqliteCall), host: host,
	}
	defer func() {
		for _, stmt := range tx.stmts {
			stmt.Close()
		}
	}()
	// Of this webhook alone: its tenant may have many, and a host may put all of them.
	tx.loadWebhooks(key.Tenant, ` AND locator = ?`, key.Webhook[:])
	if tx.fault == nil {
		err = apply(tx)
	}
	return sqliteError(action, cmp.Or(tx.fault, err))
}

// CreateWebhook implements [WebhookStore].
func (s *SQLiteStore) CreateWebhook(ctx context.Context, webhook Webhook) (Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return Webhook{}, err
	}
	webhook = webhook.clone() // as ownMessages
	return s.saveInSteps(ctx, "create webhook", func(tx *sqliteTx) (*sqliteWebhook, error) {
		stand := tx.webhook(webhook.Key())
		if stand != nil && stand.known {
			return nil, fmt.Errorf("create webhook: %w: %s exists", ErrConflict, webhook.Locator)
		}
		return createdAs(stand, webhook), nil
	})
}

// UpdateWebhook implements [WebhookStore].
func (s *SQLiteStore) UpdateWebhook(ctx context.Context, webhook Webhook) (Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return Webhook{}, err
	}
	webhook = webhook.clone() // as ownMessages
	return s.saveInSteps(ctx, "update webhook", func(tx *sqliteTx) (*sqliteWebhook, error) {
		stand, err := tx.knownWebhook(webhook.Key())
		if err != nil {
			return nil, err
		}
		if stand.webhook.Version != webhook.Version {
			return nil, fmt.Errorf("update webhook: %w: version %d stands, was given %d", ErrConflict, stand.webhook.Version, webhook.Version)
		}
		next := webhook.clone()
		next.Version, next.SuspendedAt = webhook.Version+1, stand.webhook.SuspendedAt
		return &sqliteWebhook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	})
}

// Suspend implements [WebhookStore].
func (s *SQLiteStore) Suspend(ctx context.Context, key WebhookKey) error {
	return s.write(ctx, "suspend webhook", func(tx *sqliteTx) error {
		row, err := tx.knownWebhook(key)
		if err != nil || row.webhook.Suspended() {
			return err
		}
		tx.changed(ChangeSuspended, webhookChange(key))
		return tx.suspend(row)
	})
}

// suspend suspends a webhook that is not.
func (tx *sqliteTx) suspend(row *sqliteWebhook) error {
	next := *row.webhook
	next.SuspendedAt = fromMillis(tx.now.UnixMilli())
	return tx.saveWebhook(&sqliteWebhook{id: row.id, epoch: row.epoch, known: true, webhook: &next, err: row.err})
}

// Unsuspend implements [WebhookStore].
func (s *SQLiteStore) Unsuspend(ctx context.Context, key WebhookKey) error {
	_, err := s.saveInSteps(ctx, "unsuspend webhook", func(tx *sqliteTx) (*sqliteWebhook, error) {
		row, err := tx.knownWebhook(key)
		if err != nil || !row.webhook.Suspended() {
			return nil, err
		}
		tx.changed(ChangeUnsuspended, webhookChange(key))
		next := *row.webhook
		next.SuspendedAt = fromMillis(0)
		return &sqliteWebhook{id: row.id, epoch: row.epoch + 1, known: true, webhook: &next, err: row.err}, nil
	})
	return err
}

// FetchWebhook implements [WebhookStore].
func (s *SQLiteStore) FetchWebhook(ctx context.Context, key WebhookKey) (Webhook, error) {
	var w Webhook
	err := s.read(ctx, "fetch webhook", func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `
			SELECT id, locator, record, enabled, suspended_at, epoch, version FROM diverted_webhooks
			WHERE tenant = ? AND locator = ? AND deleted = 0 AND record IS NOT NULL`, key.Tenant[:], key.Webhook[:])
		if err != nil {
			return err
		}
		defer rows.Close()
		if !rows.Next() {
			return cmp.Or(rows.Err(), fmt.Errorf("webhook %s: %w", key.Webhook, ErrNotFound))
		}
		row, err := scanWebhook(rows, key.Tenant)
		if err != nil {
			return err
		}
		w = *row.webhook
		return row.err
	})
	return w, err
}

// ListWebhooks implements [WebhookStore].
func (s *SQLiteStore) ListWebhooks(ctx context.Context, query WebhookQuery) (WebhookPage, error) {
	query, err := query.WithDefaults()
	if err != nil {
		return WebhookPage{}, err
	}
	var page WebhookPage
	err = s.read(ctx, "list webhooks", func(db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `
			SELECT id, locator, record, enabled, suspended_at, epoch, version FROM diverted_webhooks
			WHERE tenant = ?1 AND locator > ?2 AND deleted = 0 AND record IS NOT NULL
				AND (?3 IS NULL OR enabled = ?3) AND (?4 IS NULL OR (suspended_at IS NOT NULL) = ?4)
				AND (?5 IS NULL OR (enabled AND suspended_at IS NULL) = ?5)
			ORDER BY locator`,
			query.Tenant[:], query.After[:], query.Enabled, query.Suspended, query.Active)
		if err != nil {
			return err
		}
		defer rows.Close()
		skip := query.Offset
		for rows.Next() {
			row, err := scanWebhook(rows, query.Tenant)
			if err != nil {
				return err
			}
			if row.err != nil {
				return row.err
			}
			switch {
			case !query.Selects(*row.webhook):
			case skip > 0:
				skip--
			case len(page.Webhooks) == query.Limit:
				page.More = true
				return nil
			default:
				page.Webhooks = append(page.Webhooks, *row.webhook)
			}
		}
		return rows.Err()
	})
	return page, err
}

// DeleteWebhook implements [WebhookStore].
func (s *SQLiteStore) DeleteWebhook(ctx context.Context, key WebhookKey, discard bool) error {
	return s.write(ctx, "delete webhook", deleting(key, discard))
}

// DeleteWebhookTx is [WebhookStore.DeleteWebhook] as a part of the host's transaction, as [SQLiteStore.PutWebhookTx] is
// PutWebhook: the webhook is gone if and only if tx commits. Its errors are [ErrNotEmpty] and [ErrNotFound], after which
// tx can go on, and those of the database.
func (s *SQLiteStore) DeleteWebhookTx(ctx context.Context, tx *sql.Tx, key WebhookKey, discard bool) error {
	return s.writeTx(ctx, tx, "delete webhook", key, deleting(key, discard))
}

// deleting does what DeleteWebhook does.
func deleting(key WebhookKey, discard bool) func(tx *sqliteTx) error {
	return func(tx *sqliteTx) error {
		var one int
		row := tx.webhook(key)
		holds := row != nil && tx.query1(`SELECT 1 FROM diverted_deliveries WHERE webhook = ? LIMIT 1`, []any{row.id}, &one)
		switch {
		case row == nil || !row.known && !holds:
			return fmt.Errorf("webhook %s: %w", key.Webhook, ErrNotFound)
		case holds && !discard:
			return fmt.Errorf("webhook %s: %w", key.Webhook, ErrNotEmpty)
		}
		// The secrets go at once, the rows by and by: a million of them would hold up everybody.
		tx.exec(`UPDATE diverted_webhooks SET deleted = 1, record = NULL WHERE id = ?`, row.id)
		tx.exec(`DELETE FROM diverted_notices WHERE webhook = ?`, row.id)
		tx.generationUp()
		if tx.fault == nil {
			tx.cache.drop(row)
			tx.turns.Drop(row.id)
			delete(tx.pending, row.id)
			delete(tx.asides, row.id)
			tx.purge = append(tx.purge, row.id)
		}
		return nil
	}
}

// purgeRows is how many rows of a deleted webhook go in one transaction.
const purgeRows = 500

func (tx *sqliteTx) loadPurge() {
	tx.purge = nil
	tx.queryAll(`SELECT id FROM diverted_webhooks WHERE deleted = 1`, nil, func(rows *sql.Rows) error {
		var id int64
		err := scan(rows, &id)
		tx.purge = append(tx.purge, id)
		return err
	})
	tx.purgeUnknown = tx.fault != nil
}

// purgeStep deletes some rows of a deleted webhook, and the webhook itself after the last of them.
func (tx *sqliteTx) purgeStep() error {
	if len(tx.purge) == 0 {
		return nil
	}
	id := tx.purge[0]
	// The row id may be another webhook's by now, or the deletion may not have been committed.
	n := tx.exec(`
		DELETE FROM diverted_deliveries WHERE id IN (SELECT id FROM diverted_deliveries WHERE webhook = ?1 LIMIT ?2)
		AND EXISTS (SELECT 1 FROM diverted_webhooks WHERE id = ?1 AND deleted = 1)`, id, purgeRows)
	tx.freedRows(n)
	if n < purgeRows {
		tx.exec(`DELETE FROM diverted_activity WHERE webhook = ?1 AND NOT EXISTS (SELECT 1 FROM diverted_webhooks WHERE id = ?1 AND deleted = 0)`, id)
		tx.exec(`DELETE FROM diverted_webhooks WHERE id = ? AND deleted = 1`, id)
		if tx.fault == nil {
			tx.purge = tx.purge[1:]
		}
	}
	return nil
}
