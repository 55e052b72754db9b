package postgres

import (
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgtype"

	"github.com/divertedevents/diverted"
)

// matching returns the conditions that a filter makes, each behind an AND, and args with their parameters.
// Those that are not given are left out, so that an exact trigger finds its index.
func matching(f diverted.DivertedFilter, args []any) (string, []any) {
	var text strings.Builder
	is := func(condition string, value any) {
		args = append(args, value)
		fmt.Fprintf(&text, ` AND %s $%d`, condition, len(args))
	}
	switch from, to, class := triggers(f.Trigger); {
	case f.Trigger == "":
	case class:
		is("diverted_by >=", from)
		is("diverted_by <=", to)
	default:
		is("diverted_by =", from)
	}
	if f.EventType != "" {
		is("type =", f.EventType)
	}
	if !f.Since.IsZero() {
		is("diverted_at >=", bound(f.Since))
	}
	if !f.Until.IsZero() {
		is("diverted_at <", bound(f.Until))
	}
	return text.String(), args
}

// triggers returns the first and the last of the triggers that one selects, which are more if it is a class.
func triggers(t diverted.Trigger) (from, to string, class bool) {
	if first, class := strings.CutSuffix(string(t), "xx"); class {
		return first + "00", first + "99", true
	}
	return string(t), string(t), false
}

// bound is a parameter that times, which are kept to the millisecond, are compared with; NULL for the zero
// time. It is rounded up to the microsecond that PostgreSQL knows.
func bound(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t.Add(time.Microsecond - 1).Truncate(time.Microsecond), Valid: !t.IsZero()}
}
