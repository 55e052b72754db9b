package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/divertedevents/diverted"
)

// The SQLSTATEs that this package decides by.
const (
	serializationFailure = "40001"
	deadlockDetected     = "40P01"
	adminShutdown        = "57P01"
	cannotConnectNow     = "57P03"
	lockNotAvailable     = "55P03"
)

// sqlStates is the one table from PostgreSQL's SQLSTATEs to the errors of package diverted. What is not in
// it is returned as pgx has it.
var sqlStates = map[string]error{
	serializationFailure: diverted.ErrLocked, // after several tries
	deadlockDetected:     diverted.ErrLocked, // likewise
	lockNotAvailable:     diverted.ErrLocked,
	"25006":              diverted.ErrReadOnly,    // read_only_sql_transaction: a standby, or a setting
	"42501":              diverted.ErrUnsupported, // insufficient_privilege
	"0A000":              diverted.ErrUnsupported, // feature_not_supported
	"3F000":              diverted.ErrForeign,     // invalid_schema_name: somebody dropped it
	"42P01":              diverted.ErrForeign,     // undefined_table: likewise
	"42703":              diverted.ErrForeign,     // undefined_column: tables of another program
	"53100":              diverted.ErrFull,        // disk_full
	"XX001":              diverted.ErrDamaged,     // data_corrupted
	"XX002":              diverted.ErrDamaged,     // index_corrupted
}

// wrap says which action failed, and makes PostgreSQL's states into errors that errors.Is finds. What this
// package itself decided, and the end of a context, pass unchanged.
func wrap(action string, err error) error {
	if err == nil || decided(err) {
		return err
	}
	if known, ok := sqlStates[sqlState(err)]; ok && !errors.Is(err, known) {
		return fmt.Errorf("diverted: %s: %w: %w", action, known, err)
	}
	return fmt.Errorf("diverted: %s: %w", action, err)
}

// decided says whether err is an answer rather than a fault.
func decided(err error) bool {
	if state := sqlState(err); state != "" {
		return false
	}
	for _, answer := range []error{
		diverted.ErrInvalid, diverted.ErrNotFound, diverted.ErrConflict, diverted.ErrSuspended, diverted.ErrDisabled,
		diverted.ErrWebhookUnknown, diverted.ErrExpunged, diverted.ErrNotEmpty, diverted.ErrClosed,
		context.Canceled, context.DeadlineExceeded,
	} {
		if errors.Is(err, answer) {
			return true
		}
	}
	return false
}

// answered is an error that the server answered: pgx's, or that of another driver, of which a transaction of the host's
// may be.
type answered interface {
	error
	SQLState() string
}

// sqlState returns the SQLSTATE of an error that the server answered, "" of any other.
func sqlState(err error) string {
	if answer, ok := errors.AsType[answered](err); ok {
		return answer.SQLState()
	}
	return ""
}

// repeatable says whether a transaction that failed with err was certainly not committed, and may succeed
// if it is repeated at once. A connection that broke at an unknown moment is not: the transaction may have
// been committed.
func repeatable(err error) bool {
	switch sqlState(err) {
	case serializationFailure, deadlockDetected:
		return true
	case adminShutdown, cannotConnectNow:
		// The server says so instead of doing what was asked; another connection may be good, or will be soon.
		_, unknown := errors.AsType[commitError](err)
		return !unknown
	case "":
		return pgconn.SafeToRetry(err) // nothing was sent, as over a connection that died in the pool
	}
	return false
}
