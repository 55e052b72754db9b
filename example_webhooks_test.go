package diverted_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// A host has a table of webhooks of its own. A row and the store's webhook change in one transaction, so they never
// differ.
func ExampleSQLiteStore_PutWebhookTx() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "example")
	check(err)
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "app.db")+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
	check(err)
	defer db.Close()
	store, err := diverted.NewSQLiteStore(ctx, db)
	check(err)
	defer store.Close()
	_, err = db.ExecContext(ctx, `CREATE TABLE hooks (id BLOB PRIMARY KEY, url TEXT NOT NULL)`)
	check(err)

	tenant, id := uuid.New(), uuid.New()
	save := func(url string) diverted.Webhook {
		tx, err := db.BeginTx(ctx, nil)
		check(err)
		defer tx.Rollback()
		_, err = tx.ExecContext(ctx, `INSERT INTO hooks VALUES (?1, ?2) ON CONFLICT (id) DO UPDATE SET url = ?2`, id[:], url)
		check(err)
		webhook := diverted.NewWebhook(tenant, "ERP", url, "order.*")
		webhook.Locator = ulid.ULID(id)
		webhook, err = store.PutWebhookTx(ctx, tx, webhook)
		check(err)
		check(tx.Commit()) // and then call Wake, if a dispatcher runs in this process
		return webhook
	}
	for _, url := range []string{"https://erp.example/hooks", "https://erp.example/new", "https://erp.example/new"} {
		fmt.Println("version", save(url).Version)
	}

	remove := func() {
		tx, err := db.BeginTx(ctx, nil)
		check(err)
		defer tx.Rollback()
		_, err = tx.ExecContext(ctx, `DELETE FROM hooks WHERE id = ?`, id[:])
		check(err)
		check(store.DeleteWebhookTx(ctx, tx, diverted.WebhookKey{Tenant: tenant, Webhook: ulid.ULID(id)}, true)) // with its events
		check(tx.Commit())
	}
	remove()
	page, err := store.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: tenant})
	check(err)
	fmt.Println("left:", len(page.Webhooks))
	// Output:
	// version 1
	// version 2
	// version 2
	// left: 0
}
