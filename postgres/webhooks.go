package postgres

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
)

// Every transaction that changes webhooks locks their rows first, then those of deliveries and notices, and
// the one of state last, so that none waits for another that waits for it.

// Those that may be part of a transaction of the host's have parameters as in outbox.go.
const (
	findHook = `
		SELECT now(), id, record, enabled, suspended_at, epoch, version FROM diverted.webhooks
		WHERE tenant = $1::uuid AND locator = $2::uuid AND NOT deleted`
	lockHook = findHook + ` FOR NO KEY UPDATE`

	insertHook = `
		INSERT INTO diverted.webhooks (tenant, locator, record, enabled, suspended_at, epoch, version, changed)
		VALUES ($1::uuid, $2::uuid, $3::text, $4::bool, $5::timestamptz, $6::bigint, $7::bigint, 0)
		ON CONFLICT (tenant, locator) WHERE NOT deleted DO NOTHING RETURNING id`

	// A record that could not be decoded stays as it is: it may be mended.
	updateHook = `
		UPDATE diverted.webhooks SET record = coalesce($2::text, record), enabled = $3::bool,
			suspended_at = $4::timestamptz, epoch = $5::bigint, version = $6::bigint
		WHERE id = $1::bigint`

	// lockState comes before the row of state is changed. Whoever accepts has shared the table, see holdGeneration, and
	// queues behind one who waits to change it: while accepts overlap, a change could else wait without end, and with it
	// the host's commit or all that a dispatcher settles.
	lockState = `LOCK TABLE diverted.state IN EXCLUSIVE MODE`

	// bump begins a generation and puts webhooks into it. The row of state is locked to the commit, so
	// generations become visible in their order.
	bump = `
		WITH next AS (UPDATE diverted.state SET generation = generation + 1 RETURNING generation)
		UPDATE diverted.webhooks SET changed = next.generation FROM next WHERE id = ANY($1::bigint[])`

	// bumpLater has the commit do so, by a trigger: a transaction of the host's may take its time.
	bumpLater = `UPDATE diverted.webhooks SET changed = -1 WHERE id = ANY($1::bigint[])`

	suspendHooks = `
		UPDATE diverted.webhooks SET suspended_at = date_trunc('milliseconds', now())
		WHERE id = ANY($1::bigint[]) AND suspended_at IS NULL AND NOT deleted`

	// releaseStep is how many waiting retries become due in one transaction when a webhook becomes active; releaseAll
	// is for a transaction of the host's, which is one.
	releaseStep = 1000
	releaseAll  = 0

	// releaseRetries makes at most $2 of those that wait until $3 or longer due. What was released stays in the index for
	// as long as another transaction may see it, and would be read again by each step from the beginning.
	releaseRetries = `
		WITH released AS (
			UPDATE diverted.deliveries d SET due = '-infinity' FROM (
				SELECT webhook, event, due FROM diverted.deliveries
				WHERE webhook = $1::bigint AND due > '-infinity' AND due >= $3::timestamptz AND lease IS NULL
				ORDER BY due LIMIT nullif($2::bigint, 0) FOR UPDATE) r
			WHERE d.webhook = r.webhook AND d.event = r.event RETURNING r.due
		)
		SELECT count(*), coalesce(max(due), now()) FROM released`
)

// errAgain has a change look again: somebody else created the webhook meanwhile.
var errAgain = errors.New("created meanwhile")

// decision is what a change makes of a webhook: it is given the row that stands, or nil, and the server's time, and
// returns what to save, or nil or the row that stands to change nothing.
type decision func(stand *hook, now time.Time) (*hook, error)

// change makes a change to a webhook. If the webhook becomes active by it, what it has is released first, in steps.
func (s *Store) change(ctx context.Context, action string, key diverted.WebhookKey, decide decision, told ...diverted.ChangeKind) (*hook, error) {
	done, err := s.begin(ctx, action)
	if err != nil {
		return nil, err
	}
	defer done()
	var saved, stood *hook
	for from := new(time.Time); from != nil; {
		var next *time.Time
		err := s.transact(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
			saved, stood, next, err = s.changeIn(ctx, own(conn), key, decide, *from)
			return err
		})
		if errors.Is(err, errAgain) {
			continue
		} else if err != nil {
			return nil, wrap(action, err)
		}
		from = next
	}
	if saved == nil || saved == stood {
		return saved, nil
	}
	s.hooks.spoil()
	if saved.active() && stood != nil && !stood.active() {
		s.hints.ready(key.Tenant, saved.id)
		s.news.add(saved.id)
	}
	if stood != nil && stood.known && saved.webhook.Enabled && !stood.webhook.Enabled {
		told = append(told, diverted.ChangeEnabled)
	}
	for _, kind := range told {
		s.watchers.Tell(webhookChange(kind, key))
	}
	return saved, nil
}

// changeIn makes a change, or a step of it, in a transaction. It returns what is saved, what stood before, and, if there
// is more to release first, where that goes on.
func (s *Store) changeIn(ctx context.Context, tx hostTx, key diverted.WebhookKey, decide decision, from time.Time) (saved, stood *hook, next *time.Time, err error) {
	stood, now, err := s.readHook(ctx, tx, lockHook, key)
	if err != nil {
		return nil, nil, nil, err
	}
	saved, err = decide(stood, now)
	if saved == nil || saved == stood || err != nil {
		return saved, stood, nil, err
	}
	if saved.active() && stood != nil && stood.known && !stood.active() {
		if next, err = s.release(ctx, tx, stood.id, from); next != nil || err != nil {
			return nil, nil, next, err
		}
	}
	return saved, stood, nil, s.save(ctx, tx, saved)
}

// readHook reads the row of a webhook, nil if there is none, and the server's time, by findHook or lockHook.
func (s *Store) readHook(ctx context.Context, tx hostTx, query string, key diverted.WebhookKey) (h *hook, now time.Time, err error) {
	err = tx.query(ctx, s.q(query), keyParams(key), func(scan func(...any) error) error {
		w := &diverted.Webhook{Tenant: key.Tenant, Locator: key.Webhook}
		h = &hook{webhook: w}
		var record []byte
		var suspended sql.NullTime
		if err := scan(&now, &h.id, &record, &w.Enabled, &suspended, &h.epoch, &w.Version); err != nil {
			return err
		}
		if suspended.Valid {
			w.SuspendedAt = suspended.Time.UTC()
		}
		if h.known = record != nil; h.known {
			h.err = diverted.DecodeWebhook(record, w)
		}
		return nil
	})
	if h == nil && err == nil {
		err = tx.query(ctx, `SELECT now()`, nil, func(scan func(...any) error) error { return scan(&now) })
	}
	return h, now, err
}

// keyParams are the parameters that say which webhook it is.
func keyParams(key diverted.WebhookKey) []any {
	return []any{key.Tenant.String(), uuid.UUID(key.Webhook).String()}
}

// release makes some of the waiting retries of a webhook due, in the order of their times, from one on. If there may be
// more it returns from when; after the last of them that is the beginning, since what ends meanwhile may wait less. Held
// and fresh deliveries are due already.
func (s *Store) release(ctx context.Context, tx hostTx, id int64, from time.Time) (next *time.Time, err error) {
	step := releaseAll
	if isOwn(tx) { // the host's keeps its settings
		step = releaseStep
		if err := run(ctx, tx, byIndex); err != nil {
			return nil, err
		}
	}
	var n int
	var last time.Time
	err = tx.query(ctx, s.q(releaseRetries), []any{id, step, from}, func(scan func(...any) error) error { return scan(&n, &last) })
	switch {
	case err != nil || step == releaseAll:
		return nil, err
	case n == step:
		return &last, nil
	case !from.IsZero():
		return new(time.Time), nil
	}
	return nil, nil
}

// run runs a statement whose rows do not matter.
func run(ctx context.Context, tx hostTx, text string, args ...any) error {
	return tx.query(ctx, text, args, func(func(...any) error) error { return nil })
}

// save writes a row, in a new generation. h.id is 0 for a new one.
func (s *Store) save(ctx context.Context, tx hostTx, h *hook) error {
	w := h.webhook
	var record, suspended any
	if h.known && h.err == nil {
		encoded, err := diverted.EncodeWebhook(*w)
		if err != nil {
			return err
		}
		record = string(encoded)
		w = &diverted.Webhook{Tenant: w.Tenant, Locator: w.Locator, Enabled: w.Enabled, SuspendedAt: w.SuspendedAt, Version: w.Version}
		if err := diverted.DecodeWebhook(encoded, w); err != nil {
			return err
		}
		h.webhook = w // shares no memory with what the caller gave
	}
	if w.Suspended() {
		suspended = w.SuspendedAt
	}
	var err error
	values := []any{record, w.Enabled, suspended, h.epoch, w.Version}
	if h.id == 0 {
		err = tx.query(ctx, s.q(insertHook), append(keyParams(w.Key()), values...), func(scan func(...any) error) error { return scan(&h.id) })
		if h.id == 0 && err == nil {
			err = errAgain
		}
	} else {
		err = run(ctx, tx, s.q(updateHook), append([]any{h.id}, values...)...)
	}
	if err != nil {
		return err
	}
	return s.bump(ctx, tx, h)
}

// bump puts a webhook into a new generation: in the store's own transaction, which ends with it, now, else at the commit.
func (s *Store) bump(ctx context.Context, tx hostTx, h *hook) error {
	ids := bigints([]*hook{h})
	if !isOwn(tx) {
		return run(ctx, tx, s.q(bumpLater), ids)
	}
	if err := run(ctx, tx, s.q(lockState)); err != nil {
		return err
	}
	return run(ctx, tx, s.q(bump), ids)
}

// suspendAll suspends webhooks that are locked.
func (s *Store) suspendAll(ctx context.Context, conn *pgxpool.Conn, ids []int64) error {
	b := new(pgx.Batch)
	b.Queue(s.q(suspendHooks), ids)
	b.Queue(s.q(lockState))
	b.Queue(s.q(bump), ids)
	return conn.SendBatch(ctx, b).Close()
}

// PutWebhook implements [diverted.WebhookStore].
func (s *Store) PutWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	// Most change nothing, at a start of the service. A lock would cost each of them a flush of the server's log.
	stand, err := s.FetchWebhook(ctx, webhook.Key())
	if err == nil && webhook.Replacing(stand, s.hints.serverTime()).Version == stand.Version {
		return stand, nil
	}
	return result(s.change(ctx, "put webhook", webhook.Key(), putting(webhook)))
}

// putting decides what PutWebhook saves.
func putting(webhook diverted.Webhook) decision {
	return func(stand *hook, now time.Time) (*hook, error) {
		if stand == nil || !stand.known {
			return createdAs(stand, webhook), nil
		}
		next := webhook.Replacing(*stand.webhook, now)
		if next.Version == stand.webhook.Version {
			return stand, nil
		}
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}
}

// createdAs returns the row of a webhook that is created, as it was given: in place of stand, which only holds events that
// the host diverted, or of nil.
func createdAs(stand *hook, webhook diverted.Webhook) *hook {
	webhook.Version, webhook.SuspendedAt = 1, time.Time{}
	created := &hook{known: true, webhook: &webhook}
	if stand != nil {
		created.id, created.epoch = stand.id, stand.epoch
	}
	return created
}

// PutWebhookTx is PutWebhook as a part of the host's transaction, for a host that keeps webhooks in a table of its own:
// the webhook is saved if and only if tx commits, so the two never differ. Of two transactions on one webhook the second
// waits for the first, and sees what it has saved. tx must be on the database of the store, through any pool.
//
// Within tx, [Store.SendTx] and its like know the webhook at once. Dispatchers and all others, of every process, know
// it with the first call after the commit; what becomes due by it they are told of at the commit (see
// [Config.NoNotify]). The store does not see the commit: no [diverted.Watcher] is told of the change itself.
//
// At the commit a deferred trigger locks the table that whoever accepts events looks at. So let the commit be the last of
// tx: after a SET CONSTRAINTS ALL IMMEDIATE, or a PREPARE TRANSACTION, all accepts wait for its end, in every process.
//
// Until tx ends, whatever else changes, suspends or deletes this webhook waits for it. So meanwhile call nothing else that
// writes, of the store or a dispatcher, but what is part of tx: it would wait for tx and tx for it. And commit soon: a
// dispatcher that has to suspend the webhook, or to alert somebody of it, settles and claims nothing meanwhile, of no
// webhook, and what it delivered is delivered again by others if its leases end before tx does. A webhook that becomes
// enabled has all its waiting deliveries made due in tx; while there are many, this takes a moment.
//
// The errors are [diverted.ErrInvalid] for a value that breaks a rule, after which tx can go on, and those of the
// database; after the latter roll back, and after a [diverted.ErrLocked], of which one of two transactions that wait for
// each other dies, repeat the transaction. With an isolation above READ COMMITTED repeat it too if the commit fails with
// the SQLSTATE 40001, as it does where any webhook has changed since it began.
func (s *Store) PutWebhookTx(ctx context.Context, tx pgx.Tx, webhook diverted.Webhook) (diverted.Webhook, error) {
	if tx == nil {
		return diverted.Webhook{}, invalid("tx", "must not be nil")
	}
	return s.putTx(ctx, pgxTx{tx}, webhook)
}

// PutWebhookSQLTx is [Store.PutWebhookTx] for a transaction of package database/sql, through any driver of PostgreSQL.
func (s *Store) PutWebhookSQLTx(ctx context.Context, tx *sql.Tx, webhook diverted.Webhook) (diverted.Webhook, error) {
	if tx == nil {
		return diverted.Webhook{}, invalid("tx", "must not be nil")
	}
	return s.putTx(ctx, sqlTx{tx}, webhook)
}

func (s *Store) putTx(ctx context.Context, tx hostTx, webhook diverted.Webhook) (diverted.Webhook, error) {
	const action = "put webhook"
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	done, err := s.begin(ctx, action)
	if err != nil {
		return diverted.Webhook{}, err
	}
	defer done()
	for {
		saved, stood, _, err := s.changeIn(ctx, tx, webhook.Key(), putting(webhook), time.Time{})
		if errors.Is(err, errAgain) {
			continue
		}
		if err == nil && s.notify && saved.active() && stood != nil && !stood.active() {
			err = run(ctx, tx, outboxNote, s.schema, "0:"+noteList(map[int64]bool{saved.id: true}))
		}
		return result(saved, wrap(action, err))
	}
}

// CreateWebhook implements [diverted.WebhookStore].
func (s *Store) CreateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	return result(s.change(ctx, "create webhook", webhook.Key(), func(stand *hook, _ time.Time) (*hook, error) {
		if stand != nil && stand.known {
			return nil, fmt.Errorf("create webhook: %w: %s exists", diverted.ErrConflict, webhook.Locator)
		}
		return createdAs(stand, webhook), nil
	}))
}

// UpdateWebhook implements [diverted.WebhookStore].
func (s *Store) UpdateWebhook(ctx context.Context, webhook diverted.Webhook) (diverted.Webhook, error) {
	if err := webhook.Validate(); err != nil {
		return diverted.Webhook{}, err
	}
	return result(s.change(ctx, "update webhook", webhook.Key(), func(stand *hook, _ time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(webhook.Key())
		case stand.webhook.Version != webhook.Version:
			return nil, fmt.Errorf("update webhook: %w: version %d stands, was given %d", diverted.ErrConflict, stand.webhook.Version, webhook.Version)
		}
		next := webhook
		next.Version, next.SuspendedAt = webhook.Version+1, stand.webhook.SuspendedAt
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next}, nil
	}))
}

func result(h *hook, err error) (diverted.Webhook, error) {
	if h == nil || err != nil {
		return diverted.Webhook{}, err
	}
	return *h.webhook, nil
}

// Suspend implements [diverted.WebhookStore].
func (s *Store) Suspend(ctx context.Context, key diverted.WebhookKey) error {
	_, err := s.change(ctx, "suspend webhook", key, func(stand *hook, now time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(key)
		case stand.webhook.Suspended():
			return nil, nil
		}
		next := *stand.webhook
		next.SuspendedAt = now.UTC().Truncate(time.Millisecond)
		return &hook{id: stand.id, epoch: stand.epoch, known: true, webhook: &next, err: stand.err}, nil
	}, diverted.ChangeSuspended)
	return err
}

// Unsuspend implements [diverted.WebhookStore].
func (s *Store) Unsuspend(ctx context.Context, key diverted.WebhookKey) error {
	_, err := s.change(ctx, "unsuspend webhook", key, func(stand *hook, _ time.Time) (*hook, error) {
		switch {
		case stand == nil || !stand.known:
			return nil, notFound(key)
		case !stand.webhook.Suspended():
			return nil, nil
		}
		next := *stand.webhook
		next.SuspendedAt = time.Time{}
		return &hook{id: stand.id, epoch: stand.epoch + 1, known: true, webhook: &next, err: stand.err}, nil
	}, diverted.ChangeUnsuspended)
	return err
}

// FetchWebhook implements [diverted.WebhookStore].
func (s *Store) FetchWebhook(ctx context.Context, key diverted.WebhookKey) (diverted.Webhook, error) {
	done, err := s.begin(ctx, "fetch webhook")
	if err != nil {
		return diverted.Webhook{}, err
	}
	defer done()
	var found *hook
	err = s.read(ctx, func(b *pgx.Batch) {
		found = nil
		b.Queue(s.q(`SELECT `+hookColumns+` FROM diverted.webhooks WHERE tenant = $1 AND locator = $2 AND NOT deleted AND record IS NOT NULL`),
			pgUUID(key.Tenant), pgUUID(key.Webhook)).Query(func(r pgx.Rows) error {
			for r.Next() {
				var row hookRow
				if err := r.Scan(row.dest()...); err != nil {
					return err
				}
				found = row.hook()
			}
			return r.Err()
		})
	})
	switch {
	case err != nil:
		return diverted.Webhook{}, wrap("fetch webhook", err)
	case found == nil:
		return diverted.Webhook{}, notFound(key)
	}
	return *found.webhook, wrap("fetch webhook", found.err)
}

// listChunk is how many webhooks a list reads at a time, of which it may select some.
const listChunk = 500

// ListWebhooks implements [diverted.WebhookStore].
func (s *Store) ListWebhooks(ctx context.Context, query diverted.WebhookQuery) (diverted.WebhookPage, error) {
	query, err := query.WithDefaults()
	if err != nil {
		return diverted.WebhookPage{}, err
	}
	done, err := s.begin(ctx, "list webhooks")
	if err != nil {
		return diverted.WebhookPage{}, err
	}
	defer done()
	var page diverted.WebhookPage
	after, skip := query.After, query.Offset
	for {
		var rows []*hook
		err := s.read(ctx, func(b *pgx.Batch) {
			rows = rows[:0]
			b.Queue(s.q(`
				SELECT `+hookColumns+` FROM diverted.webhooks
				WHERE tenant = $1 AND locator > $2 AND NOT deleted AND record IS NOT NULL
					AND ($3::bool IS NULL OR enabled = $3) AND ($4::bool IS NULL OR (suspended_at IS NOT NULL) = $4)
					AND ($5::bool IS NULL OR (enabled AND suspended_at IS NULL) = $5)
				ORDER BY locator LIMIT $6`), pgUUID(query.Tenant), pgUUID(after), query.Enabled, query.Suspended, query.Active, listChunk).
				Query(func(r pgx.Rows) error {
					for r.Next() {
						var row hookRow
						if err := r.Scan(row.dest()...); err != nil {
							return err
						}
						rows = append(rows, row.hook())
					}
					return r.Err()
				})
		})
		if err != nil {
			return diverted.WebhookPage{}, wrap("list webhooks", err)
		}
		for _, h := range rows {
			after = h.webhook.Locator
			switch {
			case h.err != nil:
				return diverted.WebhookPage{}, wrap("list webhooks", h.err)
			case !query.Selects(*h.webhook):
			case skip > 0:
				skip--
			case len(page.Webhooks) == query.Limit:
				page.More = true
				return page, nil
			default:
				page.Webhooks = append(page.Webhooks, *h.webhook)
			}
		}
		if len(rows) < listChunk {
			return page, nil
		}
	}
}
