package modeltest_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/modeltest"
	"github.com/divertedevents/diverted/postgres"
)

// The server is the one of the tests of package postgres.
func TestThePostgresStoreIsLikeTheModel(t *testing.T) {
	url := os.Getenv("DIVERTED_POSTGRES")
	if url == "" {
		url = "postgres://postgres@127.0.0.1:5432/postgres"
	}
	admin, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Skip("no PostgreSQL server")
	}
	database := fmt.Sprintf("diverted_model_%d", os.Getpid())
	if _, err := admin.Exec(t.Context(), "CREATE DATABASE "+database); err != nil {
		t.Fatal(err)
	}
	// It is answers that are compared. What survives a crash is tested elsewhere, and costs a sync for each step.
	if _, err := admin.Exec(t.Context(), "ALTER DATABASE "+database+" SET synchronous_commit = off"); err != nil {
		t.Fatal(err)
	}
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.Database = database
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		pool.Close()
		if _, err := admin.Exec(context.Background(), "DROP DATABASE "+database+" WITH (FORCE)"); err != nil {
			t.Error(err)
		}
		admin.Close(context.Background())
	}()

	schema := func(dir string) string { return filepath.Base(dir) }
	var last string // its sequence is over, so that a long run does not fill the catalogue
	modeltest.Run(t, modeltest.Harness{
		RealTime: true,
		Durable:  true,
		Open: func(ctx context.Context, dir string) (diverted.Store, error) {
			if last != "" && last != schema(dir) {
				if _, err := pool.Exec(ctx, "DROP SCHEMA "+pgx.Identifier{last}.Sanitize()+" CASCADE"); err != nil {
					return nil, err
				}
			}
			last = schema(dir)
			return postgres.Open(ctx, pool, postgres.Config{Schema: schema(dir), Logger: slog.New(slog.DiscardHandler)})
		},
		Shift: func(ctx context.Context, dir string, d time.Duration) error {
			quoted := pgx.Identifier{schema(dir)}.Sanitize()
			// The wait before a claim is over, which the model forgets and this store keeps.
			if _, err := pool.Exec(ctx, `UPDATE `+quoted+`.deliveries
				SET due = CASE WHEN lease IS NULL THEN due + $1 ELSE least(due, now()) END, lease = lease + $1
				WHERE due IS NOT NULL`, d); err != nil {
				return err
			}
			// To this store a lease that is too far ahead is over as long as it is, to the model for good. They
			// would differ only where the clock is set back and forth with nobody claiming in between.
			if _, err := pool.Exec(ctx, `UPDATE `+quoted+`.deliveries SET lease = now() WHERE lease > now() + interval '15 minutes'`); err != nil {
				return err
			}
			if _, err := pool.Exec(ctx, `DELETE FROM `+quoted+`.notices WHERE open IS NULL AND sending IS NULL AND due <= now()`); err != nil {
				return err
			}
			_, err := pool.Exec(ctx, `UPDATE `+quoted+`.notices SET due = due + $1`, d)
			return err
		},
	})
}
