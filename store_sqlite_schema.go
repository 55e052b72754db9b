package diverted

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"time"

	"github.com/divertedevents/diverted/internal/migrations"
)

//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

// sqliteMinimums is, for each schema version, the oldest one whose release may open the database.
var sqliteMinimums = []int{1: 1, 2: 1, 3: 1, 4: 1}

// migrateSQLite brings the schema up to date. own says that the file has to be this library's alone.
func migrateSQLite(ctx context.Context, conn *sql.Conn, own bool) error {
	all, err := migrations.Load(sqliteMigrations, "migrations/sqlite", sqliteMinimums)
	if err != nil {
		return err
	}
	for {
		done, err := migrateStep(ctx, conn, own, all)
		if err != nil {
			return sqliteError("migrate database", err)
		}
		if done {
			return nil
		}
	}
}

// migrateStep applies the next migration, if there is one. It looks and changes in one transaction, since
// other processes may start at the same moment.
func migrateStep(ctx context.Context, conn *sql.Conn, own bool, all []migrations.Migration) (done bool, err error) {
	if _, err := conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		return false, err
	}
	defer func() {
		if err != nil {
			_, rollback := conn.ExecContext(context.WithoutCancel(ctx), "ROLLBACK")
			err = errors.Join(err, rollback)
		}
	}()
	version, minimum, err := schemaVersion(ctx, conn, own)
	if err != nil {
		return false, err
	}
	newest := len(all)
	if minimum > newest {
		return false, fmt.Errorf("%w: it has schema %d and needs a release that knows schema %d, this one knows %d", ErrTooNew, version, minimum, newest)
	}
	if version < newest {
		m := all[version]
		if _, err := conn.ExecContext(ctx, m.Script); err != nil {
			return false, fmt.Errorf("migration %d: %w", m.Version, err)
		}
		_, err := conn.ExecContext(ctx, `INSERT INTO diverted_migrations (version, minimum, applied_at) VALUES (?, ?, ?)`,
			m.Version, m.Minimum, time.Now().UnixMilli())
		if err != nil {
			return false, err
		}
	}
	if _, err := conn.ExecContext(ctx, "COMMIT"); err != nil {
		return false, err
	}
	return version+1 >= newest, nil
}

// schemaVersion returns the version of the schema and its minimum, 0 for an empty database, in which it
// begins the table of migrations.
func schemaVersion(ctx context.Context, conn *sql.Conn, own bool) (version, minimum int, err error) {
	var ours, others int
	err = conn.QueryRowContext(ctx, `
		SELECT count(*) FILTER (WHERE name = 'diverted_migrations'),
		       count(*) FILTER (WHERE name NOT LIKE 'diverted\_%' ESCAPE '\' AND name NOT LIKE 'sqlite\_%' ESCAPE '\')
		FROM sqlite_schema`).Scan(&ours, &others)
	if err != nil {
		return 0, 0, err
	}
	if own && others > 0 {
		return 0, 0, fmt.Errorf("%w: it has tables of another program; to share a database use NewSQLiteStore", ErrForeign)
	}
	if ours == 0 {
		_, err := conn.ExecContext(ctx, `CREATE TABLE diverted_migrations (
			version    INTEGER PRIMARY KEY,
			minimum    INTEGER NOT NULL,
			applied_at INTEGER NOT NULL
		) STRICT`)
		return 0, 0, err
	}
	err = conn.QueryRowContext(ctx, `SELECT coalesce(max(version), 0), coalesce(max(minimum), 0) FROM diverted_migrations`).
		Scan(&version, &minimum)
	return version, minimum, err
}
