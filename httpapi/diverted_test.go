package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

func TestFetchAnswersExactlyTheFiveProperties(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	res := a.do("GET", eventPath(d.Key), "")
	a.is.Equal(res.StatusCode, 200)
	a.is.Equal(res.Header.Get("Content-Type"), "application/json")
	a.is.Equal(res.body, `{"eventLocator":"`+d.Event.String()+`","requestLocator":"`+d.RequestLocator.String()+
		`","failureMessage":"answered 503 <try later> & \"wait\"","failureTimestamp":"2026-11-23T16:58:00.123Z","failureTrigger":"503"}`)
}

func TestIdentifiersAreTakenInAnyCaseAndAnsweredInTheCanonicalOne(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	canonical := a.do("GET", eventPath(d.Key), "")
	path := "/event/" + strings.ToUpper(tenant.String()) + "/webhooks/" + strings.ToLower(d.Webhook.String()) + "/diverted/" + strings.ToLower(d.Event.String())
	a.is.Equal(a.do("GET", path, "").body, canonical.body)
	escaped := strings.Replace(eventPath(d.Key), "7f1f6a0e", "%37f1f6a0e", 1)
	a.is.Equal(a.do("GET", escaped, "").body, canonical.body) // an escape of a plain character is that character
}

func TestListIsAscendingAndEmptyForAnUnknownWebhook(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	for _, n := range []byte{9, 3, 7} {
		a.divert(w, n)
	}
	a.divert(a.webhook(tenant, 2).Key(), 4) // another webhook's

	var items []map[string]string
	res := a.do("GET", listPath(w), "")
	a.is.NoErr(json.Unmarshal([]byte(res.body), &items))
	var locators []string
	for _, item := range items {
		a.is.Equal(len(item), 5)
		locators = append(locators, item["eventLocator"])
	}
	a.is.Equal(locators, []string{locator(3).String(), locator(7).String(), locator(9).String()})
	a.is.Equal(res.Header.Get("Link"), "") // nothing follows

	unknown := a.do("GET", listPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(99)}), "")
	a.is.Equal(unknown.StatusCode, 200)
	a.is.Equal(unknown.body, `[]`)
}

func TestListGoesOnByItsLinkAndSkipsNothingWhenPagesAreDeleted(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	for n := range byte(25) {
		a.divert(w, n+1)
	}
	target, seen := listPath(w)+"?count=10", []string(nil)
	for pages := 0; ; pages++ {
		a.is.True(pages < 3) // it ends
		res := a.do("GET", target, "")
		var items []struct{ EventLocator string }
		a.is.NoErr(json.Unmarshal([]byte(res.body), &items))
		for _, item := range items {
			seen = append(seen, item.EventLocator)
			a.is.Equal(a.do("DELETE", listPath(w)+"/"+item.EventLocator, "").body, `{}`)
		}
		link := res.Header.Get("Link")
		if link == "" {
			break
		}
		a.is.Equal(link, `<?count=10&after=`+seen[len(seen)-1]+`>; rel="next"`)
		base, err := url.Parse(target)
		a.is.NoErr(err)
		next, err := base.Parse(strings.TrimSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`))
		a.is.NoErr(err)
		target = next.String()
	}
	a.is.Equal(len(seen), 25)
	a.is.True(slices.IsSorted(seen))
}

func TestListLeavesOutItsOffsetAndWhatIsNotAfterItsCursor(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	for n := range byte(9) {
		a.divert(w, n+1)
	}
	first := func(query string) string {
		var items []struct{ EventLocator string }
		a.is.NoErr(json.Unmarshal([]byte(a.do("GET", listPath(w)+query, "").body), &items))
		if len(items) == 0 {
			return ""
		}
		return items[0].EventLocator
	}
	a.is.Equal(first("?offset=0"), locator(1).String())
	a.is.Equal(first("?offset=4"), locator(5).String())
	a.is.Equal(first("?after="+locator(4).String()), locator(5).String())
	a.is.Equal(first("?offset=2&after="+strings.ToLower(locator(4).String())), locator(7).String())
	a.is.Equal(first("?offset=9"), "")
}

func TestHeadAnswersAsGetWithoutTheBody(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	server := httptest.NewServer(a)
	defer server.Close()
	for _, path := range []string{eventPath(d.Key), listPath(d.WebhookKey()), eventPath(diverted.Key{Tenant: tenant, Webhook: d.Webhook})} {
		get, err := http.Get(server.URL + path)
		a.is.NoErr(err)
		a.is.NoErr(get.Body.Close())
		head, err := http.Head(server.URL + path)
		a.is.NoErr(err)
		a.is.NoErr(head.Body.Close())
		a.is.Equal(head.StatusCode, get.StatusCode)
		get.Header.Del("Date")
		head.Header.Del("Date")
		a.is.Equal(head.Header, get.Header) // Content-Length too
	}
}

func TestResendMovesTheEventBackToPending(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	res := a.do("POST", eventPath(d.Key)+"/resend", "")
	a.is.Equal(res.StatusCode, 200)
	a.is.Equal(res.body, `{}`)
	a.is.Equal(len(a.held(d.WebhookKey())), 0)
	pending, err := a.store.ListPending(t.Context(), diverted.DivertedQuery{Webhook: d.WebhookKey()})
	a.is.NoErr(err)
	a.is.Equal(len(pending.Deliveries), 1)
	a.is.Equal(pending.Deliveries[0].Key, d.Key) // the same event locator
	a.is.Equal(a.do("POST", eventPath(d.Key)+"/resend", "").StatusCode, 404)
}

func TestDeleteForgetsTheEvent(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	d := a.divert(w, 7)
	a.divert(w, 8)
	res := a.do("DELETE", eventPath(d.Key), "")
	a.is.Equal(res.StatusCode, 200)
	a.is.Equal(res.body, `{}`)
	a.is.Equal(a.held(w), []ulid.ULID{locator(8)})
	a.is.Equal(a.do("DELETE", eventPath(d.Key), "").StatusCode, 404)
}

func TestOfAResendAndADeleteThatRaceOneWinsAndTheOtherFindsNothing(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	for n := range byte(50) {
		d := a.divert(w, n+1)
		var statuses [2]int
		var racers sync.WaitGroup
		for i, r := range []*http.Request{
			httptest.NewRequest("POST", eventPath(d.Key)+"/resend", nil),
			httptest.NewRequest("DELETE", eventPath(d.Key), nil),
		} {
			racers.Go(func() {
				recorder := httptest.NewRecorder()
				a.ServeHTTP(recorder, r)
				statuses[i] = recorder.Code
			})
		}
		racers.Wait()
		slices.Sort(statuses[:])
		a.is.Equal(statuses, [2]int{200, 404})
	}
}

func TestResendOfTheHostDeletesTheEventOnlyIfItReturnsNil(t *testing.T) {
	var given diverted.DivertedEvent
	var fail error
	a := newAPI(t, func(c *httpapi.Config) {
		c.Resend = func(_ context.Context, event diverted.DivertedEvent) error {
			given = event
			return fail
		}
	})
	unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)} // the store does not know it, and need not
	d := a.divert(unknown, 7)

	for _, refusal := range []struct {
		err    error
		status int
		code   string
	}{
		{errors.New("queue at 10.0.0.7 is full"), 502, "resend_failed"},
		{diverted.ErrNotFound, 502, "resend_failed"}, // the host's own, not the event's
		{diverted.ErrSuspended, 409, "suspended"},
		{diverted.ErrDisabled, 409, "disabled"},
		{diverted.ErrWebhookUnknown, 409, "webhook_unknown"},
	} {
		fail = refusal.err
		res := a.do("POST", eventPath(d.Key)+"/resend", "")
		a.is.Equal(res.StatusCode, refusal.status)
		a.is.Equal(res.code(), refusal.code)
		a.is.True(!strings.Contains(res.body, "10.0.0.7")) // its text is for the log
		a.is.Equal(a.held(unknown), []ulid.ULID{d.Event})
	}
	a.is.True(strings.Contains(a.log.String(), "10.0.0.7"))

	fail = nil
	res := a.do("POST", eventPath(d.Key)+"/resend", "")
	a.is.Equal(res.body, `{}`)
	a.is.Equal(given.Key, d.Key)
	a.is.Equal(string(given.Body), string(d.Body)) // the whole event
	a.is.Equal(len(a.held(unknown)), 0)
	a.is.Equal(a.do("POST", eventPath(d.Key)+"/resend", "").StatusCode, 404)
}

func TestResendOfTheHostIsRecordedEvenIfTheClientHasGone(t *testing.T) {
	ctx, leave := context.WithCancel(t.Context())
	a := newAPI(t, func(c *httpapi.Config) {
		c.Resend = func(context.Context, diverted.DivertedEvent) error { leave(); return nil }
	})
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	a.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(ctx, "POST", eventPath(d.Key)+"/resend", nil))
	a.is.Equal(len(a.held(d.WebhookKey())), 0)
}

func TestNewNamesWhatTheConfigurationLacks(t *testing.T) {
	is := is.New(t)
	_, err := httpapi.New(httpapi.Config{})
	var invalid *diverted.InvalidError
	is.True(errors.As(err, &invalid))
	is.Equal(len(invalid.Fields), 2)
	is.Equal(invalid.Fields[0].Path, "Diverted")
	is.Equal(invalid.Fields[1].Path, "Authorize") // nil is an error, AllowAll is said aloud
}
