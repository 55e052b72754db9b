package console_test

import (
	"encoding/json"
	"html"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
)

var (
	hiddenField = regexp.MustCompile(`<input type="hidden" name="([^"]+)" value="([^"]*)">`)
	formAction  = regexp.MustCompile(`<form id="steps" method="post" action="([^"]+)"`)
	countOn     = regexp.MustCompile(`<a href="([^"]+)">Continue counting</a>`)
)

// form returns what the form of a page would send, and where to.
func (p page) form(s *site, at string) (target string, form url.Values) {
	s.t.Helper()
	action := formAction.FindStringSubmatch(p.body)
	if action == nil {
		s.t.Fatalf("there is no form on the page:\n%s", p.body)
	}
	form = url.Values{}
	for _, field := range hiddenField.FindAllStringSubmatch(p.body, -1) {
		form.Set(field[1], html.UnescapeString(field[2]))
	}
	return resolve(s, at, action[1]), form
}

// resolve does with a link what a browser does.
func resolve(s *site, at, link string) string {
	base, err := url.Parse(at)
	s.is.NoErr(err)
	u, err := base.Parse(html.UnescapeString(link))
	s.is.NoErr(err)
	u.Fragment = ""
	return u.String()
}

// many sets n events aside, all alike.
func (s *site) many(w diverted.WebhookKey, n int) {
	s.t.Helper()
	d := s.divert(w, 1)
	for i := range n - 1 {
		d.Event = ulid.ULID{2, byte(i >> 16), byte(i >> 8), byte(i)}
		s.is.NoErr(s.store.Divert(s.t.Context(), d))
	}
}

// Without JavaScript: a plan that is counted in steps, then a form for each step, until the end.
func TestManyAreResentByFormsAlone(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	const many = 10_007 // a step of a form, and some
	s.many(w, many)

	at := webhookPath(w) + "/diverted/resend"
	r := s.get(at)
	is.True(r.has("10,000 or more"))
	at = resolve(s, at, countOn.FindStringSubmatch(r.body)[1])
	r = s.follow(at)
	is.True(r.has("<strong>10,007</strong> events would be resent"))
	is.True(r.has("Resend 10,007 events"))
	is.Equal(s.pending(w), 0) // counting changes nothing

	target, form := r.form(s, at)
	s.divert(w, 77) // comes after the count, and is not in what was shown
	r = s.post(target, form)
	is.Equal(r.StatusCode, 303)
	at = resolve(s, target, r.Header.Get("Location"))
	r = s.follow(at)
	is.True(r.has("<strong>10,000</strong> of 10,007 resent"))
	is.True(r.has(`<progress id="bar" max="10007" value="10000"`))
	is.True(r.has("Next step"))
	is.Equal(s.held(w), 8) // and the one that came after the count
	s.follow(at)
	is.Equal(s.held(w), 8) // reloading the page does no step

	target, form = r.form(s, at)
	r = s.post(target, form)
	r = s.follow(resolve(s, target, r.Header.Get("Location")))
	is.True(r.has("10,007 events are on their way again"))
	is.True(!formAction.MatchString(r.body))
	is.True(!r.has("<progress") && !r.has(`id="status"`)) // it is over
	is.Equal(s.pending(w), many)
	is.Equal(s.held(w), 1)
}

// pending counts a webhook's pending deliveries.
func (s *site) pending(w diverted.WebhookKey) int {
	s.t.Helper()
	stats, err := s.store.Stats(s.t.Context(), diverted.StatsQuery{Tenant: w.Tenant, Webhook: w.Webhook})
	s.is.NoErr(err)
	return stats.Pending
}

// The script drives the same steps, and is answered in JSON.
func TestTheScriptsSteps(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 25)
	at := webhookPath(w) + "/diverted/delete"
	target, form := s.get(at).form(s, at)
	form.Set("limit", "10")
	var done []int
	for more := true; more; {
		r := s.post(target, form, "Accept", "application/json")
		is.Equal(r.Header.Get("Content-Type"), "application/json")
		var step struct {
			Done   int
			More   bool
			Fields map[string]string
		}
		is.NoErr(json.Unmarshal([]byte(r.body), &step))
		for name, value := range step.Fields {
			form.Set(name, value)
		}
		done, more = append(done, step.Done), step.More
	}
	is.Equal(done, []int{10, 20, 25})
	is.Equal(form.Get("state"), "finished")
	is.Equal(s.held(w), 0)

	problem := s.post(webhookPath(w)+"/diverted/resend", url.Values{"state": {"running"}, "limit": {"x"}}, "Accept", "application/json")
	is.Equal(problem.StatusCode, 400)
	is.True(strings.Contains(problem.body, `"title"`))
}

func TestAFilterHoldsFromThePageToTheEnd(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	for n := range byte(6) {
		s.divert(w, n, func(e *diverted.DivertedEvent) {
			if n%2 == 0 {
				e.Failure.Trigger = "404"
			}
		})
	}
	r := s.get(webhookPath(w) + "?trigger=4XX")
	is.True(r.has("Showing events that failed with 4xx."))
	link := regexp.MustCompile(`href="([^"]+)">Delete these`).FindStringSubmatch(r.body)
	at := resolve(s, webhookPath(w), link[1])
	r = s.get(at)
	is.True(r.has("Events of <strong><bdi>orders</bdi></strong> that failed with 4xx."))
	is.True(r.has("Delete 3 events"))
	leave := regexp.MustCompile(`id="leave" href="([^"]+)"`).FindStringSubmatch(r.body)
	is.Equal(resolve(s, at, leave[1]), webhookPath(w)+"?trigger=4xx") // and leaving keeps it
	target, form := r.form(s, at)
	is.Equal(form.Get("trigger"), "4xx")
	s.post(target, form)
	is.Equal(s.held(w), 3)
	is.Equal(s.get(webhookPath(w)+"?trigger=4xx").has("No diverted events match."), true)
}

// A page and the links on it select the same, however fine a bound is.
func TestABoundHoldsToTheMillisecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		s := newSite(t)
		w := s.webhook(1).Key()
		before := s.divert(w, 3)
		time.Sleep(time.Second)
		after := s.divert(w, 4)
		at, err := s.store.FetchDiverted(t.Context(), before.Key)
		is.NoErr(err)
		bound := url.QueryEscape(at.DivertedAt.Add(500 * time.Microsecond).Format(time.RFC3339Nano))
		r := s.get(webhookPath(w) + "?since=" + bound)
		is.True(!r.has(before.Event.String()))
		is.True(r.has(after.Event.String()))
		link := regexp.MustCompile(`href="([^"]+)">Delete these`).FindStringSubmatch(r.body)
		is.True(s.follow(resolve(s, webhookPath(w), link[1])).has("Delete 1 event<"))
	})
}

func TestAFormThatLostItsFieldsDoesNothing(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 3)
	for _, form := range []url.Values{nil, {}, {"limit": {"10"}}, {"state": {"finished"}}, {"state": {"running"}, "triger": {"503"}}, {"state": {"running", "running"}}} {
		is.Equal(s.post(webhookPath(w)+"/diverted/delete", form).StatusCode, 400)
	}
	is.Equal(s.post(webhookPath(w)+"/diverted/delete?trigger=503", url.Values{"state": {"running"}}).StatusCode, 400) // a filter that the form does not carry
	for _, name := range []string{"since", "until", "before"} {                                                       // a bound that would be none
		is.Equal(s.post(webhookPath(w)+"/diverted/delete", url.Values{"state": {"running"}, name: {"0001-01-01"}}).StatusCode, 400)
	}
	is.Equal(s.held(w), 3)
}

// Whoever follows a link from elsewhere sees what the button would do, and not what the link says that it would.
func TestALinkFromElsewhereCannotSayWhatWasCounted(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 5)
	at := webhookPath(w) + "/diverted/delete"
	is.Equal(s.follow(at+"?total=1").StatusCode, 400) // what was counted has one name

	last := ulid.ULID{2, 0, 0, 2}.String() // one event is behind it
	for _, query := range []string{"?counted=1", "?after=" + last, "?counted=4&after=" + last, "?state=running&counted=5&done=4", "?state=finished&done=5", "?before=2001-01-01T00:00:00Z"} {
		for _, from := range [][]string{
			nil, {"Sec-Fetch-Site", "none"}, {"Sec-Fetch-Site", "same-site"}, {"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "cross-site", "Referer", "http://example.com/console/"},
			{"Referer", "http://elsewhere.example/"}, {"Referer", "http://example.com.elsewhere.example/"}, {"Referer", "about:client"},
		} {
			r := s.get(at+query, from...)
			is.True(r.has("<strong>5</strong> events would be deleted"))
			is.True(r.has("Delete 5 events"))
			_, form := r.form(s, at)
			is.Equal(form.Get("after"), "") // the form begins where the count did
			is.Equal(form.Get("done"), "")
		}
	}

	// What it may say is which events are meant.
	is.True(s.get(at+"?trigger=404", "Sec-Fetch-Site", "cross-site").has("<strong>0</strong> events would be deleted"))
	// The console's own link, as browsers follow it over TLS and over plain HTTP.
	for _, from := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Referer", "http://example.com/console/"}} {
		is.True(s.get(at+"?state=running&counted=5&done=4", from...).has("<strong>4</strong> of 5 deleted"))
	}
}

func TestAFormThatIsTooLargeIsCalledSo(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 3)
	r := s.post(webhookPath(w)+"/diverted/delete", url.Values{"state": {"running"}, "eventType": {strings.Repeat("a", 64<<10)}})
	is.Equal(r.StatusCode, 413)
	is.True(r.has("The form is too large"))
	is.Equal(s.held(w), 3)
}

func TestWhatCannotBeResentIsCountedAsMissed(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	s.many(w, 5)
	is.NoErr(s.store.Expunge(t.Context(), diverted.Key{Tenant: tenant, Webhook: w.Webhook, Event: locator(1)}))
	at := webhookPath(w) + "/diverted/resend"
	target, form := s.get(at).form(s, at)
	r := s.post(target, form)
	r = s.follow(resolve(s, target, r.Header.Get("Location")))
	is.True(r.has("4 events are on their way again"))
	is.True(r.has("1 was skipped: its body was expunged, or it was resent or deleted meanwhile."))

	// What is deleted or set aside needs no body.
	for path, why := range map[string]string{"/diverted/delete": "they were resent or deleted meanwhile", "/divert": "they are no longer pending"} {
		r = s.follow(webhookPath(w) + path + "?state=finished&done=2&missed=3")
		is.True(r.has("3 were skipped: " + why + "."))
	}
}

// Whoever looks at the end no more than in passing sees whether anything was skipped.
func TestTheEndIsAsGoodAsItsOutcome(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	at := webhookPath(s.webhook(1).Key()) + "/diverted/resend?state=finished"
	for query, kind := range map[string]string{"&done=3": "good", "&done=1&missed=2": "warn", "&missed=3": "bad", "": "good"} {
		is.True(s.follow(at + query).has(`<div class="notice ` + kind + `" role="status"><svg class="shape ` + kind + `"`))
	}
}

// A receiver that takes nothing does not make the bar stand still, and is seen before the end.
func TestProgressIsOfWhatWasSkippedToo(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1).Key()
	at := webhookPath(w) + "/diverted/resend?state=running&counted=4500"
	r := s.follow(at + "&done=500&missed=1500")
	is.True(r.has("<strong>500</strong> of 4,500 resent, 1,500 skipped</p>"))
	is.True(r.has(`max="4500" value="2000"`))
	is.True(!s.follow(at + "&done=500").has("skipped"))
}

func TestNoPlanOffersWhatTheWebhookRefuses(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	s.many(w.Key(), 3)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	r := s.get(webhookPath(w.Key()) + "/diverted/resend")
	is.True(r.has("<strong>3</strong> events would be resent"))
	is.True(r.has("The webhook is suspended. Unsuspend it first."))
	is.True(!formAction.MatchString(r.body))
	is.Equal(s.post(webhookPath(w.Key())+"/diverted/resend", url.Values{"state": {"running"}}).StatusCode, 409)

	is.NoErr(s.store.Unsuspend(t.Context(), w.Key()))
	is.Equal(s.get(webhookPath(w.Key())+"/divert").StatusCode, 409)
}

func TestWhatASuspendedWebhookHoldsIsDiverted(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	for range 3 {
		event, err := diverted.NewEvent("order.paid", map[string]int{"amount": 1204})
		is.NoErr(err)
		m, err := diverted.NewMessage(tenant, w.Locator, event)
		is.NoErr(err)
		_, err = s.store.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{m}})
		is.NoErr(err)
	}
	r := s.get(webhookPath(w.Key()))
	is.True(r.has("3 deliveries are waiting"))
	is.True(r.has("Divert pending"))
	r = s.get(webhookPath(w.Key()) + "/pending")
	is.Equal(strings.Count(r.body, "when active"), 3)
	at := webhookPath(w.Key()) + "/divert"
	target, form := s.get(at).form(s, at)
	s.post(target, form)
	is.Equal(s.held(w.Key()), 3)
	is.True(s.get(webhookPath(w.Key()) + "/pending").has("Nothing is pending."))
}

// No page says that what is pending failed with something, or was diverted at some time: that selects nothing of it.
func TestWhatIsPendingIsSelectedByItsTypeAlone(t *testing.T) {
	is := is.New(t)
	s := newSite(t)
	w := s.webhook(1)
	s.accept(w.Key())
	is.NoErr(s.store.Suspend(t.Context(), w.Key()))
	at := webhookPath(w.Key()) + "/divert"
	for _, filter := range []string{"trigger=503", "since=2026-11-23", "until=2026-11-23"} {
		for _, state := range []string{"", "&state=running&counted=1", "&state=finished&done=1"} {
			is.Equal(s.follow(at+"?"+filter+state).StatusCode, 400)
		}
		form, err := url.ParseQuery(filter + "&state=running")
		is.NoErr(err)
		is.Equal(s.post(at, form).StatusCode, 400)
	}
	is.True(s.get(at + "?eventType=order.lost").has("<strong>0</strong> events would be diverted"))
	r := s.get(at + "?eventType=order.paid")
	is.True(r.has("Pending deliveries of <strong><bdi>orders</bdi></strong> with type order.paid."))
	target, form := r.form(s, at)
	s.post(target, form)
	is.Equal(s.held(w.Key()), 1)
}

// plain is a store without what it need not have.
type plain struct{ diverted.Store }

func TestAStoreNeedNoMoreThanBeOne(t *testing.T) {
	is := is.New(t)
	s := newSite(t, func(c *console.Config) { c.Store = plain{c.Store} })
	w := s.webhook(1)
	e := s.divert(w.Key(), 3)
	for _, target := range []string{webhooksPath(tenant), webhookPath(w.Key()), webhookPath(w.Key()) + "/pending", eventPath(e.Key)} {
		r := s.get(target)
		is.Equal(r.StatusCode, 200)
		for _, absent := range []string{"Resend all", "Delete all", "Expunge", "Failure rate, 24 h</dt>"} {
			is.True(!r.has(absent))
		}
	}
	is.Equal(s.get(webhookPath(w.Key())+"/diverted/delete").StatusCode, 400) // no locator of an event
	is.Equal(s.get(eventPath(e.Key)+"/expunge").StatusCode, 404)
}
