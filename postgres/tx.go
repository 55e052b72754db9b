package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// patience bounds a transaction, with the wait for a connection of the pool, so that a server that does
	// not answer holds up nobody for ever.
	patience = 30 * time.Second
	// unbounded is the patience of what takes as long as the database is large: its context alone ends it.
	unbounded = time.Duration(0)
	// repetitions is how often a transaction is repeated that may be.
	repetitions = 6
)

// The statements around every transaction. The host may have set another isolation for its connections.
const (
	beginTx  = `BEGIN ISOLATION LEVEL READ COMMITTED`
	beginRO  = `BEGIN ISOLATION LEVEL READ COMMITTED READ ONLY`
	commitTx = `COMMIT`

	// byIndex has the planner use the indexes, in their order. The tables grow from nothing to millions of
	// rows and shrink again faster than statistics follow, and prepared statements keep their plans.
	byIndex = `SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
		set_config('enable_sort', 'off', true), set_config('enable_hashjoin', 'off', true),
		set_config('enable_mergejoin', 'off', true), set_config('jit', 'off', true),
		set_config('plan_cache_mode', 'force_generic_plan', true)`
)

// batch runs what queue adds in one transaction and one round trip. queue may be called again when the
// transaction is repeated, and then begins anew; so do the functions that read the results.
func (s *Store) batch(ctx context.Context, begin string, queue func(b *pgx.Batch)) error {
	return s.repeat(ctx, func(ctx context.Context, conn *pgxpool.Conn) error {
		b := new(pgx.Batch)
		b.Queue(begin)
		queue(b)
		committed := false
		b.Queue(commitTx).Exec(func(tag pgconn.CommandTag) error {
			committed = tag.String() == commitTx
			return nil
		})
		err := conn.SendBatch(ctx, b).Close()
		if err != nil && !committed { // else the connection broke afterwards
			rollback(conn)
			return err
		}
		return nil
	})
}

// read runs queries that change nothing in one round trip.
func (s *Store) read(ctx context.Context, queue func(b *pgx.Batch)) error {
	return s.batch(ctx, beginRO, func(b *pgx.Batch) {
		b.Queue(byIndex)
		queue(b)
	})
}

// transact runs f in a transaction, for what needs several round trips. f may run more than once.
func (s *Store) transact(ctx context.Context, f func(ctx context.Context, tx *pgxpool.Conn) error) error {
	return s.repeatWithin(ctx, patience, transaction(f))
}

// transaction returns a function that runs f in a transaction of its connection.
func transaction(f func(ctx context.Context, tx *pgxpool.Conn) error) func(ctx context.Context, conn *pgxpool.Conn) error {
	return func(ctx context.Context, conn *pgxpool.Conn) error {
		_, err := conn.Exec(ctx, beginTx)
		if err == nil {
			err = f(ctx, conn)
		}
		if err != nil {
			rollback(conn)
			return err
		}
		tag, err := conn.Exec(ctx, commitTx)
		switch {
		case tag.String() == commitTx:
			return nil // if the connection broke, it was afterwards
		case err != nil:
			return commitError{err}
		}
		return fmt.Errorf("the transaction was rolled back: %s", tag)
	}
}

// commitError is a failure to commit.
type commitError struct{ error }

func (e commitError) Unwrap() error { return e.error }

// rollback ends a transaction that failed. If that fails too the pool discards the connection.
func rollback(conn *pgxpool.Conn) {
	if conn.Conn().IsClosed() || conn.Conn().PgConn().TxStatus() == 'I' {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_, _ = conn.Exec(ctx, `ROLLBACK`)
}

// repeat runs f with a connection until it succeeds, or must not be repeated.
func (s *Store) repeat(ctx context.Context, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	return s.repeatWithin(ctx, patience, f)
}

// repeatWithin is repeat with a patience for each time.
func (s *Store) repeatWithin(ctx context.Context, patience time.Duration, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	for n := 0; ; n++ {
		err := s.once(ctx, patience, f)
		if err == nil || n == repetitions || !repeatable(err) {
			return err
		}
		if ended := pause(ctx, time.Duration(1+rand.IntN(4<<n))*time.Millisecond); ended != nil {
			return errors.Join(ended, err)
		}
	}
}

// pause waits for a time, and returns the error of ctx if that ends first.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *Store) once(ctx context.Context, patience time.Duration, f func(ctx context.Context, conn *pgxpool.Conn) error) error {
	bounded := ctx
	if patience != unbounded {
		var cancel context.CancelFunc
		bounded, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	conn, err := s.pool.Acquire(bounded)
	if err == nil {
		defer conn.Release()
		err = f(bounded, conn)
	}
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return fmt.Errorf("no answer within %s: %w", patience, err)
	}
	return err
}
