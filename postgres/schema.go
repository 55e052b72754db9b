package postgres

import (
	"context"
	"embed"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/migrations"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// minimums is, for each schema version, the oldest one whose release may open the database.
var minimums = []int{1: 1, 2: 1, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}

// oldestServer is the server_version_num of PostgreSQL 13.
const oldestServer = 130000

// withoutTimeouts ends, for a transaction, the bounds that the host may have set for its own.
const withoutTimeouts = `
	SELECT set_config(name, '0', true) FROM pg_settings
	WHERE name IN ('statement_timeout', 'lock_timeout', 'transaction_timeout')`

// migrate looks at the server, and brings the schema up to date.
func (s *Store) migrate(ctx context.Context) error {
	if err := s.checkServer(ctx); err != nil {
		return err
	}
	all, err := migrations.Load(migrationFiles, "migrations", minimums)
	if err != nil {
		return err
	}
	for {
		// Without a lock, and without the right to create anything, where there is nothing to do.
		done := false
		err := s.repeat(ctx, func(ctx context.Context, conn *pgxpool.Conn) (err error) {
			version, err := s.schemaVersion(ctx, conn, len(all))
			done = version >= len(all)
			return err
		})
		if err != nil || done {
			return err
		}
		if err := s.migrateStep(ctx, all); err != nil {
			return err
		}
	}
}

// aServer is what matters of a server, and of the database on it.
type aServer struct {
	version  int // server_version_num
	encoding string
	standby  bool
	readOnly bool
}

func (s *Store) checkServer(ctx context.Context) error {
	var a aServer
	err := s.repeat(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		return conn.QueryRow(ctx, `
			SELECT current_setting('server_version_num')::int, current_setting('server_encoding'),
			       pg_is_in_recovery(), current_setting('transaction_read_only')::bool`).Scan(&a.version, &a.encoding, &a.standby, &a.readOnly)
	})
	if err != nil {
		return err
	}
	return a.check()
}

// check returns nil if a store can be on the server.
func (a aServer) check() error {
	switch {
	case a.version < oldestServer:
		return fmt.Errorf("%w: the server must be PostgreSQL 13 or later, was %d.%d", diverted.ErrUnsupported, a.version/10000, a.version%10000)
	case a.encoding != "UTF8":
		return fmt.Errorf("%w: the encoding of the database must be UTF8, was %s", diverted.ErrUnsupported, a.encoding)
	case a.standby:
		return fmt.Errorf("%w: the server is a standby", diverted.ErrReadOnly)
	case a.readOnly:
		return fmt.Errorf("%w: default_transaction_read_only is on", diverted.ErrReadOnly)
	}
	return nil
}

// schemaVersion returns the version of the schema, 0 if there is none, and an error if it is not for a
// release that knows newest.
func (s *Store) schemaVersion(ctx context.Context, conn *pgxpool.Conn, newest int) (int, error) {
	var ours bool
	var tables int
	err := conn.QueryRow(ctx, `
		SELECT count(*), coalesce(bool_or(c.relname = 'migrations' AND EXISTS (
			SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'minimum')), false)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')`, s.schema).Scan(&tables, &ours)
	if err != nil || tables == 0 {
		return 0, err
	}
	if !ours {
		return 0, fmt.Errorf("%w: the schema %q has tables of another program; name another one in Config.Schema", diverted.ErrForeign, s.schema)
	}
	var version, minimum int
	err = conn.QueryRow(ctx, s.q(`SELECT coalesce(max(version), 0), coalesce(max(minimum), 0) FROM diverted.migrations`)).Scan(&version, &minimum)
	if err == nil && minimum > newest {
		err = fmt.Errorf("%w: it has schema %d and needs a release that knows schema %d, this one knows %d", diverted.ErrTooNew, version, minimum, newest)
	}
	return version, err
}

// migrateStep applies the next migration, if there still is one once nobody else migrates. It takes as long
// as the database is large, here or in another process, and so nothing but ctx bounds it.
func (s *Store) migrateStep(ctx context.Context, all []migrations.Migration) error {
	return s.repeatWithin(ctx, unbounded, transaction(func(ctx context.Context, conn *pgxpool.Conn) error {
		if _, err := conn.Exec(ctx, withoutTimeouts); err != nil {
			return err
		}
		if _, err := conn.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, s.lock); err != nil {
			return err
		}
		version, err := s.schemaVersion(ctx, conn, len(all))
		if err != nil || version >= len(all) {
			return err
		}
		exists, err := s.mayCreate(ctx, conn)
		if err != nil {
			return err
		}
		quoted := pgx.Identifier{s.schema}.Sanitize()
		begin := `SET LOCAL search_path TO ` + quoted
		if !exists {
			begin = `CREATE SCHEMA ` + quoted + `; ` + begin
		}
		if version == 0 {
			begin += `; CREATE TABLE IF NOT EXISTS migrations (
				version    integer     PRIMARY KEY,
				minimum    integer     NOT NULL,
				applied_at timestamptz NOT NULL DEFAULT now()
			)`
		}
		m := all[version]
		// The simple protocol takes several statements at once.
		if _, err := conn.Conn().PgConn().Exec(ctx, begin+"; "+m.Script).ReadAll(); err != nil {
			return fmt.Errorf("migration %d: %w", m.Version, err)
		}
		_, err = conn.Exec(ctx, s.q(`INSERT INTO diverted.migrations (version, minimum) VALUES ($1, $2)`), m.Version, m.Minimum)
		return err
	}))
}

// mayCreate says whether the schema exists, and returns an error if the role may not create what is missing.
func (s *Store) mayCreate(ctx context.Context, conn *pgxpool.Conn) (exists bool, err error) {
	var role, db string
	var inDB, inSchema pgtype.Bool
	err = conn.QueryRow(ctx, `
		SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE'), n.oid IS NOT NULL,
		       has_schema_privilege(n.oid, 'USAGE') AND has_schema_privilege(n.oid, 'CREATE')
		FROM (SELECT) one LEFT JOIN pg_namespace n ON n.nspname = $1`, s.schema).Scan(&role, &db, &inDB, &exists, &inSchema)
	switch {
	case err != nil:
		return false, err
	case exists && !inSchema.Bool:
		err = fmt.Errorf("%w: the role %q needs the rights USAGE and CREATE on the schema %q", diverted.ErrUnsupported, role, s.schema)
	case !exists && !inDB.Bool:
		err = fmt.Errorf("%w: the role %q needs the right CREATE on the database %q, or a schema %q in which it may create",
			diverted.ErrUnsupported, role, db, s.schema)
	}
	return exists, err
}
