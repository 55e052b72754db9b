package diverted

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// Migrations are numbered files, each applied once, in one transaction, and never edited afterwards. A
// migration only adds, and says in migration.minimum which release's schema is the oldest that may still
// open the database: the minimum rises one release after the addition, so that a deploy can be rolled
// back.

//go:embed migrations/sqlite/*.sql
var sqliteMigrations embed.FS

type migration struct {
	version int
	// minimum is the oldest schema version that this one may be opened by.
	minimum int
	script  string
}

// sqliteMinimums is, for each schema version, the oldest one whose release may open the database.
var sqliteMinimums = map[int]int{1: 1, 2: 1, 3: 1, 4: 1}

func loadMigrations(files fs.FS, minimums map[int]int) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*/*.sql")
	if err != nil {
		return nil, err
	}
	var all []migration
	for i, name := range names {
		script, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		base := name[strings.LastIndexByte(name, '/')+1:]
		number, _, _ := strings.Cut(base, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 || minimums[version] == 0 {
			return nil, fmt.Errorf("diverted: migration %s: out of order, or without a minimum", base)
		}
		all = append(all, migration{version, minimums[version], string(script)})
	}
	return all, nil
}

// migrateSQLite brings the schema up to date. own says that the file has to be this library's alone.
func migrateSQLite(ctx context.Context, conn *sql.Conn, own bool) error {
	migrations, err := loadMigrations(sqliteMigrations, sqliteMinimums)
	if err != nil {
		return err
	}
	for {
		done, err := migrateStep(ctx, conn, own, migrations)
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
func migrateStep(ctx context.Context, conn *sql.Conn, own bool, migrations []migration) (done bool, err error) {
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
	newest := len(migrations)
	if minimum > newest {
		return false, fmt.Errorf("%w: it has schema %d and needs a release that knows schema %d, this one knows %d", ErrTooNew, version, minimum, newest)
	}
	if version < newest {
		m := migrations[version]
		if _, err := conn.ExecContext(ctx, m.script); err != nil {
			return false, fmt.Errorf("migration %d: %w", m.version, err)
		}
		_, err := conn.ExecContext(ctx, `INSERT INTO diverted_migrations (version, minimum, applied_at) VALUES (?, ?, ?)`,
			m.version, m.minimum, time.Now().UnixMilli())
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
