package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
)

// The rows of PostgreSQL need a server, named by the URL in DIVERTED_POSTGRES. Each probe makes a database of
// its own there, and drops it at the end.
const defaultServer = "postgres://postgres@127.0.0.1:5432/postgres"

// poolSize is how many connections each process has, ours and the peer's.
const poolSize = 16

// errNoServer says that a row cannot be measured here.
var errNoServer = errors.New("skipped: no PostgreSQL server answers; name one in DIVERTED_POSTGRES")

// pgDatabase is a new database, and its URL.
type pgDatabase struct {
	url   string
	admin *pgx.Conn
	name  string
}

func newDatabase(p *probe) (*pgDatabase, error) {
	server := os.Getenv("DIVERTED_POSTGRES")
	if server == "" {
		server = defaultServer
	}
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	u, err := url.Parse(server)
	if err != nil {
		return nil, err
	}
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		return nil, errNoServer
	}
	d := &pgDatabase{admin: admin, name: fmt.Sprintf("diverted_bench_%d", os.Getpid())}
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+d.name); err != nil {
		return nil, errors.Join(err, admin.Close(ctx))
	}
	var version float64
	if err := admin.QueryRow(ctx, "SELECT current_setting('server_version_num')::float8").Scan(&version); err != nil {
		return nil, errors.Join(err, d.drop())
	}
	p.set("server", version)
	u.Path = "/" + d.name
	d.url = u.String()
	return d, nil
}

func (d *pgDatabase) drop() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	defer d.admin.Close(ctx)
	_, err := d.admin.Exec(ctx, "DROP DATABASE "+d.name+" WITH (FORCE)")
	return err
}

// openPool opens a pool as everybody gets it.
func openPool(ctx context.Context, url string) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = poolSize
	config.ConnConfig.RuntimeParams["synchronous_commit"] = "on"
	return pgxpool.NewWithConfig(ctx, config)
}

// pooled is a store with the pool that it is on.
type pooled struct {
	*postgres.Store
	pool *pgxpool.Pool
}

func (s pooled) Close() error {
	defer s.pool.Close()
	return s.Store.Close()
}

// openStore opens the store of a database.
func openStore(ctx context.Context, url string) (diverted.Store, error) {
	pool, err := openPool(ctx, url)
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, pool, postgres.Config{})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return pooled{store, pool}, nil
}

// withPostgres has a probe, which opens its store by openOurs, measure the store in PostgreSQL.
func withPostgres(measure func(*probe) error) func(*probe) error {
	return func(p *probe) error {
		d, err := newDatabase(p)
		if err != nil {
			return err
		}
		p.postgres = d.url
		return errors.Join(measure(p), d.drop())
	}
}
