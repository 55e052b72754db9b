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
	switch trigger := strings.ToLower(string(f.Trigger)); {
	case trigger == "":
	case strings.HasSuffix(trigger, "xx"):
		is("diverted_by LIKE", trigger[:1]+"__")
	default:
		is("diverted_by =", trigger)
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

// bound is a parameter that times, which are kept to the millisecond, are compared with; NULL for the zero
// time. It is rounded up to the microsecond that PostgreSQL knows.
func bound(t time.Time) pgtype.Timestamptz {
	return pgtype.Timestamptz{Time: t.Add(time.Microsecond - 1).Truncate(time.Microsecond), Valid: !t.IsZero()}
}
