package postgres_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

// The planner's statistics are of a time when a table held something else. Whatever they say, what is read must be
// about as much as what is asked for. The tests count it, since a machine can be slow.

// reads counts the rows and the index entries of deliveries that a call of a new store reads.
func reads(t *testing.T, schema string, call func(*postgres.Store)) (n int) {
	t.Helper()
	return readsOf(t, schema+".deliveries", schema, call)
}

func readsOf(t *testing.T, table, schema string, call func(*postgres.Store)) (n int) {
	t.Helper()
	is := is.New(t)
	admin := newPool(t)
	count := func() (n int) {
		is.NoErr(admin.QueryRow(t.Context(), `
			SELECT pg_stat_get_tuples_returned(c.oid) + (
				SELECT sum(pg_stat_get_tuples_returned(indexrelid)) FROM pg_index WHERE indrelid = c.oid)
			FROM pg_class c WHERE c.oid = $1::text::regclass`, table).Scan(&n))
		return n
	}
	before := count()
	pool := newPool(t, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = schema })
	s, err := postgres.Open(t.Context(), pool, postgres.Config{Schema: schema, NoNotify: true})
	is.NoErr(err)
	call(s)
	is.NoErr(s.Close())
	pool.Close()
	// The server adds what a session counted when that ends.
	testenv.Await(t, "the sessions of the store are over", func() bool {
		return holds(t, admin, `SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1)`, schema)
	})
	return count() - before
}

// stale fills a suspended webhook with pending and diverted events. The statistics are of when there was but one kind.
func stale(t *testing.T, pendingThen bool, pending, aside int) (schema string, w diverted.Webhook) {
	t.Helper()
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	w = newWebhook(t, s, uuid.New())
	is := is.New(t)
	is.NoErr(s.Suspend(t.Context(), w.Key()))
	is.NoErr(s.Close()) // what it counts is not to be counted later
	execute(t, pool, `ALTER TABLE `+schema+`.deliveries SET (autovacuum_enabled = off)`)
	insert := func(n int, columns, values string) {
		execute(t, pool, `
			INSERT INTO `+schema+`.deliveries (webhook, event, request, accepted_at, type, body, `+columns+`)
			SELECT w.id, (lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint - i * 1000), 12, '0') || right(md5(random()::text), 20))::uuid,
				gen_random_uuid(), now() - i * interval '1 second', 'a.b', '{}', `+values+`
			FROM `+schema+`.webhooks w, generate_series($1::int, 1, -1) i`, n) // the oldest first, as ULIDs have it
	}
	analyze := func() { execute(t, pool, `VACUUM ANALYZE `+schema+`.deliveries`) }
	if pendingThen {
		insert(pending, `due`, `'-infinity'`)
		analyze()
	}
	insert(aside, `diverted_at, failure`, `now() - i * interval '1 second', '{"trigger":"503","message":"503 Service Unavailable","at":"2026-11-23T17:58:00Z"}'`)
	if !pendingThen {
		analyze()
		insert(pending, `due`, `'-infinity'`)
	}
	return schema, w
}

func TestWhatIsReadDoesNotDependOnThePlannersStatistics(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes ten seconds")
	}
	const few, many = 2000, 30_000
	filters := map[string]diverted.DivertedFilter{"all": {}, "trigger": {Trigger: "503"}, "class": {Trigger: "5xx"}, "type": {EventType: "a.b"}}
	for name, pendingThen := range map[string]bool{"pending": true, "diverted": false} {
		t.Run("of when all was "+name, func(t *testing.T) {
			t.Run("one", func(t *testing.T) {
				t.Parallel()
				is := is.New(t)
				schema, w := stale(t, pendingThen, few, many)
				page, err := open(t, newPool(t), schema).ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
				is.NoErr(err)
				key := page.Events[0].Key
				for what, call := range map[string]func(*postgres.Store) error{
					"fetch":   func(s *postgres.Store) error { _, err := s.FetchDiverted(t.Context(), key); return err },
					"expunge": func(s *postgres.Store) error { return s.Expunge(t.Context(), page.Events[1].Key) },
					"delete":  func(s *postgres.Store) error { return s.DeleteDiverted(t.Context(), page.Events[2].Key) },
					"divert": func(s *postgres.Store) error {
						return s.Divert(t.Context(), diverted.DivertedEvent{
							Key: key, RequestLocator: ulid.Make(), EventType: "a.b", Attempts: 1, Body: []byte("{}"), Failure: diverted.Failure{Trigger: "404", Message: "404 Not Found"},
						})
					},
					"resend": func(s *postgres.Store) error {
						if err := s.Resend(t.Context(), key); !isError(err, diverted.ErrSuspended) {
							return err
						}
						return nil
					},
				} {
					t.Run(what, func(t *testing.T) {
						is := is.New(t)
						n := reads(t, schema, func(s *postgres.Store) { is.NoErr(call(s)) })
						t.Log(n)
						is.True(n < 1000) // the store looks at what is due meanwhile
					})
				}
			})
			for _, n := range []struct{ pending, diverted int }{{many, few}, {few, many}} {
				t.Run(fmt.Sprintf("claims and lost claims of %d", n.pending), func(t *testing.T) {
					t.Parallel()
					schema, w := stale(t, pendingThen, n.pending, n.diverted)
					is := is.New(t)
					is.NoErr(open(t, newPool(t), schema).Unsuspend(t.Context(), w.Key()))
					n := reads(t, schema, func(s *postgres.Store) {
						for range 2 {
							r, err := s.Work(t.Context(), diverted.WorkRequest{Claim: &diverted.ClaimRequest{
								Count: 100, Bytes: 32 << 20, Lease: time.Millisecond, InFlight: func(diverted.Key) bool { return false },
							}})
							is.NoErr(err)
							is.Equal(len(r.Claims), 100)
							<-time.After(5 * time.Millisecond) // the lease is over
						}
					})
					t.Log(n)
					is.True(n < 3000)
				})
			}
			t.Run("few that are pending", func(t *testing.T) {
				t.Parallel()
				schema, w := stale(t, pendingThen, few, many)
				is := is.New(t)
				n := reads(t, schema, func(s *postgres.Store) {
					page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
					is.NoErr(err)
					is.Equal(len(page.Deliveries), diverted.DefaultPage)
				})
				t.Log("page", n)
				is.True(n < 3*few)
				for _, f := range []diverted.DivertedFilter{filters["all"], filters["type"]} {
					n = reads(t, schema, func(s *postgres.Store) {
						result, err := s.DivertAll(t.Context(), diverted.BulkRequest{Webhook: w.Key(), Filter: f, Limit: 500})
						is.NoErr(err)
						is.Equal(result.Done, 500)
					})
					t.Log("step", n)
					is.True(n < 4*few)
				}
			})
			for what, n := range map[string]struct{ pending, diverted, most int }{
				"behind many that are diverted":  {11_000, 100_000, 60_000},
				"mixed with as many as diverted": {30_000, 30_000, 31_000}, // 10,000 of each and of both, to know that there are more
			} {
				t.Run("many that are pending, "+what, func(t *testing.T) {
					is := is.New(t)
					schema, w := stale(t, pendingThen, n.pending, n.diverted)
					page := reads(t, schema, func(s *postgres.Store) {
						page, err := s.ListPending(t.Context(), diverted.DivertedQuery{Webhook: w.Key()})
						is.NoErr(err)
						is.Equal(len(page.Deliveries), diverted.DefaultPage)
					})
					t.Log(page)
					is.True(page < n.most)
				})
			}
			t.Run("all that is pending is set aside", func(t *testing.T) {
				t.Parallel()
				schema, _ := stale(t, pendingThen, few, many)
				is := is.New(t)
				n := reads(t, schema, func(s *postgres.Store) {
					done, err := s.DivertPending(t.Context(), diverted.DivertPendingRequest{Before: time.Now()})
					is.NoErr(err)
					is.Equal(done, few)
				})
				t.Log(n)
				is.True(n < 10*few)
			})
			t.Run("pages", func(t *testing.T) {
				t.Parallel()
				schema, w := stale(t, pendingThen, few, many)
				for what, f := range map[string]diverted.DivertedFilter{
					"all": {}, "trigger": {Trigger: "503"}, "class": {Trigger: "5xx"}, "no such trigger": {Trigger: "404"}, "no such class": {Trigger: "4XX"},
					"type": {EventType: "a.b"}, "no such type": {EventType: "a.c"}, "the last 15,000": {Since: time.Now().Add(-15_000 * time.Second)},
					"the last 1,000": {Since: time.Now().Add(-1000 * time.Second)}, "the first 1,000": {Until: time.Now().Add(-(many - 1000) * time.Second)},
				} {
					t.Run(what, func(t *testing.T) {
						is := is.New(t)
						n := reads(t, schema, func(s *postgres.Store) {
							_, err := s.ListDiverted(t.Context(), diverted.DivertedQuery{Webhook: w.Key(), Filter: f})
							is.NoErr(err)
						})
						t.Log(n)
						is.True(n < 12_000) // 10,000, to know that there are more
					})
				}
			})
			for what, f := range filters {
				t.Run("bulk of "+what, func(t *testing.T) {
					t.Parallel()
					schema, w := stale(t, pendingThen, few, many)
					is := is.New(t)
					is.NoErr(open(t, newPool(t), schema).Unsuspend(t.Context(), w.Key()))
					for _, action := range []func(*postgres.Store, context.Context, diverted.BulkRequest) (diverted.BulkResult, error){
						(*postgres.Store).ResendAll, (*postgres.Store).DeleteAll,
					} {
						n := reads(t, schema, func(s *postgres.Store) {
							result, err := action(s, t.Context(), diverted.BulkRequest{Webhook: w.Key(), Filter: f})
							is.NoErr(err)
							is.Equal(result.Done, diverted.DefaultBulk)
						})
						t.Log("step", n)
						is.True(n < 15*diverted.DefaultBulk) // of these 10,000 as above
					}
				})
			}
			for what, retention := range map[string]diverted.Retention{"cap": {MaxPerWebhook: 1500}, "age": {MaxAge: time.Minute}} {
				t.Run("purge by "+what, func(t *testing.T) {
					t.Parallel()
					is := is.New(t)
					for _, kind := range []struct {
						pending, diverted int
					}{{many, 1000}, {1000, many}} {
						schema, w := stale(t, pendingThen, kind.pending, kind.diverted)
						execute(t, newPool(t), `UPDATE `+schema+`.webhooks SET suspended_at = now() - interval '1 hour'`)
						began := time.Now()
						n := reads(t, schema, func(s *postgres.Store) {
							result, err := s.Purge(t.Context(), diverted.PurgeRequest{Retention: retention})
							is.NoErr(err)
							is.True(slices.ContainsFunc(result.Webhooks, func(p diverted.Purged) bool {
								return p.Webhook == w.Key() && p.Pending+p.Diverted == diverted.DefaultBulk
							}))
						})
						t.Log(kind, n, time.Since(began))
						is.True(n < 40*diverted.DefaultBulk)
					}
				})
			}
		})
	}
}

// Who asks for the numbers of a whole store, as metrics do every few seconds, must not have all that ever happened read.
func TestStatisticsReadTheHoursThatAreAskedFor(t *testing.T) {
	is := is.New(t)
	pool, schema := newPool(t), newSchema()
	s := open(t, pool, schema)
	newWebhook(t, s, uuid.New())
	is.NoErr(s.Close())
	execute(t, pool, `
		INSERT INTO `+schema+`.hours (webhook, hour, what, n, last)
		SELECT w.id, date_trunc('hour', now(), 'UTC') - h * interval '1 hour', x.what, 1, date_trunc('second', now()) - h * interval '1 hour'
		FROM `+schema+`.webhooks w, generate_series(0, 719) h, (VALUES ('delivered'), ('failed'), ('503')) x (what)
		WHERE x.what = 'delivered' OR h >= 700`) // it began to succeed a while ago
	for hours, most := range map[int]int{0: 10, 24: 60} {
		n := readsOf(t, schema+".hours", schema, func(s *postgres.Store) {
			stats, err := s.Stats(t.Context(), diverted.StatsQuery{Hours: hours})
			is.NoErr(err)
			is.True(len(stats.Hours) == hours || len(stats.Hours) == hours-1) // if one begins just now
			is.Equal(stats.LastSuccess.Sub(stats.LastFailure), 700*time.Hour)
		})
		t.Log(hours, n)
		is.True(n < most)
	}
}
