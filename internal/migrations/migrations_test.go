package migrations

import (
	"testing"
	"testing/fstest"

	"github.com/matryer/is"
)

func TestMigrationsAreNumberedFromOneAndHaveMinimums(t *testing.T) {
	is := is.New(t)
	script := &fstest.MapFile{Data: []byte("SELECT 1")}
	all, err := Load(fstest.MapFS{"sql/0001_a.sql": script, "sql/0002_b.sql": script}, "sql", []int{1: 1, 2: 1})
	is.NoErr(err)
	is.Equal(all, []Migration{{1, 1, "SELECT 1"}, {2, 1, "SELECT 1"}})
	for _, files := range []fstest.MapFS{
		{"sql/0002_b.sql": script},
		{"sql/0001_a.sql": script, "sql/0003_c.sql": script},
		{"sql/one.sql": script},
		{"sql/0001_a.sql": script, "sql/0002_b.sql": script}, // without a minimum
	} {
		_, err := Load(files, "sql", []int{1: 1})
		is.True(err != nil)
	}
}
