package diverted

import (
	"strings"
	"testing"

	"github.com/matryer/is"
)

// queryPlan returns the steps in which a statement finds its rows.
func queryPlan(t *testing.T, s *SQLiteStore, statement string, args ...any) (steps []string) {
	t.Helper()
	is := is.New(t)
	rows, err := s.readers.QueryContext(t.Context(), "EXPLAIN QUERY PLAN "+statement, args...)
	is.NoErr(err)
	defer rows.Close()
	for rows.Next() {
		var id, parent, unused int
		var step string
		is.NoErr(rows.Scan(&id, &parent, &unused, &step))
		steps = append(steps, step)
	}
	is.NoErr(rows.Err())
	return steps
}

// While many webhooks fail, each has a row, and every call of Work asks: it must not look at them all.
func TestNoticesAreFoundByTheirIndexes(t *testing.T) {
	s, _ := openTestStore(t)
	for _, statement := range []string{deleteSilent, selectNotices, firstNotice} {
		is := is.New(t)
		steps := queryPlan(t, s, statement, []any{1, 16}[:strings.Count(statement, "?")]...)
		found := false
		for _, step := range steps { // n is those that are due already, and no more than are looked at
			found = found || strings.Contains(step, "INDEX diverted_notices_")
			if table, scans := strings.CutPrefix(step, "SCAN "); scans && table != "n" && table[0] != '(' {
				t.Errorf("%s: %s", statement, step)
			}
		}
		is.True(found)
	}
}
