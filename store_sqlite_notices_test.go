package diverted

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

// While many webhooks fail, each has a row, and every call of Work asks: it must not look at them all.
func TestNoticesAreFoundByTheirIndexes(t *testing.T) {
	s, _ := openTestStore(t)
	for _, statement := range []string{deleteSilent, selectNotices, firstNotice} {
		is := is.New(t)
		args := []any{1, 16}[:strings.Count(statement, "?")]
		rows, err := s.readers.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+statement, args...)
		is.NoErr(err)
		defer rows.Close()
		steps := 0
		for ; rows.Next(); steps++ {
			var id, parent, unused int
			var step string
			is.NoErr(rows.Scan(&id, &parent, &unused, &step))
			if !strings.Contains(step, "INDEX diverted_notices_") {
				t.Errorf("%s: %s", statement, step)
			}
		}
		is.NoErr(rows.Err())
		is.Equal(steps, 1)
	}
}
