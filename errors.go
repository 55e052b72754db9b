package diverted

import (
	"errors"
	"fmt"
	"strings"
)

// The errors that this package returns, wrapped; test for them with [errors.Is].
var (
	// ErrInvalid: what was given breaks a rule. The error is an [*InvalidError], which says what and where.
	ErrInvalid = errors.New("invalid")
	// ErrNotFound: the store holds no such webhook, delivery or diverted event for this tenant.
	ErrNotFound = errors.New("not found")
	// ErrConflict: it exists already, was changed in between, or is in a state that rules this out. Read it
	// again.
	ErrConflict = errors.New("conflict")
	// ErrSuspended: the webhook is suspended.
	ErrSuspended = errors.New("webhook is suspended")
	// ErrDisabled: the webhook is disabled.
	ErrDisabled = errors.New("webhook is disabled")
	// ErrWebhookUnknown: the diverted event is there, but the store does not know its webhook, since the
	// host only diverts to this store and delivers by itself.
	ErrWebhookUnknown = errors.New("webhook is not known to the store")
	// ErrExpunged: the body of the diverted event was expunged, so it cannot be sent again.
	ErrExpunged = errors.New("event was expunged")
	// ErrNotEmpty: the webhook still has pending or diverted events.
	ErrNotEmpty = errors.New("webhook still has events")
	// ErrFull: the store, or the webhook's share of it, has no room. Nothing was accepted there.
	ErrFull = errors.New("full")
	// ErrClosed: the store was closed.
	ErrClosed = errors.New("closed")
	// ErrLocked: another connection holds the database; repeat later.
	ErrLocked = errors.New("database is locked")
	// ErrReadOnly: the database cannot be written to.
	ErrReadOnly = errors.New("database is read-only")
	// ErrDamaged: the database is corrupt.
	ErrDamaged = errors.New("database is damaged")
	// ErrForeign: the file or the schema belongs to another program.
	ErrForeign = errors.New("not a database of this library")
	// ErrTooNew: a newer release of this library wrote the database, and this one must not open it.
	ErrTooNew = errors.New("database is too new for this release")
	// ErrUnsupported: the database, its driver or its setup cannot do what was asked.
	ErrUnsupported = errors.New("database setup is not supported")
)

// FieldError says what is wrong with one field.
type FieldError struct {
	// Path names the field, as on the wire if it is there, such as failureHandling.retryStrategy.attempts.
	// It is empty where what was given is a single value, as for [ParseTrigger].
	Path string
	// Detail says what is allowed there, and what was given.
	Detail string
}

// Error returns the path and the detail.
func (e FieldError) Error() string {
	if e.Path == "" {
		return e.Detail
	}
	return e.Path + ": " + e.Detail
}

// InvalidError lists every fault of what was given, in the order of the fields. It is an [ErrInvalid].
type InvalidError struct {
	Fields []FieldError
}

// Error returns the faults in one line. It holds no secret and no payload.
func (e *InvalidError) Error() string {
	details := make([]string, len(e.Fields))
	for i, f := range e.Fields {
		details[i] = f.Error()
	}
	return "diverted: invalid: " + strings.Join(details, "; ")
}

// Unwrap returns [ErrInvalid].
func (e *InvalidError) Unwrap() error { return ErrInvalid }

// invalid returns an [InvalidError] of a single fault.
func invalid(path, format string, args ...any) error {
	return &InvalidError{Fields: []FieldError{{Path: path, Detail: fmt.Sprintf(format, args...)}}}
}

// faults collects the faults of one value, so that all of them are told at once.
type faults struct{ fields []FieldError }

func (f *faults) add(path, format string, args ...any) {
	f.fields = append(f.fields, FieldError{Path: path, Detail: fmt.Sprintf(format, args...)})
}

// merge adds the faults of err, each path below prefix. An err that is no [InvalidError] is kept whole.
func (f *faults) merge(prefix string, err error) {
	if err == nil {
		return
	}
	var inner *InvalidError
	if !errors.As(err, &inner) {
		f.add(prefix, "%v", err)
		return
	}
	for _, field := range inner.Fields {
		path := field.Path
		switch {
		case prefix == "":
		case path == "" || strings.HasPrefix(path, "["):
			path = prefix + path
		default:
			path = prefix + "." + path
		}
		f.fields = append(f.fields, FieldError{Path: path, Detail: field.Detail})
	}
}

func (f *faults) err() error {
	if len(f.fields) == 0 {
		return nil
	}
	return &InvalidError{Fields: f.fields}
}
