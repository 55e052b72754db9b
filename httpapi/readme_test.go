package httpapi

import (
	_ "embed"
	"strconv"
	"strings"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/matryer/is"
)

//go:embed README.md
var readme string

func TestEveryProblemHasItsSectionInTheReadme(t *testing.T) {
	is := is.New(t)
	for _, p := range append(problems, unforeseen) {
		_, section, found := strings.Cut(readme, "\n### "+p.code+"\n\n")
		is.True(found) // the type of the problem leads there
		is.True(strings.HasPrefix(section, strconv.Itoa(p.status)+": "))
	}
}

func TestEveryRouteIsInTheReadme(t *testing.T) {
	is := is.New(t)
	for _, r := range everyRoute(t).routes() {
		if r.open {
			is.True(strings.Contains(readme, "GET `/"+r.path+"`"))
			continue
		}
		before := "\n| " + r.method + " `/" + r.path
		_, row, found := strings.Cut(readme, before+"`")
		if !found {
			_, row, found = strings.Cut(readme, before+"?")
		}
		is.True(found)
		row, _, _ = strings.Cut(row, "\n")
		for _, p := range r.permissions {
			is.True(strings.Contains(row, string(p)))
		}
		for _, name := range r.query {
			is.True(strings.Contains(row, name))
		}
	}
}

// everyRoute is a handler that has all routes.
func everyRoute(t *testing.T) *Handler {
	t.Helper()
	store := diverted.NewMemoryStore()
	h, err := New(Config{Diverted: store, Webhooks: store, Publisher: &diverted.Dispatcher{}, Pinger: &diverted.Dispatcher{}, Authorize: AllowAll})
	if err != nil {
		t.Fatal(err)
	}
	return h
}
