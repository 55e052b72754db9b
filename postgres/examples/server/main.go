// Server is the service of the root module's examples/server, whose README.md tells the story, on PostgreSQL:
//
//	go run ./examples/server -addr 127.0.0.1:8080 -db postgres://localhost/mydb -tokens tokens.json
//
// Start it on as many machines as you like, with the same -db: they share the work.
package main

import (
	"context"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/examples/server/service"
	"github.com/divertedevents/diverted/postgres"
)

func main() {
	service.Main(service.Program{
		DB:    "postgres://127.0.0.1:5432/postgres",
		Usage: "`URL` of the PostgreSQL database; without a password in it, PGPASSWORD or ~/.pgpass is asked",
		Open:  open,
	})
}

func open(ctx context.Context, url string) (diverted.Store, error) {
	pool, err := pgxpool.New(ctx, url)
	if err != nil {
		return nil, err
	}
	store, err := postgres.Open(ctx, pool, postgres.Config{})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return ownStore{store, pool}, nil
}

// ownStore closes its pool, too.
type ownStore struct {
	*postgres.Store
	pool *pgxpool.Pool
}

func (s ownStore) Close() error {
	defer s.pool.Close()
	return s.Store.Close()
}
