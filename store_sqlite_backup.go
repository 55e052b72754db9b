package diverted

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
)

// Backup writes a copy of the database, as it is at one moment, to a new file at path, which only its
// owner can read; [OpenSQLite] opens it. Others work on meanwhile, but the write-ahead log grows until the
// copy is done. Never copy the file of a running store by other means: the newest changes are not in it.
//
// The file gets its name only once it is complete, checked and synced; what a crash leaves has a name that
// ends in .partial. The errors are [os.ErrExist] where path exists, [ErrDamaged] and [ErrFull], those of
// package os, and that of ctx; after an error there is no file at path. The copy of a store in the host's
// database (see [NewSQLiteStore]) has the host's tables too.
//
// # What a restore sends again
//
// To restore a backup is to go back in time: events that were accepted since are not in it, and what was
// pending then is pending again, though it may have been delivered since. It is sent again, with the same
// webhook-id, by which receivers deduplicate. Events that were resent or deleted since are diverted again.
// To look first, call [SQLiteStore.DivertPending] before a dispatcher runs.
func (s *SQLiteStore) Backup(ctx context.Context, path string) error {
	if path == "" {
		return invalid("path", "must be the path of a file")
	}
	// Absolute, so that SQLite takes no part of it for anything else than a path.
	path, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("diverted: back up database: %w", err)
	}
	if _, err := os.Lstat(path); err == nil {
		return existsError(path)
	}
	// SQLite writes into a file that is there if it is empty: this one has its mode from the start.
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.partial")
	if err != nil {
		return fmt.Errorf("diverted: back up database: %w", err)
	}
	defer os.Remove(file.Name())
	defer file.Close()
	err = s.read(ctx, "back up database", func(db *sql.DB) error {
		conn, err := db.Conn(ctx)
		if err != nil {
			return err
		}
		defer discard(conn)
		// Readers refuse to write, even into another file.
		if _, err := conn.ExecContext(ctx, `PRAGMA query_only = 0`); err != nil {
			return err
		}
		_, err = conn.ExecContext(ctx, `VACUUM INTO ?`, file.Name())
		return err
	})
	if err != nil {
		return err
	}
	if err := checkBackup(ctx, file.Name()); err != nil {
		return sqliteError("check backup", err)
	}
	if err := errors.Join(file.Sync(), file.Close()); err != nil {
		return fmt.Errorf("diverted: back up database: %w", err)
	}
	return publishFile(file.Name(), path)
}

func existsError(path string) error {
	return fmt.Errorf("diverted: back up database: %w", &os.PathError{Op: "create", Path: path, Err: os.ErrExist})
}

func checkBackup(ctx context.Context, path string) error {
	db, err := sql.Open("sqlite", sqliteDSN(path)+"?mode=ro")
	if err != nil {
		return err
	}
	defer db.Close()
	return quickCheck(ctx, db)
}

// publishFile gives a file that is complete its name, and replaces none.
func publishFile(from, to string) error {
	err := os.Link(from, to)
	switch {
	case errors.Is(err, os.ErrExist):
		return existsError(to)
	case err != nil: // a file system without links
		if _, err := os.Lstat(to); err == nil {
			return existsError(to)
		}
		err = os.Rename(from, to)
	}
	if err == nil {
		err = syncDir(filepath.Dir(to))
	}
	if err != nil {
		return fmt.Errorf("diverted: back up database: %w", err)
	}
	return nil
}

// syncDir makes the names in a folder durable, where the system can.
func syncDir(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// divertStep is how many deliveries DivertPending diverts in one transaction.
const divertStep = 500

// DivertPending diverts the pending deliveries that were accepted before a moment, and returns how many, even
// with an error, after which it can be repeated. It is for those who restored a backup (see
// [SQLiteStore.Backup]) and would rather look than send again. Call it before a dispatcher runs: a delivery
// under way is diverted too, and the outcome of its attempt then changes nothing, so an event may be both
// delivered and diverted. The failure of each says why it was set aside, its number of attempts stays, and
// nobody is alerted. Others work on between its steps.
func (s *SQLiteStore) DivertPending(ctx context.Context, request DivertPendingRequest) (diverted int, err error) {
	if err := request.Validate(); err != nil {
		return 0, err
	}
	type pending struct {
		id, webhook int64
		event       []byte
	}
	const action = "divert pending deliveries"
	all := request.Webhook == WebhookKey{}
	before := millisUp(request.Before)
	var last int64 // what is accepted from now on is not looked at, so that this ends
	err = s.read(ctx, action, func(db *sql.DB) error {
		return scan(db.QueryRowContext(ctx, `SELECT coalesce(max(id), 0) FROM diverted_deliveries`), &last)
	})
	for after := int64(0); err == nil; {
		// Found by a reader, since it may have to look at many that are none.
		var step []pending
		err = s.read(ctx, action, func(db *sql.DB) error {
			rows, err := db.QueryContext(ctx, `
				SELECT id, webhook, event FROM diverted_deliveries
				WHERE id > ?1 AND id <= ?2 AND due IS NOT NULL AND accepted_at < ?3
				AND (?4 OR webhook = (SELECT id FROM diverted_webhooks WHERE tenant = ?5 AND locator = ?6 AND deleted = 0))
				ORDER BY id LIMIT ?7`,
				after, last, before, all, request.Webhook.Tenant[:], request.Webhook.Webhook[:], divertStep)
			if err != nil {
				return err
			}
			defer rows.Close()
			for rows.Next() {
				var p pending
				if err := scan(rows, &p.id, &p.webhook, &p.event); err != nil {
					return err
				}
				step = append(step, p)
			}
			return rows.Err()
		})
		if err != nil || len(step) == 0 {
			break
		}
		after = step[len(step)-1].id
		var n int
		err = s.write(ctx, action, func(tx *sqliteTx) error {
			n = 0
			failure := encodeFailure(tx.keep(request.Failure()))
			for _, p := range step {
				row := tx.webhookByID(p.webhook)
				if row == nil || len(p.event) != len(Key{}.Event) {
					continue // deleted meanwhile, or damaged
				}
				changed := tx.exec(`
					UPDATE diverted_deliveries SET due = NULL, token = NULL, losses = 0, failures = `+appendFailure+`, failure = ?, diverted_at = ?
					WHERE webhook = ? AND event = ? AND due IS NOT NULL AND accepted_at < ?`,
					failure, tx.now.UnixMilli(), p.webhook, p.event, before)
				if changed > 0 {
					n++
					tx.count(row.id, -1)
					tx.aside(row.id, request.Failure().Trigger, 1)
					tx.changed(ChangeDiverted, Key{row.webhook.Tenant, row.webhook.Locator, [16]byte(p.event)})
				}
			}
			return nil
		})
		if err == nil {
			diverted += n
		}
	}
	return diverted, err
}
