package diverted

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"github.com/divertedevents/diverted/internal/turns"
)

// maxMerged bounds the calls that share a transaction, and with it the time that one of them waits for
// the others.
const maxMerged = 256

// sqliteWriter is the one goroutine that writes. It takes all calls that wait, runs them in one
// transaction, and answers them when it is committed. What it remembers between transactions are hints
// and copies, which forget throws away whenever a transaction fails.
type sqliteWriter struct {
	conn  *sql.Conn
	file  string      // the database's
	ours  os.FileInfo // of the file that conn has open
	stmts map[string]*sql.Stmt
	tell  func(...Change)

	calls  chan *sqliteCall
	served []*sqliteCall // reused
	done   chan struct{}
	err    error // of the connection's end; read after done

	cache      webhookCache
	turns      *turns.Turns[int64]     // by the webhook's row id
	pending    map[int64]*pendingCount // by the webhook's row id, of those that a bound was asked for
	asides     map[int64]*asideCount   // by the webhook's row id, of those that statistics were asked of
	activity   map[int64]*activity     // by the webhook's row id, what is not written yet
	wroteAt    time.Time               // when it was written last
	wrote      atomic.Int64            // how often, for those who read it beside the writer
	tokens     int64                   // the last one given out
	dataSeen   int64                   // PRAGMA data_version at the last transaction
	generation int64                   // diverted_state.generation of what cache holds
	foreign    bool                    // other connections wrote since the last scan: they may have added what is due
	rescan     bool                    // what turns and nextNotice say may be too late
	nextNotice int64                   // when the next notice is due, in milliseconds; negative: there is none
	wall       func() time.Time        // the wall clock; tests set it
	clock      time.Time               // the wall clock at the last commit, to notice that it was set back
	clockAt    time.Time               // the same moment, by the monotonic clock
	purge      []int64                 // deleted webhooks whose rows are still there

	purgeUnknown bool  // purge may lack some, or have too many
	own          bool  // the file is this library's alone
	freed        int64 // rows deleted since free pages were last looked for
	shrunk       bool  // free pages were given back since the last checkpoint
}

// sqliteCall is one caller's share of a transaction.
type sqliteCall struct {
	apply   func(tx *sqliteTx) error
	begun   atomic.Bool // by the writer, or by the caller that gave up first
	err     error
	changes []Change
	done    chan struct{}
}

// sqliteTx is a transaction of the writer, as one call sees it.
type sqliteTx struct {
	*sqliteWriter
	now   time.Time
	call  *sqliteCall
	host  *sql.Tx // the host's transaction that it is; nil: it is the writer's own
	size  int64   // of the database's pages in use when the transaction began; 0: not looked yet
	grown int64   // by the bodies that were accepted since
	fault error   // the first failure of SQLite itself: the transaction is lost

	happened      []happening // to be counted after the commit
	wroteActivity bool
	began         time.Time // by both clocks: the wall clock's is now
	beganAt       time.Time
}

func newSQLiteWriter(ctx context.Context, conn *sql.Conn, own bool, tell func(...Change)) (*sqliteWriter, error) {
	w := &sqliteWriter{
		conn:  conn,
		stmts: make(map[string]*sql.Stmt),
		own:   own,
		tell:  tell,
		calls: make(chan *sqliteCall, maxMerged),
		done:  make(chan struct{}),
		turns: new(turns.Turns[int64]),

		activity: make(map[int64]*activity),
		wall:     time.Now,
		tokens:   rand.Int64N(1 << 62), // so that no two processes give out the same
		rescan:   true,
	}
	if err := w.identify(ctx); err != nil {
		return nil, sqliteError("open database", err)
	}
	w.forget()
	// What processes before left: leases that end too far ahead, webhooks that were not purged, free pages.
	opening := &sqliteCall{apply: func(tx *sqliteTx) error {
		tx.voidDues()
		tx.freedRows(shrinkAfter)
		return nil
	}}
	return w, sqliteError("open database", w.transact1(opening))
}

// identify remembers which file is open.
func (w *sqliteWriter) identify(ctx context.Context) (err error) {
	err = w.conn.QueryRowContext(ctx, `SELECT file FROM pragma_database_list WHERE name = 'main'`).Scan(&w.file)
	if err == nil {
		w.ours, err = os.Stat(w.file)
	}
	return err
}

// moved returns an error if the file is no longer where it was opened. SQLite would write on, into a file
// without a name that ends with the process.
func (w *sqliteWriter) moved() error {
	there, err := os.Stat(w.file)
	if err == nil && os.SameFile(there, w.ours) {
		return nil
	}
	return fmt.Errorf("%w: its file was removed, moved or replaced while it was open", ErrReadOnly)
}

// do has apply run by the writer, and waits for the commit or for ctx.
func (w *sqliteWriter) do(ctx context.Context, apply func(tx *sqliteTx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	call := &sqliteCall{apply: apply, done: make(chan struct{})}
	select {
	case w.calls <- call:
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-call.done:
		return call.err
	case <-ctx.Done():
		call.begun.Swap(true) // if the writer has not begun yet, it leaves the call out
		return ctx.Err()
	}
}

// close ends the goroutine and the connection. No call may be under way.
func (w *sqliteWriter) close() error {
	close(w.calls)
	<-w.done
	return w.err
}

func (w *sqliteWriter) run() {
	defer close(w.done)
	for {
		call, open := w.wait()
		if !open {
			break
		}
		w.serve(call)
	}
	if len(w.activity) > 0 {
		// Numbers alone: Close does not fail for them.
		_ = w.transact1(&sqliteCall{apply: (*sqliteTx).writeActivity})
	}
	for _, stmt := range w.stmts {
		w.err = errors.Join(w.err, stmt.Close())
	}
	w.err = errors.Join(w.err, discard(w.conn))
}

// wait returns the next call. While there is none it purges deleted webhooks and gives space back, in small
// steps.
func (w *sqliteWriter) wait() (call *sqliteCall, open bool) {
	for {
		var step func(*sqliteTx) error
		var quiet time.Duration
		switch {
		case len(w.purge) > 0:
			step = (*sqliteTx).purgeStep
		case w.freed >= shrinkAfter:
			step, quiet = (*sqliteTx).shrink, shrinkQuiet
		case len(w.activity) > 0:
			step, quiet = (*sqliteTx).writeActivity, activityQuiet
		default:
			call, open = <-w.calls
			return call, open
		}
		select {
		case call, open = <-w.calls:
			return call, open
		default:
		}
		if quiet > 0 {
			select {
			case call, open = <-w.calls:
				return call, open
			case <-time.After(quiet):
			}
		}
		if err := w.transact1(&sqliteCall{apply: step}); err != nil {
			call, open = <-w.calls // the disk has trouble: try again after the next call
			return call, open
		}
		if w.shrunk && w.freed < shrinkAfter {
			w.shrunk = false
			w.checkpoint()
		}
	}
}

// serve runs a call, and those that come until it is done, in one transaction and answers them. If it fails, each
// call gets one of its own, so that the fault of one, such as a row too large for the disk, is not that of the others.
func (w *sqliteWriter) serve(call *sqliteCall) {
	if call.begun.Swap(true) {
		return
	}
	served, err := w.transact(append(w.served[:0], call), w.next)
	var begin beginError
	switch {
	case err == nil:
	case errors.As(err, &begin):
		for call := w.next(); call != nil; call = w.next() {
			served = append(served, call) // it would find the same
		}
		for _, call := range served {
			call.err = err
		}
	case len(served) == 1:
		call.err = err
	default:
		for _, call := range served {
			call.err = w.transact1(call)
		}
	}
	for _, call := range served {
		if call.err == nil && len(call.changes) > 0 {
			w.tell(call.changes...)
		}
		close(call.done)
	}
	clear(served)
	w.served = served[:0]
}

// next begins a call that waits, and returns nil if there is none.
func (w *sqliteWriter) next() *sqliteCall {
	for {
		select {
		case call, open := <-w.calls:
			if !open {
				return nil // wait sees it
			}
			if !call.begun.Swap(true) {
				return call
			}
		default:
			return nil
		}
	}
}

// awaited says whether another call waits.
func (w *sqliteWriter) awaited() bool { return len(w.calls) > 0 }

// beginError is a failure to begin: no call is at fault, and none was run.
type beginError struct{ error }

func (e beginError) Unwrap() error { return e.error }

// transact1 runs a call in a transaction of its own.
func (w *sqliteWriter) transact1(call *sqliteCall) error {
	_, err := w.transact([]*sqliteCall{call}, func() *sqliteCall { return nil })
	return cmp.Or(err, call.err)
}

// transact runs the one call in a transaction, and those that next returns, and returns all that it ran. On an error
// nothing is changed, and call.err is not that error.
func (w *sqliteWriter) transact(served []*sqliteCall, next func() *sqliteCall) (_ []*sqliteCall, err error) {
	if err := w.moved(); err != nil {
		return served, beginError{err}
	}
	tx := &sqliteTx{sqliteWriter: w, now: w.wall()}
	if tx.exec("BEGIN IMMEDIATE"); tx.fault != nil {
		return served, beginError{tx.fault}
	}
	defer func() {
		if err != nil {
			w.forget()
			if _, rollback := w.conn.ExecContext(context.Background(), "ROLLBACK"); rollback != nil && !isNoTransaction(rollback) {
				err = errors.Join(err, rollback)
			}
		}
	}()
	tx.notice()
	for call := served[0]; call != nil; {
		if tx.fault != nil {
			return served, tx.fault
		}
		tx.call, call.err, call.changes = call, nil, nil
		call.err = call.apply(tx)
		if len(served) == maxMerged {
			break
		}
		if call = next(); call != nil {
			served = append(served, call)
			tx.now = w.wall()
		}
	}
	if tx.fault == nil && !tx.wroteActivity && len(tx.activity) > 0 && tx.now.Sub(tx.wroteAt).Abs() >= activityEvery {
		tx.writeActivity()
	}
	if tx.fault == nil {
		tx.exec("COMMIT")
	}
	if tx.fault == nil {
		if tx.wroteActivity {
			w.wrote.Add(1)
			clear(w.activity)
			w.wroteAt = tx.now
		}
		w.remember(tx.happened, tx.now)
		w.clock, w.clockAt = tx.began, tx.beganAt // not before: what was voided is void with the commit
	}
	return served, tx.fault
}

// isNoTransaction: SQLite itself rolled back already, as it does after some faults.
func isNoTransaction(err error) bool { return sqliteCode(err) == sqliteGenericError }

// forget throws away all that the writer remembers of the database.
func (w *sqliteWriter) forget() {
	w.cache = newWebhookCache()
	w.pending, w.asides = make(map[int64]*pendingCount), make(map[int64]*asideCount)
	w.generation, w.dataSeen, w.rescan, w.purgeUnknown = 0, 0, true, true
}

// notice sees what other connections and the clock did since the last transaction.
func (tx *sqliteTx) notice() {
	var version int64
	tx.query1("PRAGMA data_version", nil, &version)
	if version != tx.dataSeen {
		tx.dataSeen, tx.foreign = version, true
		var generation int64
		tx.query1("SELECT generation FROM diverted_state", nil, &generation)
		if generation != tx.generation {
			tx.generation, tx.cache, tx.purgeUnknown = generation, newWebhookCache(), true
		}
	}
	if tx.purgeUnknown {
		tx.loadPurge()
	}
	// The wall clock against the monotonic one: set back, it would leave leases and hints too far ahead.
	passed := tx.now.Round(0).Sub(tx.clock.Round(0))
	if !tx.clock.IsZero() && time.Since(tx.clockAt)-passed > time.Second {
		tx.voidDues()
		tx.rescan = true
	}
	tx.began, tx.beganAt = tx.now, time.Now()
}

// voidDues makes due what lies further ahead than any lease or wait can: the clock was set back.
func (tx *sqliteTx) voidDues() {
	now := tx.now.UnixMilli()
	for _, w := range tx.waitingWebhooks() {
		tx.exec(`UPDATE diverted_deliveries SET due = ?1 WHERE webhook = ?2 AND due > ?3 AND token IS NOT NULL`,
			now, w.id, tx.now.Add(MaxLease).UnixMilli())
		tx.exec(`UPDATE diverted_deliveries SET due = 0 WHERE webhook = ?1 AND due > ?2`,
			w.id, tx.now.Add(2*MaxRetryInterval).UnixMilli())
	}
	tx.exec(`UPDATE diverted_notices SET due = ?1 WHERE due > ?2`, now, tx.now.Add(2*MaxRetryInterval).UnixMilli())
}

// waitingWebhook is the row id of a webhook with pending deliveries, and when the first of them is due; 0: at once.
type waitingWebhook struct{ id, due int64 }

// waitingWebhooks returns all webhooks with pending deliveries. It skips from one to the next in the index, whatever
// the number of deliveries.
func (tx *sqliteTx) waitingWebhooks() []waitingWebhook {
	var all []waitingWebhook
	tx.queryAll(`
		WITH RECURSIVE waiting (id) AS (
			SELECT min(webhook) FROM diverted_deliveries WHERE due IS NOT NULL
			UNION ALL
			SELECT (SELECT min(webhook) FROM diverted_deliveries WHERE due IS NOT NULL AND webhook > waiting.id)
			FROM waiting WHERE waiting.id IS NOT NULL
		)
		SELECT id, (SELECT min(due) FROM diverted_deliveries WHERE webhook = waiting.id AND due IS NOT NULL)
		FROM waiting WHERE id IS NOT NULL`, nil, func(rows *sql.Rows) error {
		var w waitingWebhook
		err := scan(rows, &w.id, &w.due)
		all = append(all, w)
		return err
	})
	return all
}

// changed notes a change to be told after the commit.
func (tx *sqliteTx) changed(kind ChangeKind, key Key) {
	tx.call.changes = append(tx.call.changes, Change{Kind: kind, Key: key})
}

// token returns a token that no claim has.
func (tx *sqliteTx) token() int64 {
	tx.tokens++
	return tx.tokens
}

// fail records a fault that is not SQLite's: the transaction is lost all the same.
func (tx *sqliteTx) fail(err error) {
	if tx.fault == nil {
		tx.fault = err
	}
}

// prepare returns the statement, prepared once.
func (tx *sqliteTx) prepare(query string) *sql.Stmt {
	if tx.fault != nil {
		return nil
	}
	if stmt, ok := tx.stmts[query]; ok {
		return stmt
	}
	prepare := tx.conn.PrepareContext
	if tx.host != nil {
		prepare = tx.host.PrepareContext
	}
	stmt, err := prepare(context.Background(), query)
	if err != nil {
		tx.fault = err
		return nil
	}
	tx.stmts[query] = stmt
	return stmt
}

// exec runs a statement and returns the number of rows that it changed. After a fault it does nothing.
func (tx *sqliteTx) exec(query string, args ...any) (changed int64) {
	stmt := tx.prepare(query)
	if stmt == nil {
		return 0
	}
	result, err := stmt.ExecContext(context.Background(), args...)
	if err == nil {
		changed, err = result.RowsAffected()
	}
	tx.fault = err
	return changed
}

// query1 reads one row, and says whether there is one.
func (tx *sqliteTx) query1(query string, args []any, dest ...any) (found bool) {
	stmt := tx.prepare(query)
	if stmt == nil {
		return false
	}
	err := scan(stmt.QueryRowContext(context.Background(), args...), dest...)
	if errors.Is(err, sql.ErrNoRows) {
		return false
	}
	tx.fault = err
	return err == nil
}

// queryAll reads rows until each returns an error; errStopRows ends it without a fault.
func (tx *sqliteTx) queryAll(query string, args []any, each func(rows *sql.Rows) error) {
	stmt := tx.prepare(query)
	if stmt == nil {
		return
	}
	rows, err := stmt.QueryContext(context.Background(), args...)
	if err != nil {
		tx.fault = err
		return
	}
	defer rows.Close()
	for rows.Next() {
		if err := each(rows); errors.Is(err, errStopRows) {
			return
		} else if err != nil {
			tx.fault = err
			return
		}
	}
	tx.fault = rows.Err()
}

var errStopRows = errors.New("enough rows")
