package postgres_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/crashtest"
	"github.com/divertedevents/diverted/postgres"
)

// The server that the tests use: its URL is in DIVERTED_POSTGRES. They make a database of their own there,
// and a schema for each test, and drop it at the end. Without a server they say so and skip.
//
// Without TLS, since pgx cannot say goodbye on a TLS connection that was cancelled while it wrote, and then the end of
// its pool waits for 15 seconds.
const defaultServer = "postgres://postgres@127.0.0.1:5432/postgres?sslmode=disable"

var (
	server   *pgx.ConnConfig // nil: there is none
	database string
	schemas  atomic.Int64
)

func TestMain(m *testing.M) {
	crashtest.Service(openURL) // does not return in the process that is killed
	diesAfterCommit()          // likewise
	code := runTests(m)
	if err := goleak.Find(); err != nil && code == 0 { // no goroutine outlives what the tests started
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// openURL opens a store of which a URL says all: its fragment is the schema.
func openURL(ctx context.Context, dsn string) (diverted.Store, error) {
	url, schema, _ := strings.Cut(dsn, "#")
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, err
	}
	config.MaxConns = 8
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, err
	}
	s, err := postgres.Open(ctx, pool, postgres.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		pool.Close()
		return nil, err
	}
	return ownStore{s, pool}, nil
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

// urlOf is what openURL needs to open a schema of the tests' database.
func urlOf(schema string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(server.User, server.Password), Path: "/" + database, Fragment: schema}
	query := url.Values{"host": {server.Host}, "port": {fmt.Sprint(server.Port)}}
	if server.TLSConfig == nil {
		query.Set("sslmode", "disable")
	}
	u.RawQuery = query.Encode()
	return u.String()
}

func runTests(m *testing.M) int {
	address := os.Getenv("DIVERTED_POSTGRES")
	if address == "" {
		address = defaultServer
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	config, err := pgx.ParseConfig(address)
	if err != nil {
		fmt.Fprintln(os.Stderr, "DIVERTED_POSTGRES:", err)
		return 1
	}
	admin, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		fmt.Fprintf(os.Stderr, "No PostgreSQL answers at %s:%d, so these tests are skipped; name a server in DIVERTED_POSTGRES.\n", config.Host, config.Port)
		return m.Run()
	}
	defer admin.Close(context.Background())
	database = fmt.Sprintf("diverted_test_%d_%d", os.Getpid(), rand.IntN(1e6))
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+database); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// No test kills this server: those that do have one of their own, which keeps what it acknowledged. Here a commit
	// that waits for the disk only makes the tests slow.
	if _, err := admin.Exec(ctx, "ALTER DATABASE "+database+" SET synchronous_commit = off"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	server = config
	code := m.Run()
	if _, err := admin.Exec(context.Background(), "DROP DATABASE "+database+" WITH (FORCE)"); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return code
}

// newPool returns a pool of the tests' database.
func newPool(t testing.TB, change ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	if server == nil {
		t.Skip("no PostgreSQL server")
	}
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig = server.Copy()
	config.ConnConfig.Database = database
	config.MaxConns = 8
	for _, f := range change {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// newSchema returns a name that no other test has.
func newSchema() string { return fmt.Sprintf("test_%d", schemas.Add(1)) }

// open opens a store, which is closed at the end of the test.
func open(t testing.TB, pool *pgxpool.Pool, schema string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(context.Background(), pool, postgres.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}
