// Package postgres keeps the webhooks, deliveries and diverted events of package diverted in PostgreSQL,
// for a service that runs on more than one machine:
//
//	pool, err := pgxpool.New(ctx, "postgres://…")
//	store, err := postgres.Open(ctx, pool, postgres.Config{})
//	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
//
// Any number of processes may open the same schema. Their dispatchers share the work: a delivery is
// claimed by one of them (FOR UPDATE SKIP LOCKED), under a lease that the server's clock measures, so one
// that dies loses nothing, and a machine whose clock is wrong changes nothing.
//
// [Store.SendTx] and [Store.PublishTx] accept an event as a part of the host's own transaction: it is sent
// if and only if that commits. [Store.SendSQLTx] and [Store.PublishSQLTx] do the same through database/sql.
//
// The directory's README says which servers it runs on, what the limits of a [diverted.Config] mean for
// several machines, and what an operator should watch.
package postgres

import (
	"context"
	"fmt"
	"hash/fnv"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/watchers"
)

// DefaultSchema is the schema of a store whose [Config] names none.
const DefaultSchema = "diverted"

// maxSchema is the length of the longest name that PostgreSQL keeps whole, in bytes.
const maxSchema = 63

// Config sets up a [Store]. The zero value of every field means its default.
type Config struct {
	// Schema is the PostgreSQL schema that holds everything of the store, 1 to 63 bytes, not beginning with
	// pg_. Open creates it if it is missing and the role may. Stores of different schemas have nothing to
	// do with each other. Empty: "diverted".
	Schema string
	// NoNotify keeps the store from using LISTEN and NOTIFY. Work that other processes and transactions of
	// the host add is then found within a second, or up to 30 s later while some transaction stays open for long (see the
	// README). It is for connections through a pooler that gives each transaction another session, where LISTEN cannot
	// work.
	//
	// PostgreSQL commits transactions that NOTIFY one after the other, so of the host's that call SendTx and its like
	// one in 25 ms does in each process, and the store tells of the others 25 to 50 ms after the call. So NOTIFY costs
	// the host little: of 16 goroutines with an insert and a PublishTx each, on 2 cores, 2,300 to 2,900 transactions a
	// second were committed with it, 2,600 to 3,500 without.
	NoNotify bool
	// Logger is told what happens outside the calls of methods: a lost LISTEN connection, a purge that
	// failed. Nil: slog.Default().
	Logger *slog.Logger
}

// Store is a [diverted.Store] in a schema of a PostgreSQL database.
//
// What many goroutines accept at one moment is merged into one transaction: each commit costs a flush of
// the server's log, so the batch and not the row sets the speed. Work is usually a single round trip.
type Store struct {
	pool   *pgxpool.Pool
	log    *slog.Logger
	schema string
	// quoted replaces the schema's name in statements.
	quoted *strings.Replacer
	texts  sync.Map // of statements, quoted
	// lock is the key of the advisory lock that keeps apart accepting and deleting webhooks, and of that of
	// migrations.
	lock   int64
	notify bool

	// instance is the upper half of this store's tokens, so that it knows its own claims.
	instance int64
	tokens   atomic.Uint32

	hooks     hooks
	hints     hints
	room      room
	watchers  watchers.Watchers[diverted.Change]
	accepting chan *acceptCall
	// alone and locked have room for the calls of Accept that have a transaction of their own, and for those of them
	// that wait for a lock.
	alone, locked chan struct{}
	news          news
	owed          news // as news, of the host's transactions
	activity      activity
	purging       chan struct{} // has room for one: a webhook was deleted

	// carried is when one of the host's transactions last was given a note to carry, after opened.
	carried atomic.Int64
	opened  time.Time

	// background is the context of the store's own goroutines, which group awaits.
	background context.Context
	stop       context.CancelFunc
	group      sync.WaitGroup

	// Every method holds mu for reading, Close for writing: it waits for the calls under way.
	mu     sync.RWMutex
	closed bool
}

var (
	_ diverted.Store          = (*Store)(nil)
	_ diverted.Watcher        = (*Store)(nil)
	_ diverted.BulkStore      = (*Store)(nil)
	_ diverted.StatsStore     = (*Store)(nil)
	_ diverted.RetentionStore = (*Store)(nil)
)

// Open makes a store in the database of pool, and brings its schema up to date; any number of processes
// may do so at the same moment. A new release may have much to do in a large database, while the other
// processes wait: nothing but ctx bounds that. The store uses pool, which stays the caller's and must outlive it, and
// a connection of its own to LISTEN on.
//
// The errors are [diverted.ErrInvalid] for a nil pool or an impossible schema name,
// [diverted.ErrUnsupported] for a server before PostgreSQL 13, a database whose encoding is not UTF-8 and
// a role that lacks a right, [diverted.ErrTooNew] for a schema that a newer release wrote,
// [diverted.ErrForeign] for one of another program, [diverted.ErrReadOnly] for a standby, and those of
// the connection.
func Open(ctx context.Context, pool *pgxpool.Pool, c Config) (*Store, error) {
	if pool == nil {
		return nil, invalid("pool", "must not be nil")
	}
	if c.Schema == "" {
		c.Schema = DefaultSchema
	}
	if len(c.Schema) > maxSchema || strings.ContainsRune(c.Schema, 0) || strings.HasPrefix(c.Schema, "pg_") {
		return nil, invalid("Schema", fmt.Sprintf("must be 1 to %d bytes, without NUL, and must not begin with pg_", maxSchema))
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	key := fnv.New64a()
	key.Write([]byte("diverted/" + c.Schema))
	s := &Store{
		pool:      pool,
		log:       c.Logger,
		schema:    c.Schema,
		quoted:    strings.NewReplacer("diverted.", pgx.Identifier{c.Schema}.Sanitize()+"."),
		lock:      int64(key.Sum64()),
		notify:    !c.NoNotify,
		instance:  1 + rand.Int64N(1<<31-1),
		accepting: make(chan *acceptCall, maxMerged),
		alone:     make(chan struct{}, loners),
		locked:    make(chan struct{}, 1),
		purging:   make(chan struct{}, 1),
		opened:    time.Now(),
	}
	s.hooks.init()
	s.hints.init()
	s.news.init()
	s.owed.init()
	s.activity.init()
	if err := s.migrate(ctx); err != nil {
		return nil, wrap("open database", err)
	}
	if err := s.voidDues(ctx); err != nil {
		return nil, wrap("open database", err)
	}
	s.background, s.stop = context.WithCancel(context.Background())
	for range accepters {
		s.group.Go(s.accept)
	}
	s.group.Go(s.purge)
	s.group.Go(s.gather)
	if s.notify {
		s.group.Go(s.listen)
		s.group.Go(s.announce)
		s.group.Go(s.announceOwed)
	}
	return s, nil
}

// Close waits for the calls under way and ends the store; its pool stays open. Closing again returns nil.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.accepting)
	s.stop()
	s.group.Wait()
	return nil
}

// begin begins a method: it fails if the store is closed, or ctx has ended. done ends it.
func (s *Store) begin(ctx context.Context, action string) (done func(), err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return nil, fmt.Errorf("diverted: %s: store: %w", action, diverted.ErrClosed)
	}
	return s.mu.RUnlock, nil
}

// wait returns after a time, or at once, with false, when the store is being closed.
func (s *Store) wait(d time.Duration) (open bool) { return pause(s.background, d) == nil }

// q returns a statement, which is written for the default schema, for the schema of this store.
func (s *Store) q(text string) string {
	if s.schema == DefaultSchema {
		return text
	}
	if quoted, ok := s.texts.Load(text); ok {
		return quoted.(string)
	}
	quoted := s.quoted.Replace(text)
	s.texts.Store(text, quoted)
	return quoted
}

// token returns a token that no claim has: the instance, and a number that does not return soon.
func (s *Store) token() int64 { return s.instance<<32 | int64(s.tokens.Add(1)) }

func invalid(path, detail string) error {
	return &diverted.InvalidError{Fields: []diverted.FieldError{{Path: path, Detail: detail}}}
}

// Watch implements [diverted.Watcher].
func (s *Store) Watch(f func(diverted.Change)) (stop func()) { return s.watchers.Add(f) }

// webhookChange is a change to a webhook.
func webhookChange(kind diverted.ChangeKind, key diverted.WebhookKey) diverted.Change {
	return diverted.Change{Kind: kind, Key: diverted.Key{Tenant: key.Tenant, Webhook: key.Webhook}}
}
