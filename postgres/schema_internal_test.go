package postgres

import (
	"errors"
	"testing"
	"testing/fstest"

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

func TestMigrationsAreNumberedFromOneAndHaveMinimums(t *testing.T) {
	is := is.New(t)
	all, err := loadMigrations(migrationFiles, minimums)
	is.NoErr(err)
	is.Equal(len(all), len(minimums)-1)
	for i, m := range all {
		is.Equal(m.version, i+1)
		is.True(m.minimum >= 1 && m.minimum <= m.version)
		is.True(m.script != "")
	}
	script := &fstest.MapFile{Data: []byte("SELECT 1")}
	for _, files := range []fstest.MapFS{
		{"migrations/0002_b.sql": script},
		{"migrations/0001_a.sql": script, "migrations/0003_c.sql": script},
		{"migrations/one.sql": script},
		{"migrations/0001_a.sql": script, "migrations/0002_b.sql": script}, // without a minimum
	} {
		_, err := loadMigrations(files, []int{1: 1})
		is.True(err != nil)
	}
}
