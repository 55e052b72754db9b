package diverted

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"

	"github.com/oklog/ulid/v2"
	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// sqliteCodes is the one table from SQLite's primary result codes to this package's errors.
var sqliteCodes = map[int]error{
	sqlite3.SQLITE_BUSY:       ErrLocked,
	sqlite3.SQLITE_LOCKED:     ErrLocked,
	sqlite3.SQLITE_PROTOCOL:   ErrLocked,
	sqlite3.SQLITE_READONLY:   ErrReadOnly,
	sqlite3.SQLITE_PERM:       ErrReadOnly,
	sqlite3.SQLITE_CORRUPT:    ErrDamaged,
	sqlite3.SQLITE_CONSTRAINT: ErrDamaged, // no statement of ours breaks one
	sqlite3.SQLITE_NOTADB:     ErrForeign,
	sqlite3.SQLITE_FULL:       ErrFull,
}

// sqliteError says which action failed, and makes SQLite's codes into errors that errors.Is finds. What
// this package itself decided, and what says already which action failed, passes unchanged.
func sqliteError(action string, err error) error {
	if err == nil || decided(err) {
		return err
	}
	if _, said := errors.AsType[*storeError](err); said {
		return err
	}
	return &storeError{action, sqliteCodes[sqliteCode(err)], err}
}

// storeError is a failure of the database: during which action, of which kind, and what SQLite says.
type storeError struct {
	action string
	kind   error // nil: of none that has a name
	err    error
}

func (e *storeError) Error() string {
	text := e.err.Error()
	if e.kind != nil && !strings.HasPrefix(text, e.kind.Error()) { // the two say the same of a lock
		text = e.kind.Error() + ": " + text
	}
	return "diverted: " + e.action + ": " + text
}

func (e *storeError) Unwrap() []error {
	if e.kind == nil {
		return []error{e.err}
	}
	return []error{e.kind, e.err}
}

// decided says whether err is an answer of this package rather than a fault: nothing was changed, and
// nothing needs to be undone.
func decided(err error) bool {
	for _, answer := range []error{
		ErrInvalid, ErrNotFound, ErrConflict, ErrSuspended, ErrDisabled, ErrWebhookUnknown, ErrExpunged,
		ErrNotEmpty, ErrClosed,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

const sqliteGenericError = sqlite3.SQLITE_ERROR

// sqliteCode returns the primary result code of an error of SQLite, 0 of any other.
func sqliteCode(err error) int {
	if code, ok := errors.AsType[*sqlite.Error](err); ok {
		return code.Code() & 0xff
	}
	return 0
}

// scan reads the columns of a row. Package sql says what it could not convert, and may quote a payload
// with it, so that its error is not passed on: what does not fit its column is damage.
func scan(row interface{ Scan(...any) error }, columns ...any) error {
	err := row.Scan(columns...)
	if err == nil || errors.Is(err, sql.ErrNoRows) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) ||
		sqliteCode(err) != 0 || decided(err) {
		return err
	}
	return errDamagedRow
}

var errDamagedRow = fmt.Errorf("%w: a row holds what its columns cannot", ErrDamaged)

// locatorsOf reads the locators of an event and of its request.
func locatorsOf(event, request []byte) (e, r ulid.ULID, err error) {
	if len(event) != len(e) || len(request) != len(r) {
		return e, r, errDamagedRow
	}
	return ulid.ULID(event), ulid.ULID(request), nil
}
