package httpapi_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// busy answers 503 after 120 ms, and asks to be left alone for a while.
type busy struct{}

func (busy) RoundTrip(r *http.Request) (*http.Response, error) {
	time.Sleep(120 * time.Millisecond)
	return &http.Response{
		StatusCode: 503, Status: "503 Service Unavailable", Header: http.Header{"Retry-After": {"2"}},
		Body: io.NopCloser(strings.NewReader("the database is down <b>\"now\"</b>")), Request: r,
	}, nil
}

func TestExtendedTellsEveryAttemptAndWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAPI(t)
		w := a.webhook(tenant, 1, func(w *diverted.Webhook) {
			w.FailureHandling = &diverted.FailureHandling{Divert: true, Retry: &diverted.RetryStrategy{Attempts: 2, Interval: time.Second, Type: diverted.Linear}}
		}).Key()
		dispatcher, err := diverted.NewDispatcher(a.store, diverted.Config{Transport: busy{}, Jitter: -1, Logger: slog.New(slog.DiscardHandler)})
		a.is.NoErr(err)
		key := a.accept(w, 7)
		for range 3 {
			a.is.NoErr(dispatcher.Flush(t.Context()))
			time.Sleep(2 * time.Second)
		}
		a.is.Equal(a.held(w), []ulid.ULID{key.Event})

		plain := strings.TrimSuffix(a.do("GET", eventPath(key), "").body, "}")
		res := a.do("GET", eventPath(key)+"?extended=true", "")
		rest, ok := strings.CutPrefix(res.body, plain+`,"eventType":`)
		a.is.True(ok) // the five properties, and then more
		a.is.True(strings.Contains(rest, `"attempts":[{"number":1,"timestamp":"2000-01-01T00:00:00.120Z","durationMillis":120,"trigger":"503","status":503,"message":`))
		a.is.True(strings.Contains(rest, `{"number":3,"timestamp":"2000-01-01T00:00:04.360Z","durationMillis":120,`))
		a.is.Equal(strings.Count(rest, `"excerpt":"the database is down <b>\"now\"</b>","retryAfterSeconds":2}`), 3)
		event, err := a.store.FetchDiverted(t.Context(), key)
		a.is.NoErr(err)
		a.is.True(strings.HasSuffix(rest, `],"event":`+string(event.Body)+`}`)) // its bytes

		list := a.do("GET", listPath(w)+"?extended=true", "").body
		withoutEvent, _, _ := strings.Cut(res.body, `,"event":`)
		a.is.Equal(list, "["+withoutEvent+"}]") // a list is as a fetch without the event
		a.is.Equal(a.do("GET", listPath(w)+"?extended=false", "").body, "["+plain+"}]")
		a.is.Equal(a.do("GET", eventPath(key)+"?extended=false", "").body, plain+"}")
	})
}

func TestTheEventItselfIsShownToThoseAloneWhoMaySeeIt(t *testing.T) {
	var payload error
	var asked [][]httpapi.Permission
	a := newAPI(t, authorized(func(_ *http.Request, _ uuid.UUID, permissions ...httpapi.Permission) error {
		asked = append(asked, permissions)
		if permissions[0] == httpapi.DivertedPayload {
			return payload
		}
		return nil
	}))
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	a.do("GET", eventPath(d.Key)+"?extended=true", "")
	a.is.Equal(asked, [][]httpapi.Permission{{httpapi.DivertedRead}, {httpapi.DivertedPayload}})
	asked = nil
	a.do("GET", eventPath(d.Key), "")
	a.do("GET", eventPath(d.Key)+"?extended=false", "")
	a.do("GET", listPath(d.WebhookKey())+"?extended=true", "")
	a.is.Equal(len(asked), 3) // nobody wants to see it

	with := a.do("GET", eventPath(d.Key)+"?extended=true", "").body
	payload = httpapi.ErrForbidden
	without := a.do("GET", eventPath(d.Key)+"?extended=true", "")
	a.is.Equal(without.StatusCode, 200)
	a.is.Equal(strings.TrimSuffix(without.body, "}")+`,"event":`+string(d.Body)+"}", with)
	before := a.asked.count()
	payload = httpapi.ErrUnauthenticated
	a.is.Equal(a.do("GET", eventPath(d.Key)+"?extended=true", "").StatusCode, 401)
	payload = io.ErrUnexpectedEOF
	a.is.Equal(a.do("GET", eventPath(d.Key)+"?extended=true", "").StatusCode, 500)
	a.is.Equal(a.asked.count(), before) // nothing was looked up

	a.is.True(a.do("GET", eventPath(d.Key)+"?extended=1", "").names("extended"))
	a.is.True(a.do("GET", listPath(d.WebhookKey())+"?extended=", "").names("extended"))
}

func TestAListIsFilteredAndGoesOnFiltered(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	a.divert(w, 1, of("timeout"))
	a.divert(w, 2, of("502"), func(d *diverted.DivertedEvent) { d.EventType = "push" })
	a.divert(w, 3)
	a.divert(w, 4, of("404"))
	event, err := a.store.FetchDiverted(t.Context(), diverted.Key{Tenant: tenant, Webhook: w.Webhook, Event: locator(1)})
	a.is.NoErr(err)
	at := func(offset time.Duration) string { return event.DivertedAt.Add(offset).Format(time.RFC3339Nano) }
	for query, want := range map[string][]ulid.ULID{
		"trigger=5xx":                         locators(2, 3),
		"trigger=503":                         locators(3),
		"trigger=TIMEOUT":                     locators(1),
		"eventType=push":                      locators(2),
		"eventType=Push":                      nil,
		"trigger=4xx&eventType=push":          nil,
		"since=" + at(0) + "&trigger=timeout": locators(1), // it is in since
		"until=" + at(0) + "&trigger=timeout": nil,         // and not in until
		"since=" + at(time.Nanosecond) + "&trigger=timeout": nil, // between two milliseconds
		"until=" + at(time.Nanosecond) + "&trigger=timeout": locators(1),
		"trigger=5xx&after=" + locator(2).String():          locators(3),
		"trigger=5xx&offset=1":                              locators(3),
	} {
		var items []struct{ EventLocator ulid.ULID }
		a.is.NoErr(json.Unmarshal([]byte(a.do("GET", listPath(w)+"?"+query, "").body), &items))
		var have []ulid.ULID
		for _, item := range items {
			have = append(have, item.EventLocator)
		}
		a.is.Equal(have, want)
	}
	a.is.Equal(a.do("GET", listPath(w)+"?extended=true&count=100", "").StatusCode, 200)
	a.is.Equal(a.do("GET", listPath(w)+"?extended=false&count=1000", "").StatusCode, 200)
	great := a.do("GET", listPath(w)+"?extended=true&count=101", "") // an answer of many megabytes
	a.is.True(great.StatusCode == 400 && great.names("count"))
	a.is.True(strings.Contains(great.problem().Detail, "from 1 to 100 with extended=true"))
	link := a.do("GET", listPath(w)+"?extended=true&count=1&trigger=5xx", "").Header.Get("Link")
	a.is.Equal(link, `<?count=1&after=`+locator(2).String()+`&extended=true&trigger=5xx>; rel="next"`)
}

func TestAnEventThatIsDamagedIsNoHalfAnAnswer(t *testing.T) {
	is := is.New(t)
	h, err := httpapi.New(httpapi.Config{Diverted: torn{}, Authorize: httpapi.AllowAll, Logger: slog.New(slog.DiscardHandler)})
	is.NoErr(err)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", eventPath(diverted.Key{Tenant: tenant, Webhook: locator(1), Event: locator(2)})+"?extended=true", nil))
	is.Equal(w.Code, 500)
	is.Equal(w.Header().Get("Content-Type"), "application/problem+json")
}

// torn has events whose bodies broke off.
type torn struct{ diverted.DivertedStore }

func (torn) FetchDiverted(_ context.Context, key diverted.Key) (diverted.DivertedEvent, error) {
	return diverted.DivertedEvent{Key: key, Body: []byte(`{"locator":"01`)}, nil
}

func TestAnAttemptOfWhichNothingIsKnownHasNoNumberAndNoDuration(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7) // as a host does that delivers by itself
	res := a.do("GET", eventPath(d.Key)+"?extended=true", "")
	a.is.True(strings.Contains(res.body, `"attempts":[{"timestamp":"`+diverted.FormatTime(failed)+`","trigger":"503","status":503,"message":`))
}
