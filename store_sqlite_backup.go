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
