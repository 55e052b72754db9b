package postgres

import (
	"errors"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

func TestAServerThatCannotHoldAStoreIsNamed(t *testing.T) {
	is := is.New(t)
	good := aServer{version: 130000, encoding: "UTF8"}
	is.NoErr(good.check())
	for _, tt := range []struct {
		server aServer
		want   error
		text   string
	}{
		{aServer{version: 120018, encoding: "UTF8"}, diverted.ErrUnsupported,
			"database setup is not supported: the server must be PostgreSQL 13 or later, was 12.18"},
		{aServer{version: 170000, encoding: "SQL_ASCII"}, diverted.ErrUnsupported,
			"database setup is not supported: the encoding of the database must be UTF8, was SQL_ASCII"},
		{aServer{version: 170000, encoding: "UTF8", standby: true, readOnly: true}, diverted.ErrReadOnly,
			"database is read-only: the server is a standby"},
		{aServer{version: 170000, encoding: "UTF8", readOnly: true}, diverted.ErrReadOnly,
			"database is read-only: default_transaction_read_only is on"},
	} {
		err := tt.server.check()
		is.True(errors.Is(err, tt.want))
		is.Equal(err.Error(), tt.text)
	}
}

// foreignError is an error of another driver of database/sql.
type foreignError string

func (e foreignError) Error() string    { return "pq: " + string(e) }
func (e foreignError) SQLState() string { return string(e) }

func TestTheErrorsOfAnotherDriverAreKnownByTheirState(t *testing.T) {
	is := is.New(t)
	is.True(errors.Is(wrap("put webhook", foreignError(deadlockDetected)), diverted.ErrLocked))
	is.True(errors.Is(wrap("put webhook", foreignError(serializationFailure)), diverted.ErrLocked))
	is.True(!errors.Is(wrap("put webhook", foreignError("22000")), diverted.ErrLocked))
}
