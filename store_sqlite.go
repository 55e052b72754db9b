package diverted

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite"

	"github.com/divertedevents/diverted/internal/watchers"
)

// SQLiteStore is a [Store] in an SQLite database: the embedded default. Several processes on one machine
// may use one file; put it on a local disk, since file locks of network file systems are not to be
// trusted.
//
// All writing goes through one connection and one goroutine, which merges what many callers ask into one
// transaction: with synchronous=FULL each commit costs an fsync, so the batch and not the row sets the
// speed. Reading has connections of its own and never waits for writing.
type SQLiteStore struct {
	readers *sql.DB
	often   *sqliteStatements // of readers
	writer  *sqliteWriter
	owned   []*sql.DB // closed by Close

	watchers watchers.Watchers[Change]

	// Every method holds mu for reading, Close for writing: it waits for the calls under way.
	mu     sync.RWMutex
	closed bool
}

var (
	_ Store          = (*SQLiteStore)(nil)
	_ Watcher        = (*SQLiteStore)(nil)
	_ BulkStore      = (*SQLiteStore)(nil)
	_ StatsStore     = (*SQLiteStore)(nil)
	_ RetentionStore = (*SQLiteStore)(nil)
)

// sqlitePragmas are what a writing connection must have, as PRAGMA answers it.
var sqlitePragmas = []struct{ name, value, answer string }{
	{"busy_timeout", "5000", "5000"},
	{"journal_mode", "WAL", "wal"},
	{"synchronous", "FULL", "2"},
	{"foreign_keys", "1", "1"},
	{"journal_size_limit", "16777216", "16777216"}, // of the write-ahead log's file, once a long reader is done
}

// OpenSQLite opens the SQLite database at path, and creates it if there is none, readable by its owner
// alone. The file is this library's own; to share a database with the host's tables use [NewSQLiteStore].
//
// The errors are [ErrInvalid] for a path that is empty or a DSN, [ErrForeign] for a file of another
// program, [ErrTooNew] for one that a newer release wrote, [ErrDamaged], [ErrReadOnly], [ErrLocked] for one
// that another process holds for longer than 5 s, [ErrUnsupported] for a file system without write-ahead
// logging, and those of package os.
func OpenSQLite(ctx context.Context, path string) (*SQLiteStore, error) {
	if path == "" || strings.HasPrefix(path, ":memory:") || strings.HasPrefix(path, "file:") {
		return nil, invalid("path", "must be the path of a file, and no DSN; for a database that you open yourself use NewSQLiteStore, "+
			"for a store in memory NewMemoryStore")
	}
	if err := createFile(path); err != nil {
		return nil, sqliteError("open database", err)
	}

	dsn := sqliteDSN(path)
	write, err := sql.Open("sqlite", dsn+"?mode=rw&_auto_vacuum=INCREMENTAL&_txlock=immediate"+
		"&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)")
	if err != nil {
		return nil, sqliteError("open database", err)
	}
	write.SetMaxOpenConns(1)
	read, err := sql.Open("sqlite", dsn+"?mode=rw&_pragma=busy_timeout(5000)&_query_only=1")
	if err != nil {
		write.Close()
		return nil, sqliteError("open database", err)
	}
	readers := max(4, runtime.GOMAXPROCS(0))
	read.SetMaxOpenConns(readers)
	read.SetMaxIdleConns(readers) // a new one would have to plan its statements
	read.SetConnMaxIdleTime(time.Minute)

	s, err := newSQLiteStore(ctx, write, read, true)
	if err != nil {
		read.Close()
		write.Close()
		return nil, err
	}
	s.owned = []*sql.DB{read, write}
	return s, nil
}

// creating is held while a file is looked for and created.
var creating sync.Mutex

// createFile creates the file if there is none: not SQLite does, so that no moment passes in which others may
// read the secrets in it. One that is there is not opened, since closing it would end the locks that another
// store of this process has on it, and the next process that comes by would take the file for unused.
func createFile(path string) error {
	creating.Lock()
	defer creating.Unlock()
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return &os.PathError{Op: "open", Path: path, Err: syscall.EISDIR}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	switch {
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w: %w", ErrReadOnly, err)
	case err != nil:
		return err
	}
	return file.Close()
}

// sqliteDSN returns a path as the driver wants it: without file: it would be taken without its options,
// silently.
func sqliteDSN(path string) string {
	return "file:" + strings.NewReplacer("%", "%25", "?", "%3f", "#", "%23").Replace(path)
}

// NewSQLiteStore makes a store in a database that the host has open, beside the host's own tables, so
// that [SQLiteStore.SendTx] and [SQLiteStore.PublishTx] can be part of its transactions. Everything of
// the store is in tables whose names begin with diverted_.
//
// db must be opened with the driver "sqlite" of modernc.org/sqlite, which importing this package registers. It
// must be a file in WAL mode with a busy_timeout, and allow at least two connections, one of which the store
// keeps for itself until Close, with settings of its own. Close leaves db open. The errors are [ErrUnsupported]
// for another driver or setup, and those of [OpenSQLite].
//
// The store writes whenever something is accepted or settled, so give the host's connections these settings of
// the driver:
//
//	file:app.db?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate
//
// Without a busy_timeout the host's transactions would fail at once with SQLITE_BUSY where they write while
// the store does. Without _txlock=immediate a transaction that reads before it writes fails with SQLITE_BUSY
// if the store wrote in between, and no timeout helps.
func NewSQLiteStore(ctx context.Context, db *sql.DB) (*SQLiteStore, error) {
	if db == nil {
		return nil, invalid("db", "must not be nil")
	}
	if _, ok := db.Driver().(*sqlite.Driver); !ok {
		return nil, fmt.Errorf("diverted: %w: the driver must be modernc.org/sqlite, was %T", ErrUnsupported, db.Driver())
	}
	if n := db.Stats().MaxOpenConnections; n == 1 {
		return nil, fmt.Errorf("diverted: %w: the pool must allow at least 2 connections, since the store keeps one, was 1", ErrUnsupported)
	}
	return newSQLiteStore(ctx, db, db, false)
}

func newSQLiteStore(ctx context.Context, write, read *sql.DB, own bool) (*SQLiteStore, error) {
	conn, err := prepareSQLite(ctx, write, own)
	if err != nil {
		return nil, err
	}
	s := &SQLiteStore{readers: read, often: newSQLiteStatements(read)}
	s.writer, err = newSQLiteWriter(ctx, conn, own, s.watchers.Tell)
	if err != nil {
		discard(conn)
		return nil, err
	}
	go s.writer.run()
	return s, nil
}

// openPatience is how long to wait for others that open the same file.
const openPatience = 5 * time.Second

// prepareSQLite returns the writing connection, set up, with the schema up to date. It is patient with a
// lock: SQLite does not wait by itself where several connections switch a new file to WAL at once.
func prepareSQLite(ctx context.Context, db *sql.DB, own bool) (*sql.Conn, error) {
	patience := time.Now().Add(openPatience)
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		conn, err := db.Conn(ctx)
		if err == nil {
			if err = setUpSQLite(ctx, conn, own); err == nil {
				return conn, nil
			}
			discard(conn)
		}
		err = sqliteError("open database", err)
		if !errors.Is(err, ErrLocked) || time.Now().After(patience) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// setUpSQLite sets the pragmas of the writing connection, verifies them, and migrates the schema.
func setUpSQLite(ctx context.Context, conn *sql.Conn, own bool) error {
	var file string
	if err := conn.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&file); err != nil {
		return sqliteError("open database", err)
	}
	if file == "" {
		return fmt.Errorf("%w: the database must be a file; for a store in memory use NewMemoryStore", ErrUnsupported)
	}
	if !own {
		// The connection is one of the host's still, and like its others.
		var timeout int
		if err := conn.QueryRowContext(ctx, "PRAGMA busy_timeout").Scan(&timeout); err != nil {
			return sqliteError("open database", err)
		}
		if timeout == 0 {
			return fmt.Errorf("%w: the host's connections must wait while the store writes; the DSN says so by _pragma=busy_timeout(5000)", ErrUnsupported)
		}
	}
	for _, p := range sqlitePragmas {
		// The host's database keeps the journal mode that the host chose; the rest is the connection's alone.
		if own || p.name != "journal_mode" {
			if _, err := conn.ExecContext(ctx, "PRAGMA "+p.name+" = "+p.value); err != nil {
				return sqliteError("open database", err)
			}
		}
		var answer string
		if err := conn.QueryRowContext(ctx, "PRAGMA "+p.name).Scan(&answer); err != nil {
			return sqliteError("open database", err)
		}
		if answer != p.answer {
			return fmt.Errorf("%w: PRAGMA %s must be %s, is %s; the DSN sets it by _pragma=%s(%s)",
				ErrUnsupported, p.name, p.answer, answer, p.name, p.value)
		}
	}
	return migrateSQLite(ctx, conn, own)
}

// discard ends a connection for good, so that no pool goes on with the store's settings.
func discard(conn *sql.Conn) error {
	err := conn.Raw(func(any) error { return driver.ErrBadConn })
	if errors.Is(err, driver.ErrBadConn) {
		err = nil
	}
	return errors.Join(err, ignoreDone(conn.Close()))
}

func ignoreDone(err error) error {
	if errors.Is(err, sql.ErrConnDone) {
		return nil
	}
	return err
}

// Close waits for the calls under way and closes the store. Closing again returns nil.
func (s *SQLiteStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	err := errors.Join(s.writer.close(), s.often.close())
	for _, db := range s.owned {
		err = errors.Join(err, db.Close())
	}
	if err != nil {
		return sqliteError("close database", err)
	}
	return nil
}

// Check reads the whole database, and returns an [ErrDamaged] if it is corrupt. It takes about a second for
// a gigabyte, and others work on meanwhile.
func (s *SQLiteStore) Check(ctx context.Context) error {
	return s.read(ctx, "check database", func(db *sql.DB) error { return quickCheck(ctx, db) })
}

func quickCheck(ctx context.Context, db *sql.DB) error {
	var answer string
	if err := db.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&answer); err != nil {
		return err
	}
	if answer != "ok" {
		return ErrDamaged
	}
	return nil
}

// Watch implements [Watcher].
func (s *SQLiteStore) Watch(f func(Change)) (stop func()) { return s.watchers.Add(f) }

// read runs a query outside of the writer.
func (s *SQLiteStore) read(ctx context.Context, action string, query func(db *sql.DB) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return closedError(action)
	}
	err := s.writer.moved()
	if err == nil {
		err = query(s.readers)
	}
	return sqliteError(action, err)
}

// snapshot runs queries that must see one state of the database, outside of the writer.
func (s *SQLiteStore) snapshot(ctx context.Context, action string, query func(tx *sql.Tx) error) error {
	return s.read(ctx, action, func(db *sql.DB) error {
		tx, err := db.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
		if err != nil {
			return err
		}
		defer tx.Rollback() // there is nothing to commit
		return query(tx)
	})
}

// write runs apply in a transaction, together with what others write at this moment, and returns when it
// is committed. apply may run more than once, and then begins anew; it must not keep what it did before.
// If it returns an error it must have changed nothing; the error is returned as it is.
func (s *SQLiteStore) write(ctx context.Context, action string, apply func(tx *sqliteTx) error) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return closedError(action)
	}
	if err := s.writer.do(ctx, apply); err != nil {
		return sqliteError(action, err)
	}
	return nil
}

func closedError(action string) error {
	return fmt.Errorf("diverted: %s: store: %w", action, ErrClosed)
}

// millis and fromMillis convert times to the database's and back; the zero time is 0.
func millis(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func fromMillis(ms int64) time.Time {
	if ms == 0 {
		return time.Time{}
	}
	return time.UnixMilli(ms).UTC()
}

// millisUp rounds up, so that nothing is due too early.
func millisUp(t time.Time) int64 { return t.Add(time.Millisecond - 1).UnixMilli() }
