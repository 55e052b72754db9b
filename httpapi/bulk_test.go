package httpapi_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/oklog/ulid/v2"
)

// step is what a step of a bulk call answers.
type step struct {
	Matched, Done int
	Next          string
}

// bulk makes a step, which must succeed.
func (a *api) bulk(method, target string) (s step) {
	a.t.Helper()
	res := a.do(method, target, "")
	if res.StatusCode != 200 {
		a.t.Fatal(method, target, res.StatusCode, res.body)
	}
	a.is.NoErr(json.Unmarshal([]byte(res.body), &s))
	return s
}

func locators(numbers ...byte) (all []ulid.ULID) {
	for _, n := range numbers {
		all = append(all, locator(n))
	}
	return all
}

func TestABulkCallTakesWhatItsFilterSelects(t *testing.T) {
	for _, c := range []struct {
		name, query string
		taken       []byte
	}{
		{"an exact trigger", "trigger=503", []byte{3}},
		{"a class of them, in any case", "trigger=5XX", []byte{3, 4}},
		{"timeout", "trigger=timeout", []byte{5}},
		{"an event type", "eventType=push", []byte{4}},
		{"both", "trigger=5xx&eventType=push", []byte{4}},
		{"a time", "since=2020-01-01T00:00:00Z&until=2100-01-01T00:00:00%2B02:00", []byte{3, 4, 5}},
		{"a time to come", "since=2100-01-01T00:00:00Z", nil},
		{"a time long ago", "until=1970-01-01T00:00:00Z", nil},
		{"everything", "all=true", []byte{3, 4, 5}},
		{"a filter, said to be none", "all=false&trigger=503", []byte{3}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, call := range []struct{ method, path string }{{"POST", "/diverted/resend?"}, {"DELETE", "/diverted?"}} {
				a := newAPI(t)
				w, other := a.webhook(tenant, 1).Key(), a.webhook(tenant, 2).Key()
				a.divert(w, 3)
				a.divert(w, 4, of("500"), func(d *diverted.DivertedEvent) { d.EventType = "push" })
				a.divert(w, 5, of("timeout"))
				a.divert(other, 6)

				a.is.Equal(a.bulk(call.method, webhookPath(w)+call.path+c.query+"&dryRun=true"), step{Matched: len(c.taken)})
				a.is.Equal(len(a.held(w)), 3) // a dry run changes nothing
				a.is.Equal(a.bulk(call.method, webhookPath(w)+call.path+c.query), step{Matched: len(c.taken), Done: len(c.taken)})
				a.is.Equal(len(a.held(w)), 3-len(c.taken))
				pending := a.pending(w)
				if call.method == "POST" {
					a.is.Equal(pending, locators(c.taken...))
				} else {
					a.is.Equal(len(pending), 0)
				}
				a.is.Equal(a.held(other), locators(6))
			}
		})
	}
}

func TestABulkCallTakesEachEventOnceThatWasThereAtItsFirstStep(t *testing.T) {
	for _, call := range []struct{ method, path string }{{"POST", "/resend"}, {"DELETE", ""}} {
		synctest.Test(t, func(t *testing.T) {
			a := newAPI(t)
			w := a.webhook(tenant, 1).Key()
			for n := range byte(25) {
				a.divert(w, 2*n+1)
			}
			target := listPath(w) + call.path + "?all=true&limit=10"
			first := a.bulk(call.method, target)
			a.is.Equal(first.Done, 10)
			time.Sleep(time.Second)
			a.divert(w, 60) // somebody diverts more meanwhile, beyond the cursor
			a.divert(w, 2)  // and before it
			second := a.bulk(call.method, target+"&after="+first.Next)
			a.is.Equal(second.Done, 10)
			repeated := a.bulk(call.method, target+"&after="+first.Next) // as a client does whose answer was lost
			a.is.Equal(repeated, step{Matched: 5, Done: 5})
			a.is.Equal(a.bulk(call.method, target+"&after="+second.Next), step{})
			a.is.Equal(a.held(w), locators(2, 60)) // these came too late for it
		})
	}
}

func TestABulkCallNeedsAFilterOrAll(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	a.is.NoErr(a.store.Suspend(t.Context(), w))
	d := a.divert(w, 7)
	asked := a.asked.count()
	for _, c := range []struct{ method, path string }{{"POST", "/diverted/resend"}, {"DELETE", "/diverted"}, {"POST", "/divert"}} {
		for query, name := range map[string]string{
			"":                                      "all",
			"?all=false":                            "all",
			"?limit=10&dryRun=true":                 "all",
			"?all=true&eventType=push":              "all", // one of them is a mistake
			"?all=yes":                              "all",
			"?all=true&limit=0":                     "limit",
			"?all=true&limit=10001":                 "limit",
			"?all=true&limit=010":                   "limit",
			"?all=true&dryRun=1":                    "dryRun",
			"?all=true&dryrun=true":                 "dryrun", // it was not meant to happen
			"?all=true&after=":                      "after",
			"?all=true&after=" + w.Webhook.String(): "after",
			"?eventType=":                           "eventType",
			"?eventType=a%20b":                      "eventType",
			"?all=true&count=5":                     "count",
		} {
			res := a.do(c.method, webhookPath(w)+c.path+query, "")
			a.is.Equal(res.StatusCode, 400)
			a.is.True(res.names(name))
		}
	}
	for _, c := range []struct{ method, path string }{{"POST", "/diverted/resend"}, {"DELETE", "/diverted"}, {"GET", "/diverted"}} {
		for query, name := range map[string]string{
			"trigger=":                        "trigger",
			"trigger=2xx":                     "trigger",
			"trigger=200":                     "trigger",
			"trigger=503,504":                 "trigger",
			"triger=503":                      "triger",
			"since=":                          "since",
			"since=yesterday":                 "since",
			"since=2026-11-23":                "since",
			"since=2026-11-23T17:58:00":       "since",
			"since=2026-11-23T9:58:00Z":       "since",
			"since=2026-11-23T17:58:00,5Z":    "since",
			"since=2026-11-23T17:58:00-24:00": "since",
			"since=0001-01-01T00:00:00Z":      "since",
			"until=0001-01-01T00:00:00Z":      "until", // which would be no bound at all
			"until=2026-11-23T17:58:00+01:00": "until", // the + is a blank
			"since=2026-11-23T17:58:00Z&until=2026-11-23T17:58:00Z": "until",
		} {
			res := a.do(c.method, webhookPath(w)+c.path+"?"+query, "")
			a.is.Equal(res.StatusCode, 400)
			a.is.True(res.names(name))
		}
	}
	a.is.True(strings.Contains(a.do("GET", listPath(w)+"?since=2026-11-23T17:58:00+01:00", "").body, "%2B"))
	for _, name := range []string{"trigger", "since", "until"} { // these are of diverted events
		a.is.True(a.do("POST", webhookPath(w)+"/divert?"+name+"=503", "").names(name))
	}
	a.is.Equal(a.asked.count(), asked) // nothing was looked up
	a.is.Equal(a.held(w), []ulid.ULID{d.Event})
}

// A script whose variable is empty asks for …/diverted//resend and …/diverted/, and ServeMux and curl may make
// another path of it.
func TestALocatorThatIsEmptyIsNotEverything(t *testing.T) {
	a := newAPI(t)
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	mux := http.NewServeMux()
	mux.Handle("/event/", a)
	server := httptest.NewServer(mux)
	defer server.Close()
	defer http.DefaultClient.CloseIdleConnections()
	for _, c := range []struct{ method, path string }{
		{"POST", "//resend"}, {"POST", "/resend"}, {"DELETE", "/"}, {"DELETE", ""}, {"DELETE", "//payload"}, {"DELETE", "/resend"}, {"POST", ""},
	} {
		r, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+listPath(d.WebhookKey())+c.path, nil)
		a.is.NoErr(err)
		res, err := http.DefaultClient.Do(r)
		a.is.NoErr(err)
		a.is.NoErr(res.Body.Close())
		a.is.True(res.StatusCode == 400 || res.StatusCode == 405)
	}
	a.is.Equal(a.held(d.WebhookKey()), []ulid.ULID{d.Event})
}

func TestANextIsRefusedAnywhereButWhereItCameFrom(t *testing.T) {
	a := newAPI(t)
	w, other := a.webhook(tenant, 1).Key(), a.webhook(tenant, 2).Key()
	for n := range byte(4) {
		a.divert(w, n+1)
		a.divert(other, n+1)
	}
	next := a.bulk("POST", listPath(w)+"/resend?trigger=5xx&limit=1").Next
	a.is.Equal(len(next), 44)
	asked := a.asked.count()
	refused := func(method, path, query, next string) {
		t.Helper()
		res := a.do(method, path+"?"+query+"&after="+next, "")
		a.is.Equal(res.StatusCode, 400)
		a.is.True(res.names("after"))
	}
	resend := listPath(w) + "/resend"
	refused("DELETE", listPath(w), "trigger=5xx", next)
	refused("POST", listPath(other)+"/resend", "trigger=5xx", next)
	refused("POST", listPath(diverted.WebhookKey{Tenant: foreign, Webhook: w.Webhook})+"/resend", "trigger=5xx", next)
	refused("POST", resend, "trigger=503", next)
	refused("POST", resend, "trigger=5xx&eventType=push", next)
	refused("POST", resend, "trigger=5xx&since=2026-11-23T17:58:00Z", next)
	refused("POST", resend, "all=true", next)
	refused("POST", resend, "trigger=5xx&dryRun=true", next)
	for i := range next { // whatever character is another one
		changed := "A"
		if next[i] == 'A' {
			changed = "B"
		}
		refused("POST", resend, "trigger=5xx", next[:i]+changed+next[i+1:])
	}
	for _, cut := range []string{next[1:], next[:43], next + "A", next + "%3D", strings.ToLower(next), " " + next} {
		refused("POST", resend, "trigger=5xx", strings.ReplaceAll(cut, " ", "%20"))
	}
	a.is.Equal(a.asked.count(), asked) // nothing was looked up
	a.is.Equal(a.bulk("POST", resend+"?trigger=5XX&limit=2&dryRun=false&after="+next).Done, 2)
	a.is.Equal(len(a.held(w)), 1)
}

func TestABulkResendIsRefusedWhileTheWebhookDoesNotLetEventsGo(t *testing.T) {
	a := newAPI(t)
	suspended := a.webhook(tenant, 1).Key()
	a.is.NoErr(a.store.Suspend(t.Context(), suspended))
	disabled := a.webhook(tenant, 2, func(w *diverted.Webhook) { w.Enabled = false }).Key()
	unknown := diverted.WebhookKey{Tenant: tenant, Webhook: locator(3)}
	for code, w := range map[string]diverted.WebhookKey{"suspended": suspended, "disabled": disabled, "webhook_unknown": unknown} {
		a.divert(w, 7)
		res := a.do("POST", listPath(w)+"/resend?all=true", "")
		a.is.Equal(res.StatusCode, 409)
		a.is.Equal(res.code(), code)
		a.is.Equal(a.bulk("POST", listPath(w)+"/resend?all=true&dryRun=true"), step{Matched: 1}) // counts all the same
		a.is.Equal(a.held(w), locators(7))
		a.is.Equal(a.bulk("DELETE", listPath(w)+"?all=true"), step{Matched: 1, Done: 1})
	}
}

func TestAnExpungedEventCanBeDeletedButNotResent(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	d := a.divert(w, 7)
	for range 2 { // again does nothing
		res := a.do("DELETE", eventPath(d.Key)+"/payload", "")
		a.is.Equal(res.StatusCode, 200)
		a.is.Equal(res.body, `{}`)
	}
	a.is.Equal(a.do("DELETE", listPath(w)+"/"+locator(9).String()+"/payload", "").code(), "not_found")

	res := a.do("POST", eventPath(d.Key)+"/resend", "")
	a.is.Equal(res.StatusCode, 409)
	a.is.Equal(res.code(), "event_expunged")
	a.is.Equal(a.bulk("POST", listPath(w)+"/resend?all=true"), step{Matched: 1})
	var e struct {
		FailureTrigger, EventType string
		Expunged                  bool
		Event                     json.RawMessage
	}
	a.is.NoErr(json.Unmarshal([]byte(a.do("GET", eventPath(d.Key)+"?extended=true", "").body), &e))
	a.is.Equal(e.FailureTrigger+" "+e.EventType, "503 "+d.EventType) // the record stays
	a.is.True(e.Expunged && e.Event == nil)
	a.is.Equal(a.bulk("DELETE", listPath(w)+"?all=true"), step{Matched: 1, Done: 1})
}

func TestWhatASuspendedWebhookHoldsIsSetAside(t *testing.T) {
	a := newAPI(t)
	w := a.webhook(tenant, 1).Key()
	for n := range byte(5) {
		a.accept(w, n+1)
	}
	divert := webhookPath(w) + "/divert"
	res := a.do("POST", divert+"?all=true", "")
	a.is.Equal(res.StatusCode, 409)
	a.is.Equal(res.code(), "active")
	a.is.Equal(a.do("POST", webhookPath(diverted.WebhookKey{Tenant: tenant, Webhook: locator(9)})+"/divert?all=true", "").code(), "not_found")
	a.is.Equal(len(a.pending(w)), 5)

	a.is.NoErr(a.store.Suspend(t.Context(), w))
	a.is.Equal(a.bulk("POST", divert+"?eventType=none.such"), step{})
	a.is.Equal(a.bulk("POST", divert+"?all=true&dryRun=true"), step{Matched: 5})
	first := a.bulk("POST", divert+"?all=true&limit=3")
	a.is.Equal(first.Done, 3)
	a.is.Equal(a.bulk("POST", divert+"?all=true&after="+first.Next), step{Matched: 2, Done: 2})
	a.is.Equal(a.held(w), locators(1, 2, 3, 4, 5)) // so that every tool for diverted events applies
	a.is.Equal(len(a.pending(w)), 0)
}

func TestABulkResendHandsEachEventToTheHost(t *testing.T) {
	var (
		mu             sync.Mutex
		given          = map[ulid.ULID]int{}
		underWay, most int
		fail           func(diverted.DivertedEvent) error
	)
	a := newAPI(t, func(c *httpapi.Config) {
		c.Resend = func(_ context.Context, event diverted.DivertedEvent) error {
			mu.Lock()
			given[event.Event]++
			underWay++
			most = max(most, underWay)
			mu.Unlock()
			defer func() { mu.Lock(); underWay--; mu.Unlock() }()
			return fail(event)
		}
	})
	w := diverted.WebhookKey{Tenant: tenant, Webhook: locator(1)} // the store does not know it, and need not
	for n := range byte(60) {
		a.divert(w, n+1)
	}
	a.divert(w, 90, of("404"))
	resend := listPath(w) + "/resend?"
	a.is.Equal(a.bulk("POST", resend+"trigger=5xx&dryRun=true"), step{Matched: 60})
	a.is.Equal(len(given), 0)

	// What the host does not take stays, whatever it says, and however it says it.
	fail = func(event diverted.DivertedEvent) error {
		switch event.Event[15] {
		case 11:
			return errors.New("queue at 10.0.0.7 is full")
		case 12:
			return diverted.ErrSuspended
		case 13:
			panic("credential s3cret")
		}
		return nil
	}
	first := a.bulk("POST", resend+"trigger=5xx&limit=20")
	a.is.Equal([2]int{first.Matched, first.Done}, [2]int{20, 17})
	a.is.Equal(len(given), 20)
	second := a.bulk("POST", resend+"trigger=5xx&after="+first.Next)
	a.is.Equal(second, step{Matched: 40, Done: 40})
	a.is.Equal(a.held(w), locators(11, 12, 13, 90))
	a.is.True(most <= 16)
	log := a.log.String()
	a.is.True(strings.Contains(log, `"events":3`))
	a.is.True(strings.Contains(log, "httpapi: panic") && !strings.Contains(log, "s3cret"))

	fail = func(diverted.DivertedEvent) error { return nil }
	a.is.NoErr(a.store.(diverted.RetentionStore).Expunge(t.Context(), diverted.Key{Tenant: tenant, Webhook: w.Webhook, Event: locator(90)}))
	a.is.Equal(a.bulk("POST", resend+"all=true"), step{Matched: 4, Done: 3})
	a.is.Equal(given[locator(90)], 0) // there is nothing to hand over
	a.is.Equal(a.do("POST", listPath(w)+"/"+locator(90).String()+"/resend", "").code(), "event_expunged")
}

func TestABulkResendByTheHostEndsWhenTheStoreFails(t *testing.T) {
	var a *api
	a = newAPI(t, func(c *httpapi.Config) {
		c.Resend = func(context.Context, diverted.DivertedEvent) error {
			a.asked.mu.Lock()
			defer a.asked.mu.Unlock()
			a.asked.fail = fmt.Errorf("fetch: %w", diverted.ErrLocked)
			return nil
		}
	})
	w := a.webhook(tenant, 1).Key()
	for n := range byte(50) {
		a.divert(w, n+1)
	}
	res := a.do("POST", listPath(w)+"/resend?all=true", "")
	a.is.Equal(res.StatusCode, 502) // the host was given some, so that a repeated step sends them again
	a.is.Equal(res.code(), "resend_unfinished")
	a.is.Equal(len(a.held(w)), 50) // the host may be given them again, none is lost
}

func TestAStoreWithoutAPowerHasNotItsRoutes(t *testing.T) {
	a := newAPI(t, func(c *httpapi.Config) { c.Diverted = struct{ diverted.DivertedStore }{c.Diverted} })
	d := a.divert(a.webhook(tenant, 1).Key(), 7)
	w := d.WebhookKey()
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"POST", listPath(w) + "/resend?all=true", 405}, // by the path of one event
		{"DELETE", listPath(w) + "?all=true", 405},
		{"POST", webhookPath(w) + "/divert?all=true", 404},
		{"GET", webhookPath(w) + "/pending", 404},
		{"GET", webhookPath(w) + "/stats", 404},
		{"GET", webhooksPath(tenant) + "/stats", 400}, // it is no locator
		{"DELETE", eventPath(d.Key) + "/payload", 404},
		{"GET", eventPath(d.Key) + "?extended=true", 200},
	} {
		a.is.Equal(a.do(c.method, c.path, "").StatusCode, c.status)
	}
	a.is.Equal(a.held(w), []ulid.ULID{d.Event})
}
