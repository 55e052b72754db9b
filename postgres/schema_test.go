package postgres_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

func tryOpen(pool *pgxpool.Pool, schema string) error {
	s, err := postgres.Open(context.Background(), pool, postgres.Config{Schema: schema})
	if err == nil {
		s.Close()
	}
	return err
}

func execute(t testing.TB, pool *pgxpool.Pool, text string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(context.Background(), text, args...); err != nil {
		t.Fatal(err)
	}
}

func TestTenProcessesMayStartAtOnce(t *testing.T) {
	is := is.New(t)
	schema := newSchema()
	var group sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		pool := newPool(t, poolOf(2))
		group.Go(func() { errs[i] = tryOpen(pool, schema) })
	}
	group.Wait()
	for _, err := range errs {
		is.NoErr(err)
	}
	var applied int
	is.NoErr(newPool(t).QueryRow(t.Context(), `SELECT count(*) FROM `+schema+`.migrations`).Scan(&applied))
	files, err := os.ReadDir("migrations")
	is.NoErr(err)
	is.Equal(applied, len(files))
}

func TestASchemaMayHaveAnyName(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	for _, schema := range []string{`Über"s; DROP`, "diverted.", strings.Repeat("x", 63), ""} {
		s := open(t, pool, schema)
		w := newWebhook(t, s, uuid.New())
		_, err := s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
		is.NoErr(err)
		is.Equal(len(claim(t, s)), 1)
	}
	for _, schema := range []string{strings.Repeat("x", 64), "pg_diverted", "a\x00b"} {
		is.True(isError(tryOpen(pool, schema), diverted.ErrInvalid))
	}
	is.True(isError(tryOpen(nil, ""), diverted.ErrInvalid))
}

func TestStoresOfTwoSchemasHaveNothingToDoWithEachOther(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	a, b := open(t, pool, newSchema()), open(t, pool, newSchema())
	w := newWebhook(t, a, uuid.New())
	_, err := a.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
	is.NoErr(err)
	_, err = b.FetchWebhook(t.Context(), w.Key())
	is.True(isError(err, diverted.ErrNotFound))
	is.Equal(len(claim(t, b)), 0)
	is.Equal(len(claim(t, a)), 1)
}

func TestASchemaOfAnotherProgramIsForeign(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	for _, table := range []string{"orders (id int)", "migrations (version int)"} {
		schema := newSchema()
		execute(t, pool, `CREATE SCHEMA `+schema)
		is.NoErr(tryOpen(pool, schema)) // an empty one is not
		execute(t, pool, `DROP SCHEMA `+schema+` CASCADE; CREATE SCHEMA `+schema+`; CREATE TABLE `+schema+`.`+table)
		err := tryOpen(pool, schema)
		is.True(isError(err, diverted.ErrForeign))
		is.True(strings.Contains(err.Error(), "Config.Schema"))
	}
}

func TestASchemaIsOpenedByTheReleasesThatItsMinimumAllows(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	schema := newSchema()
	is.NoErr(tryOpen(pool, schema))
	execute(t, pool, `INSERT INTO `+schema+`.migrations (version, minimum) VALUES (99, 1)`) // a deploy that is rolled back
	is.NoErr(tryOpen(pool, schema))
	execute(t, pool, `UPDATE `+schema+`.migrations SET minimum = 98 WHERE version = 99`)
	is.True(isError(tryOpen(pool, schema), diverted.ErrTooNew))
}

func TestADatabaseOfAnotherEncodingIsUnsupported(t *testing.T) {
	is := is.New(t)
	name := fmt.Sprintf("%s_ascii", database)
	execute(t, newPool(t), `CREATE DATABASE `+name+` ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0`)
	pool := newPool(t, func(c *pgxpool.Config) { c.ConnConfig.Database = name })
	err := tryOpen(pool, "")
	pool.Close()
	execute(t, newPool(t), `DROP DATABASE `+name+` WITH (FORCE)`) // the server may not have noticed yet that its connections ended
	is.True(isError(err, diverted.ErrUnsupported))
}

// role makes a role that may log in and nothing else, and a pool of its connections.
func role(t *testing.T) (string, *pgxpool.Pool) {
	t.Helper()
	admin := newPool(t)
	name := fmt.Sprintf("%s_%s", database, newSchema())
	execute(t, admin, `CREATE ROLE `+name+` LOGIN`)
	t.Cleanup(func() { execute(t, newPool(t), `DROP OWNED BY `+name+`; DROP ROLE `+name) })
	return name, newPool(t, func(c *pgxpool.Config) { c.ConnConfig.User = name; c.ConnConfig.Password = "" })
}

func TestARightThatIsMissingIsNamed(t *testing.T) {
	is := is.New(t)
	admin, schema := newPool(t), newSchema()
	name, pool := role(t)
	for _, step := range []struct{ grant, lacks string }{
		{"", "CREATE on the database"},
		{`CREATE SCHEMA ` + schema, "USAGE and CREATE on the schema"},
		{`GRANT USAGE ON SCHEMA ` + schema + ` TO ` + name, "USAGE and CREATE on the schema"},
	} {
		if step.grant != "" {
			execute(t, admin, step.grant)
		}
		err := tryOpen(pool, schema)
		is.True(isError(err, diverted.ErrUnsupported))
		is.True(strings.Contains(err.Error(), step.lacks))
	}
	execute(t, admin, `GRANT CREATE ON SCHEMA `+schema+` TO `+name)
	is.NoErr(tryOpen(pool, schema))
}

func TestARoleThatMayOnlyReadAndWriteRowsUsesASchemaThatIsThere(t *testing.T) {
	is := is.New(t)
	admin := newPool(t)
	schema := newFirstSchema(t, admin)
	name, pool := role(t)
	readme, err := os.ReadFile("README.md")
	is.NoErr(err)
	_, grants, _ := strings.Cut(string(readme), "```sql\n") // the first such block
	grants, _, ok := strings.Cut(grants, "```")
	is.True(ok)
	execute(t, admin, strings.NewReplacer("SCHEMA diverted", "SCHEMA "+schema, "TO app", "TO "+name, "ROLE owner", "ROLE "+server.User).Replace(grants))
	is.True(isError(tryOpen(pool, schema), diverted.ErrUnsupported))
	is.NoErr(tryOpen(admin, schema)) // a later release, with more tables
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	_, err = s.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message(t, w)}})
	is.NoErr(err)
	c := claim(t, s)
	is.Equal(len(c), 1)
	is.NoErr(s.Suspend(t.Context(), w.Key()))
	is.NoErr(s.DeleteWebhook(t.Context(), w.Key(), true))
}

// newFirstSchema makes a schema as the first release did.
func newFirstSchema(t *testing.T, pool *pgxpool.Pool) (schema string) {
	t.Helper()
	first, err := os.ReadFile("migrations/0001_initial.sql")
	if err != nil {
		t.Fatal(err)
	}
	schema = newSchema()
	execute(t, pool, `BEGIN; CREATE SCHEMA `+schema+`; SET LOCAL search_path TO `+schema+`;
		CREATE TABLE migrations (version integer PRIMARY KEY, minimum integer NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
		INSERT INTO migrations (version, minimum) VALUES (1, 1);
		`+string(first)+`; COMMIT`)
	return schema
}

// deadlines says of the contexts of migrations whether they end by themselves.
type deadlines struct{ set, met atomic.Bool }

func (d *deadlines) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.Contains(data.SQL, "pg_advisory_xact_lock(") {
		d.met.Store(true)
		if _, set := ctx.Deadline(); set {
			d.set.Store(true)
		}
	}
	return ctx
}

func (d *deadlines) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestAMigrationTakesAsLongAsItsContextAllows(t *testing.T) {
	is := is.New(t)
	admin := newPool(t)
	schema := newFirstSchema(t, admin)
	reader, err := admin.Begin(t.Context())
	is.NoErr(err)
	defer reader.Rollback(t.Context())
	_, err = reader.Exec(t.Context(), `LOCK TABLE `+schema+`.deliveries IN ACCESS SHARE MODE`)
	is.NoErr(err)

	var seen deadlines
	pool := newPool(t, func(c *pgxpool.Config) {
		c.ConnConfig.Tracer = &seen
		c.ConnConfig.RuntimeParams["statement_timeout"] = "1000"
		c.ConnConfig.RuntimeParams["lock_timeout"] = "1000"
	})
	opened := make(chan error, 2) // the one migrates, the other waits for it
	for range cap(opened) {
		go func() { opened <- tryOpen(pool, schema) }()
	}
	select {
	case err := <-opened:
		t.Fatalf("a migration that has to wait ended: %v", err)
	case <-time.After(2 * time.Second):
	}
	is.NoErr(reader.Rollback(t.Context()))
	for range cap(opened) {
		is.NoErr(<-opened)
	}
	is.True(seen.met.Load())
	is.True(!seen.set.Load())
}

// An older release that works while a newer one migrates first locks rows, and then changes them. A migration that
// takes a weak lock before a strong one would get between the two.
func TestAMigrationAndAProcessAtWorkDoNotWaitForEachOther(t *testing.T) {
	is := is.New(t)
	admin, schema := newPool(t), newSchema()
	older := open(t, newPool(t), schema)
	w := newWebhook(t, older, uuid.New())
	accept(t, older, message(t, w))
	first := claim(t, older)
	is.Equal(len(first), 1)
	execute(t, admin, `SET search_path TO `+schema+`;
		DROP INDEX deliveries_diverted_type; DROP INDEX deliveries_diverted;
		CREATE INDEX deliveries_diverted ON deliveries (webhook, event) WHERE due IS NULL;
		DROP INDEX hours_last; DROP TRIGGER webhooks_generation ON webhooks; DELETE FROM migrations WHERE version >= 5; RESET search_path`)
	worker, err := admin.Begin(t.Context())
	is.NoErr(err)
	defer worker.Rollback(t.Context())
	_, err = worker.Exec(t.Context(), `SELECT FROM `+schema+`.deliveries FOR UPDATE`)
	is.NoErr(err)

	var deadlocks atomic.Int64
	pool := newPool(t, func(c *pgxpool.Config) {
		c.ConnConfig.OnPgError = func(_ *pgconn.PgConn, e *pgconn.PgError) bool {
			if e.Code == "40P01" {
				deadlocks.Add(1)
			}
			return true
		}
	})
	opened := make(chan error, 1)
	go func() { opened <- tryOpen(pool, schema) }()
	testenv.Await(t, "the migration has to wait", func() bool {
		select {
		case err := <-opened:
			t.Fatalf("it ended before it had to wait: %v", err)
		default:
		}
		return holds(t, admin, `SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation IN (
			SELECT $1::text::regclass UNION ALL SELECT indexrelid FROM pg_index WHERE indrelid = $1::text::regclass))`, schema+".deliveries")
	})
	_, err = worker.Exec(t.Context(), `UPDATE `+schema+`.deliveries SET attempts = attempts`)
	is.NoErr(err)
	is.NoErr(worker.Commit(t.Context()))
	is.NoErr(<-opened)
	is.Equal(deadlocks.Load(), int64(0))
	accept(t, older, message(t, w))
	is.Equal(settle(t, older, delivered(first[0])), []diverted.Settled{{}})
	is.Equal(len(claim(t, older)), 1)
}

func TestWhatTheFirstSchemaHeldIsThereInTheNewest(t *testing.T) {
	is := is.New(t)
	pool := newPool(t)
	schema := newFirstSchema(t, pool)
	w := diverted.NewWebhook(uuid.New(), "orders", "https://receiver.example/hook", "*")
	record, err := diverted.EncodeWebhook(w)
	is.NoErr(err)
	tx, err := pool.Begin(t.Context())
	is.NoErr(err)
	defer tx.Rollback(t.Context())
	_, err = tx.Exec(t.Context(), `SET LOCAL search_path TO `+schema)
	is.NoErr(err)
	_, err = tx.Exec(t.Context(), `INSERT INTO webhooks (tenant, locator, record, enabled, epoch, version, changed) VALUES ($1, $2, $3, true, 0, 1, 1)`,
		w.Tenant, uuid.UUID(w.Locator), record)
	is.NoErr(err)
	aside, pending := ulid.Make(), ulid.Make()
	_, err = tx.Exec(t.Context(), `
		INSERT INTO deliveries (webhook, event, request, accepted_at, due, diverted_at, attempts, type, failure, body)
		SELECT id, $1::uuid, $1::uuid, now(), NULL::timestamptz, now(), 3, 'order.paid', $3::text, '{}'::bytea FROM webhooks
		UNION ALL
		SELECT id, $2::uuid, $2::uuid, now(), '-infinity', NULL, 0, 'order.paid', NULL, '{}' FROM webhooks`,
		uuid.UUID(aside), uuid.UUID(pending), `{"trigger":"503","message":"503 Service Unavailable","status":503,"at":"2026-11-23T17:58:00Z"}`)
	is.NoErr(err)
	is.NoErr(tx.Commit(t.Context()))

	s := open(t, pool, schema)
	page, err := s.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: "503"}, Failures: true})
	is.NoErr(err)
	is.Equal(len(page.Events), 1)
	is.Equal(page.Events[0].Event, aside)
	is.Equal(page.Events[0].Failures, []diverted.Failure{page.Events[0].Failure})
	stats, err := s.Stats(t.Context(), diverted.StatsQuery{Tenant: w.Tenant})
	is.NoErr(err)
	is.Equal(stats.Diverted, map[diverted.Trigger]int{"503": 1})
	is.Equal(stats.Pending, 1)
	claims := claim(t, s)
	is.Equal(len(claims), 1)
	is.Equal(claims[0].Key.Event, pending)
}

// A release that knows the first schema alone diverts and resends beside one that knows the newest.
func TestWhatAnOlderReleaseDivertsIsFoundByItsTrigger(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w := newWebhook(t, s, uuid.New())
	event := setAside(t, s, w.Key(), "503")
	older := func(set string) { execute(t, pool, `UPDATE `+schema+`.deliveries SET `+set) }
	for _, tt := range []struct {
		failure string
		want    diverted.Trigger
	}{
		{`'{"trigger":"404","message":"404 Not Found","status":404,"at":"2026-11-23T17:58:00Z"}'`, "404"},
		{`'{"trigger":"timeout","message":"connection refused","at":"2026-11-23T17:58:00Z"}'`, diverted.TriggerTimeout},
		{`NULL`, diverted.TriggerTimeout},
	} {
		older(`due = '-infinity', diverted_at = NULL, was_diverted = true, attempts = 0`)
		stats, err := s.Stats(t.Context(), diverted.StatsQuery{Tenant: w.Tenant})
		is.NoErr(err)
		is.Equal(len(stats.Diverted), 0)
		older(`due = NULL, diverted_at = now(), failure = ` + tt.failure)
		stats, err = s.Stats(t.Context(), diverted.StatsQuery{Tenant: w.Tenant})
		is.NoErr(err)
		is.Equal(stats.Diverted, map[diverted.Trigger]int{tt.want: 1})
		for trigger, want := range map[diverted.Trigger]int{tt.want: 1, "503": 0, "5xx": 0} {
			result, err := s.ResendAll(t.Context(), diverted.BulkRequest{
				Webhook: w.Key(), Filter: diverted.DivertedFilter{Trigger: trigger}, Before: time.Now().Add(time.Hour), DryRun: true,
			})
			is.NoErr(err)
			is.Equal(result.Matched, want)
		}
	}
	is.NoErr(s.DeleteDiverted(t.Context(), event))
}
