package console

import (
	"errors"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/locators"
	"github.com/divertedevents/diverted/internal/requests"
)

// maxForm is the size of a form, in bytes.
const maxForm = 64 << 10

// maxNamed is how much of an unknown parameter's name is repeated, in bytes.
const maxNamed = 64

// values are parameters, each given once at most. One that is empty is as if it were absent: that is how forms
// send what was not filled in.
type values map[string]string

// faults collects what is wrong with a request, so that all of it is told at once.
type faults = requests.Faults

// readQuery parses the query, or the form of a POST, and refuses names that the route does not have or that are
// given twice: a misspelt name must not change what a request means.
func (c *call) readQuery() error {
	var f faults
	given, err := url.ParseQuery(c.r.URL.RawQuery)
	if c.r.Method == http.MethodPost && err == nil {
		if len(given) > 0 {
			f.Add("query", "must be empty: a change is read from its form alone")
		}
		c.r.Body = http.MaxBytesReader(c.w, c.r.Body, maxForm)
		err = c.r.ParseForm()
		given = c.r.PostForm
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return errTooLarge
	}
	if err != nil {
		f.Add("query", "must be name=value pairs, separated by & and percent-encoded")
		return f.Err(errParameter)
	}
	c.query = values{}
	for _, name := range slices.Sorted(maps.Keys(given)) { // so that a page lists the same faults each time
		switch list := given[name]; {
		case !slices.Contains(c.route.query, name):
			if len(name) > maxNamed {
				name = strings.ToValidUTF8(name[:maxNamed], "") // without the half of a character at its end
			}
			f.Add("query", "this page has no parameter “%s”", visible(name))
		case len(list) > 1:
			f.Add(name, "must be given once, was given %d times", len(list))
		case list[0] != "":
			c.query[name] = list[0]
		}
	}
	return f.Err(errParameter)
}

// number reads a parameter: decimal digits alone; absent: 0.
func (v values) number(f *faults, name string, most int) int {
	s, given := v[name]
	if !given {
		return 0
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > most {
		f.Add(name, "must be a number from 0 to %d", most)
		return 0
	}
	return n
}

// locator reads a parameter; absent: zero.
func (v values) locator(f *faults, name string) ulid.ULID {
	s, given := v[name]
	if !given {
		return ulid.Zero
	}
	id, ok := locators.ParseULID(s)
	if !ok {
		f.Add(name, locators.ULIDRule)
	}
	return id
}

// moment reads a parameter; absent: zero. Beside RFC 3339 it takes what a browser's field for a date and a time
// sends, as UTC. A time finer than links can carry is rounded up: what a link leads to selects what its page did.
func (v values) moment(f *faults, name string) time.Time {
	s, given := v[name]
	if !given {
		return time.Time{}
	}
	for _, layout := range []string{time.RFC3339Nano, "2006-01-02T15:04", "2006-01-02T15:04:05", "2006-01-02T15:04:05.000", "2006-01-02"} {
		// Years before 1970 are refused, since the first moment of all would mean no bound.
		if t, err := time.Parse(layout, s); err == nil && t.UTC().Year() >= 1970 {
			return t.Add(time.Millisecond - 1).Truncate(time.Millisecond).UTC()
		}
	}
	f.Add(name, "must be a date and a time since 1970, such as 2026-11-23T17:58Z")
	return time.Time{}
}

// filter reads the parameters that select diverted events.
func (v values) filter(f *faults) diverted.DivertedFilter {
	filter := diverted.DivertedFilter{
		Trigger:   diverted.Trigger(strings.ToLower(v["trigger"])), // as the triggers of a page's links and charts are
		EventType: v["eventType"],
		Since:     v.moment(f, "since"),
		Until:     v.moment(f, "until"),
	}
	f.Merge("", filter.Validate())
	return filter
}

// filterQuery is the inverse of [values.filter].
func filterQuery(filter diverted.DivertedFilter) url.Values {
	q := url.Values{}
	set := func(name, value string) {
		if value != "" {
			q.Set(name, value)
		}
	}
	set("trigger", string(filter.Trigger))
	set("eventType", filter.EventType)
	if !filter.Since.IsZero() {
		q.Set("since", diverted.FormatTime(filter.Since))
	}
	if !filter.Until.IsZero() {
		q.Set("until", diverted.FormatTime(filter.Until))
	}
	return q
}
