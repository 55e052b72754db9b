package postgres_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testenv"
	"github.com/divertedevents/diverted/postgres"
)

// TestChurn puts CHURN_DELIVERIES deliveries through the table of a server of its own, and tells at each tenth
// what became of it: see make churn. Of a standing backlog of 20,000 those that are due are claimed 128 at a time; one
// in ten fails once and is retried a second later, one in fifty is diverted and then deleted. CHURN_SQL is run first, to
// compare settings.
func TestChurn(t *testing.T) {
	deliveries := testenv.Number(t, "CHURN_DELIVERIES", 0)
	if deliveries == 0 {
		t.Skip("it takes minutes, and tells nothing that fails: see make churn")
	}
	is := is.New(t)
	ctx := t.Context()
	server := newMortal(t)
	pool, err := pgxpool.New(ctx, server.url("postgres"))
	is.NoErr(err)
	defer pool.Close()
	s, err := postgres.Open(ctx, pool, postgres.Config{Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	defer s.Close()
	execute(t, pool, cmp.Or(os.Getenv("CHURN_SQL"), "SELECT"))
	tenant := uuid.New()
	var webhooks []diverted.Webhook
	for range 10 {
		webhooks = append(webhooks, newWebhook(t, s, tenant))
	}

	const backlog, batch = 20_000, 128
	fill(t, s, webhooks, backlog)
	var log string // where the server's log stands
	is.NoErr(pool.QueryRow(ctx, `SELECT pg_current_wal_lsn()::text`).Scan(&log))
	fmt.Println("| settled | live | dead | WAL a delivery | table | due index | key | autovacuums | HOT updates | accept of 1,000 | claim and settle of 128 |")
	fmt.Println("|---|---|---|---|---|---|---|---|---|---|---|")
	var outcomes []diverted.Outcome
	var accepting, working time.Duration
	var settled, accepted, accepts, works, n int
	for tenth := 1; tenth <= 10; tenth++ {
		for settled < deliveries*tenth/10 {
			if accepted-settled < 0 {
				began := time.Now()
				fill(t, s, webhooks, 1000)
				accepting += time.Since(began)
				accepts++
				accepted += 1000
			}
			began := time.Now()
			r, err := s.Work(ctx, diverted.WorkRequest{
				Outcomes: outcomes, Claim: &diverted.ClaimRequest{Count: batch, Bytes: 32 << 20, Lease: time.Minute},
			})
			working += time.Since(began)
			works++
			is.NoErr(err)
			outcomes = outcomes[:0]
			for _, c := range r.Claims {
				n++
				o := delivered(c)
				switch {
				case n%10 == 0 && c.Attempts == 0:
					o.Kind, o.Wait = diverted.OutcomeRetry, time.Second
				case n%50 == 1:
					o.Kind = diverted.OutcomeDivert
				}
				if o.Kind != diverted.OutcomeDelivered {
					o.Failure = &diverted.Failure{Trigger: "503", Status: 503, Message: "503 Service Unavailable"}
				}
				if o.Kind != diverted.OutcomeRetry {
					settled++
				}
				outcomes = append(outcomes, o)
			}
		}
		for _, w := range webhooks {
			page, err := s.ListDiverted(ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: diverted.MaxPage})
			is.NoErr(err)
			for _, e := range page.Events {
				is.NoErr(s.DeleteDiverted(ctx, e.Key))
			}
		}
		fmt.Printf("| %d | %s | %.1f ms | %.1f ms |\n", settled, churned(t, pool, log, settled),
			float64(accepting.Milliseconds())/float64(max(accepts, 1)), float64(working.Microseconds())/1000/float64(works))
		accepting, working, accepts, works = 0, 0, 0, 0
	}
}

// churned is what the server tells of the table of deliveries.
func churned(t *testing.T, pool *pgxpool.Pool, began string, settled int) (cells string) {
	t.Helper()
	execute(t, pool, `SELECT pg_stat_clear_snapshot()`)
	err := pool.QueryRow(context.Background(), `
		SELECT concat_ws(' | ', n_live_tup, n_dead_tup,
			pg_wal_lsn_diff(pg_current_wal_lsn(), $1::text::pg_lsn)::bigint / $2::bigint || ' B',
			pg_size_pretty(pg_relation_size(relid)),
			pg_size_pretty(pg_relation_size(schemaname || '.deliveries_due')),
			pg_size_pretty(pg_relation_size(schemaname || '.deliveries_pkey')),
			autovacuum_count, round(100.0 * n_tup_hot_upd / greatest(n_tup_upd, 1))::int || ' %')
		FROM pg_stat_user_tables WHERE relname = 'deliveries'`, began, settled).Scan(&cells)
	if err != nil {
		t.Fatal(err)
	}
	return cells
}
