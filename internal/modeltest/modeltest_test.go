package modeltest_test

import (
	"context"
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/modeltest"
)

func TestTheMemoryStoreIsLikeTheModel(t *testing.T) {
	modeltest.Run(t, modeltest.Harness{
		Open: func(context.Context, string) (diverted.Store, error) { return diverted.NewMemoryStore(), nil },
	})
}

func TestTheSQLiteStoreIsLikeTheModel(t *testing.T) {
	path := func(dir string) string { return filepath.Join(dir, "webhooks.db") }
	modeltest.Run(t, modeltest.Harness{
		Open: func(ctx context.Context, dir string) (diverted.Store, error) {
			return diverted.OpenSQLite(ctx, path(dir))
		},
		Durable: true,
		Shift: func(ctx context.Context, dir string, d time.Duration) error {
			db, err := sql.Open("sqlite", "file:"+path(dir))
			if err != nil {
				return err
			}
			defer db.Close()
			_, err = db.ExecContext(ctx, `DELETE FROM diverted_notices WHERE open IS NULL AND sending IS NULL AND due <= ?`, time.Now().UnixMilli())
			if err != nil {
				return err
			}
			for _, table := range []string{"diverted_deliveries", "diverted_notices"} {
				if _, err := db.ExecContext(ctx, `UPDATE `+table+` SET due = due + ? WHERE due > 0`, d.Milliseconds()); err != nil {
					return err
				}
			}
			return nil
		},
	})
}
