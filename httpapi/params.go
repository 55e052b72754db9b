package httpapi

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/locators"
	"github.com/divertedevents/diverted/internal/requests"
)

// quote shows a piece of a request in a problem: cut, and with nothing unprintable.
func quote(s string) string {
	const most = 64
	if len(s) > most {
		return fmt.Sprintf("%+q…", s[:most])
	}
	return fmt.Sprintf("%+q", s)
}

// faults collects what is wrong with a request, so that all of it is told at once.
type faults = requests.Faults

// readPath reads the parameters of the path.
func (c *call) readPath(values map[string]string) error {
	var f faults
	c.tenant, c.webhook, c.event = requests.ReadPath(values, func(name, rule, value string) {
		f.Add(name, "%s, was %s", rule, quote(value))
	})
	return f.Err(errParameter)
}

// readQuery parses the query and refuses names that the route does not have or that are given twice.
func (c *call) readQuery() error {
	var f faults
	values, err := url.ParseQuery(c.r.URL.RawQuery)
	if err != nil {
		f.Add("query", "must be name=value pairs, separated by & and percent-encoded")
		return f.Err(errParameter)
	}
	for _, name := range slices.Sorted(maps.Keys(values)) {
		switch {
		case !slices.Contains(c.route.query, name):
			f.Add(parameterName(name), "is not a parameter of this route, %s", parametersOf(c.route))
		case len(values[name]) > 1:
			f.Add(name, "must be given once, was given %d times", len(values[name]))
		}
	}
	c.query = values
	return f.Err(errParameter)
}

// parameterName is a name of the caller's choice as a problem repeats it.
func parameterName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool {
		return r != '_' && r != '-' && r != '.' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) || len(name) > 64 {
		return quote(name)
	}
	return name
}

func parametersOf(t *route) string {
	if len(t.query) == 0 {
		return "which has none"
	}
	return "which has " + strings.Join(t.query, ", ")
}

// number reads a query parameter: decimal digits alone, in the canonical form.
func (c *call) number(f *faults, name string, absent, least, most int) int {
	if !c.query.Has(name) {
		return absent
	}
	s := c.query.Get(name)
	n, err := strconv.Atoi(s)
	if err != nil || strconv.Itoa(n) != s || n < least || n > most {
		f.Add(name, "must be a number from %d to %d, was %s", least, most, quote(s))
		return absent
	}
	return n
}

// locator reads a query parameter; absent: zero.
func (c *call) locator(f *faults, name string) ulid.ULID {
	if !c.query.Has(name) {
		return ulid.Zero
	}
	id, ok := locators.ParseULID(c.query.Get(name))
	if !ok {
		f.Add(name, "%s, was %s", locators.ULIDRule, quote(c.query.Get(name)))
	}
	return id
}

// flag reads a query parameter that is true or false; absent: nil.
func (c *call) flag(f *faults, name string) *bool {
	if !c.query.Has(name) {
		return nil
	}
	switch s := c.query.Get(name); s {
	case "true", "false":
		return new(s == "true")
	default:
		f.Add(name, "must be true or false, was %s", quote(s))
		return nil
	}
}

// label reads a query parameter that is a name to look for; absent: "".
func (c *call) label(f *faults, name string) string {
	s := c.query.Get(name)
	if n := utf8.RuneCountInString(s); c.query.Has(name) && (n < 1 || n > diverted.MaxNameLength || !utf8.ValidString(s)) {
		f.Add(name, "must be 1 to %d characters", diverted.MaxNameLength)
	}
	return s
}

// eventTypes reads a query parameter that is a list of event types, separated by commas.
func (c *call) eventTypes(f *faults, name string) []string {
	if !c.query.Has(name) {
		return nil
	}
	types := strings.Split(c.query.Get(name), ",")
	if len(types) > diverted.MaxEventTypes {
		f.Add(name, "must be 1 to %d event types, separated by commas, was %d", diverted.MaxEventTypes, len(types))
	}
	for _, t := range types {
		if t == "" || (diverted.DivertedFilter{EventType: t}).Validate() != nil {
			f.Add(name, "must be event types, each 1 to 128 of the characters A–Z a–z 0–9 . _ -, separated by commas, was %s", quote(t))
			break
		}
	}
	return types
}

// page reads the parameters that lists share; a page has most items at most.
func (c *call) page(f *faults, most int) (offset, count int, after ulid.ULID) {
	offset = c.number(f, "offset", 0, 0, diverted.MaxOffset) // after goes deeper
	count = c.number(f, "count", diverted.DefaultPage, 1, most)
	after = c.locator(f, "after")
	return offset, count, after
}

// next is the header that says where a list goes on: relative to the request's own URL, so that it holds
// under any prefix, and by cursor, so that deletions in between skip nothing.
func (c *call) next(count int, last ulid.ULID) http.Header {
	link := fmt.Sprintf("?count=%d&after=%s", count, last)
	filters := url.Values{}
	for name, values := range c.query {
		if name != "offset" && name != "count" && name != "after" {
			filters[name] = values
		}
	}
	if len(filters) > 0 {
		link += "&" + filters.Encode()
	}
	return http.Header{"Link": {"<" + link + `>; rel="next"`}}
}
