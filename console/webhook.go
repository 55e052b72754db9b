package console

import (
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/requests"
)

// eventsPage is how many events a page lists.
const eventsPage = 50

// whyPage is how many pending deliveries are looked at for why they fail.
const whyPage = 20

const day = 24 * time.Hour

// chartHours is how far back the chart goes unless one asks.
const chartHours = 24

// webhookView is one webhook.
type webhookView struct {
	frame
	webhookHead
	Numbers *numbers
	// Why says what most of the diverted events failed with, or else pending deliveries, which Pends leads to; empty:
	// there are none, or nobody knows.
	Why, Pends string
	// Handling says in words what becomes of failures, Schedule draws its retries; nil: there are none.
	Handling []string
	Schedule *schedule
	Chart    *chart
	// Facts are the rest of what there is to know.
	Facts []fact

	// Lists says whether the caller may see diverted events.
	Lists    bool
	Filter   filterForm
	Diverted []divertedRow
	// First leads to the first page, Next to the next; empty: there is none.
	First, Next string
	// ResendAll, DeleteAll and DivertAll lead to the pages that do so; empty: not offered. Held says why there is no
	// ResendAll.
	ResendAll, DeleteAll, DivertAll string
	Held                            string
}

// webhookHead is what all pages of a webhook begin with.
type webhookHead struct {
	Name, Locator, URL string
	// Known: the store has the webhook. A host that delivers by itself need not put it there.
	Known bool
	State state
	// Disabled: it is so, perhaps beside suspended.
	Disabled bool
	// Tab is the page that is shown, Here and Pending are the links of the two; Pending is empty where the caller may
	// not list.
	Tab           string
	Here, Pending string
	// Where the buttons lead or send to; empty: not offered.
	Ping, Suspend, Unsuspend string
	// Waiting counts the pending deliveries, −1 if nobody knows.
	Waiting int
}

type fact struct{ Name, Value string }

// divertedRow is an event in the list.
type divertedRow struct {
	Locator, Link, Type, Message string
	Trigger                      diverted.Trigger
	Attempts                     int
	At                           moment
	Expunged                     bool
}

// filterForm is the form that filters diverted events, as it is filled in.
type filterForm struct {
	Action                           string
	Trigger, EventType, Since, Until string
	// Hours is how far back the chart goes; empty: as far as it does unless one asks.
	Hours string
	// Words say what is selected; empty: all.
	Words string
	// Clear leads to the list of all.
	Clear string
	// Triggers are those that there are.
	Triggers []diverted.Trigger
}

// fetchWebhook returns the webhook of the call, or one that has a locator alone if the store does not know it but
// has diverted events of it, or had until just now: its host delivers by itself. Its name is as a page shows it.
func (c *call) fetchWebhook() (w diverted.Webhook, known bool, err error) {
	w, err = c.h.config.Store.FetchWebhook(c.r.Context(), c.webhookKey())
	if !errors.Is(err, diverted.ErrNotFound) {
		w.Name = visible(w.Name)
		return w, err == nil, err
	}
	page, listErr := c.h.config.Store.ListDiverted(c.r.Context(), diverted.DivertedQuery{Webhook: c.webhookKey(), Limit: 1})
	if listErr != nil {
		return w, false, listErr
	}
	if len(page.Events) == 0 && !c.lastHasLeft() {
		delete(c.query, "notice") // a page that says that there is nothing does not say that something was done to it
		return w, false, err
	}
	return diverted.Webhook{Tenant: c.tenant, Locator: c.webhook, Name: "Webhook " + c.webhook.String()}, false, nil
}

// head returns what the pages of a webhook begin with.
func (c *call) head(w diverted.Webhook, known bool, n *numbers, tab string) webhookHead {
	head := webhookHead{Name: w.Name, Locator: w.Locator.String(), Known: known, Tab: tab, Here: c.webhookLink(), Waiting: -1}
	if n != nil {
		head.Waiting = n.Stats.Pending
	}
	if !known {
		return head
	}
	head.URL = shownURL(w.Endpoint.URL)
	head.State, head.Disabled = c.stateOf(w, n), !w.Enabled
	if c.may(httpapi.DivertedRead, httpapi.DivertedList) {
		head.Pending = c.webhookLink("pending")
	}
	if c.may(httpapi.WebhooksWrite) {
		if c.h.config.Pinger != nil {
			head.Ping = c.webhookLink("ping")
		}
		if w.Suspended() {
			head.Unsuspend = c.webhookLink("unsuspend")
		} else {
			head.Suspend = c.webhookLink("suspend")
		}
	}
	return head
}

func (c *call) showWebhook() (answer, error) {
	var f faults
	hours := c.query.number(&f, "hours", diverted.MaxStatsHours)
	if hours == 0 {
		hours = chartHours
	}
	filter, after := c.query.filter(&f), c.query.locator(&f, "after")
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}
	return c.webhookPage(filter, after, hours, nil)
}

// webhookPage makes the page of a webhook; done, if it is not nil, says what was just done.
func (c *call) webhookPage(filter diverted.DivertedFilter, after ulid.ULID, hours int, done *notice) (answer, error) {
	w, known, err := c.fetchWebhook()
	if err != nil {
		return answer{}, err
	}
	n, err := c.numbersOf(c.webhook, max(hours, 24))
	if err != nil {
		return answer{}, err
	}
	v := webhookView{
		frame: c.frame(w.Name), webhookHead: c.head(w, known, n, "diverted"), Numbers: n,
		Lists: c.may(httpapi.DivertedRead, httpapi.DivertedList),
	}
	if done != nil {
		v.Notice = done
	}
	if known {
		handling := w.Handling()
		v.Handling = handlingWords(handling)
		if handling.Retry != nil {
			v.Schedule = newSchedule(*handling.Retry)
		}
		v.Facts = factsOf(w, c.now)
	}
	if n != nil {
		v.Why = why(n.Stats)
		v.Chart = c.newChart(n.Stats, hours)
	}
	if v.Lists {
		if err := c.listDiverted(&v, filter, after, hours); err != nil {
			return answer{}, err
		}
	}
	if known && v.Why == "" {
		if err := c.explain(&v, w); err != nil {
			return answer{}, err
		}
	}
	c.offerBulk(&v, w, known, filter)
	return render("webhook", v), nil
}

// explain says why deliveries fail where nothing is diverted that says it: retries can go on for most of a day before
// anything is, and some webhooks divert nothing at all.
func (c *call) explain(v *webhookView, w diverted.Webhook) error {
	if v.State.Name == "active" {
		return nil
	}
	if v.Pending != "" { // the caller may list them
		page, err := c.h.config.Store.ListPending(c.r.Context(), diverted.DivertedQuery{Webhook: c.webhookKey(), Limit: whyPage})
		if err != nil {
			return err
		}
		var last *diverted.Failure
		for _, d := range page.Deliveries {
			if d.Failure != nil && (last == nil || d.Failure.At.After(last.At)) {
				last = d.Failure
			}
		}
		if last != nil {
			does := "fail"
			if !w.Active() {
				does = "failed"
			}
			v.Why, v.Pends = "Deliveries "+does+" with "+named(last.Trigger)+".", v.Pending
		}
	}
	if h := w.Handling(); v.State.Name == "failing" && !h.Divert && !h.Suspend {
		dropped := "Failed events are dropped."
		switch {
		case h.Retry != nil && handlesAll(h):
			dropped = "Failed events are dropped once their retries are used up."
		case h.Retry != nil:
			dropped = "Events that fail with " + list(h.Triggers) + " are dropped once their retries are used up, all others at once."
		}
		v.Why = strings.TrimSpace(v.Why + " " + dropped)
	}
	return nil
}

// listDiverted fills in the list of diverted events.
func (c *call) listDiverted(v *webhookView, filter diverted.DivertedFilter, after ulid.ULID, hours int) error {
	page, err := c.h.config.Store.ListDiverted(c.r.Context(), diverted.DivertedQuery{
		Webhook: c.webhookKey(), Filter: filter, After: after, Limit: eventsPage,
	})
	if err != nil {
		return err
	}
	for _, e := range page.Events {
		v.Diverted = append(v.Diverted, divertedRow{
			Locator: e.Event.String(), Link: c.webhookLink("diverted", e.Event.String()), Type: e.EventType,
			Message: visible(e.Failure.Message), Trigger: e.Failure.Trigger, Attempts: e.Attempts, At: c.moment(e.DivertedAt), Expunged: e.Expunged,
		})
	}
	v.Filter = c.newFilterForm(filter, hours)
	if v.Numbers != nil {
		v.Filter.Triggers = byNumber(v.Numbers.Diverted)
	}
	query := webhookQuery(filter, hours)
	if !after.IsZero() {
		v.First = c.listLink(query)
	}
	if n := len(page.Events); page.More && n > 0 {
		query.Set("after", page.Events[n-1].Event.String())
		v.Next = c.listLink(query)
	}
	return nil
}

// webhookQuery is the query of a link to the same page: what its list shows, and how far back its chart goes.
func webhookQuery(filter diverted.DivertedFilter, hours int) url.Values {
	query := filterQuery(filter)
	if hours != chartHours {
		query.Set("hours", strconv.Itoa(hours))
	}
	return query
}

// listLink leads to the list on the page.
func (c *call) listLink(query url.Values) string {
	return withQuery(c.webhookLink(), query) + "#diverted"
}

func (c *call) newFilterForm(f diverted.DivertedFilter, hours int) filterForm {
	field := func(t time.Time) string { // as a browser's field for a date and a time has it
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("2006-01-02T15:04:05")
	}
	all := webhookQuery(diverted.DivertedFilter{}, hours)
	return filterForm{
		Action: c.webhookLink(), Hours: all.Get("hours"), Clear: c.listLink(all),
		Trigger: string(f.Trigger), EventType: f.EventType, Since: field(f.Since), Until: field(f.Until), Words: filterWords(f),
	}
}

// offerBulk offers what can be done to all that is selected, and would not be refused.
func (c *call) offerBulk(v *webhookView, w diverted.Webhook, known bool, filter diverted.DivertedFilter) {
	if c.h.bulk == nil {
		return
	}
	if len(v.Diverted) > 0 {
		query := filterQuery(filter)
		if c.may(resendAll.permissions...) {
			if v.Held = c.held(w, known); v.Held == "" {
				v.ResendAll = withQuery(c.webhookLink(resendAll.path), query)
			}
		}
		if c.may(deleteAll.permissions...) {
			v.DeleteAll = withQuery(c.webhookLink(deleteAll.path), query)
		}
	}
	if known && !w.Active() && v.Waiting != 0 && c.may(divertAll.permissions...) {
		v.DivertAll = c.webhookLink(divertAll.path)
	}
}

// held says why diverted events cannot be resent; empty: they can.
func (c *call) held(w diverted.Webhook, known bool) string {
	switch {
	case c.h.hostResends(): // which decides
		return ""
	case !known:
		return "They cannot be resent from here: the webhook is not registered here."
	case w.Suspended() && !w.Enabled:
		return "They can be resent once the webhook is unsuspended and enabled."
	case w.Suspended():
		return "They can be resent once the webhook is unsuspended."
	case !w.Enabled:
		return "They can be resent once the webhook is enabled."
	}
	return ""
}

// factsOf says the rest of what there is to know of a webhook.
func factsOf(w diverted.Webhook, now time.Time) []fact {
	facts := []fact{{"Event types", strings.Join(w.EventTypes, ", ")}}
	signed := "no"
	if w.Endpoint.HMACEnabled {
		signed = "yes (HMAC)"
		n := 1
		for _, old := range w.Endpoint.OldSecrets {
			if old.Until.After(now) {
				n++
			}
		}
		if n > 1 {
			signed = "yes (HMAC), with " + count(n) + " secrets during rotation"
		}
	}
	facts = append(facts, fact{"Signed", signed})
	if n := len(w.Endpoint.Headers); n > 0 {
		facts = append(facts, fact{"Custom headers", count(n)})
	}
	if w.Endpoint.InsecureTLS {
		facts = append(facts, fact{"TLS certificate", "not verified"})
	}
	if w.MaxPerSecond > 0 {
		facts = append(facts, fact{"Rate limit", plural(w.MaxPerSecond, "attempt", "attempts") + " a second"})
	}
	if w.Endpoint.Tag != "" {
		facts = append(facts, fact{"Tag", visible(w.Endpoint.Tag)})
	}
	return facts
}

// why says what most diverted events failed with.
func why(s diverted.Stats) string {
	all := s.DivertedInAll()
	if all == 0 {
		return ""
	}
	first := byNumber(s.Diverted)[0]
	name := named(first)
	switch n := s.Diverted[first]; {
	case all == 1:
		return "The one diverted event failed with " + name + "."
	case n == all:
		return "All " + count(all) + " diverted events failed with " + name + "."
	default:
		return count(n) + " of " + count(all) + " diverted events failed with " + name + "."
	}
}

func (c *call) confirmSuspend() (answer, error) {
	w, err := c.h.config.Store.FetchWebhook(c.r.Context(), c.webhookKey())
	if err != nil {
		return answer{}, err
	}
	const question = "Suspend this webhook?"
	v := confirmView{
		frame: c.frame(question), Action: c.webhookLink("suspend"), Question: question, Does: "Suspend the webhook",
		What: "Nothing more is attempted once the attempts under way have ended. What is pending, and whatever is sent to this webhook, is held until it is unsuspended.",
	}
	v.withWebhook(c, visible(w.Name))
	if c.may(httpapi.WebhooksRead) {
		v.Name = visible(w.Name)
	}
	return v.ask(), nil
}

func (c *call) suspend() (answer, error) {
	return c.change(c.done("suspended"), func() error { return c.h.config.Store.Suspend(c.r.Context(), c.webhookKey()) })
}

func (c *call) unsuspend() (answer, error) {
	w, err := c.h.config.Store.FetchWebhook(c.r.Context(), c.webhookKey())
	if err != nil {
		return answer{}, err
	}
	told := "unsuspended"
	if !w.Enabled {
		told = "stilldisabled"
	}
	return c.change(c.done(told), func() error { return c.h.config.Store.Unsuspend(c.r.Context(), c.webhookKey()) })
}

func (c *call) ping() (answer, error) {
	// Looked up first: an unknown webhook must not take a place in the limiter.
	if _, err := c.h.config.Store.FetchWebhook(c.r.Context(), c.webhookKey()); err != nil {
		return answer{}, err
	}
	if wait := c.h.pings.Take(c.webhookKey(), c.now); wait > 0 {
		return answer{}, requests.Later(errTooOften, wait)
	}
	result, err := c.h.config.Pinger.Ping(c.r.Context(), c.webhookKey())
	if err != nil {
		return answer{}, err
	}
	done := notice{Kind: "good", Title: "The ping was delivered", Detail: "The receiver answered with a success status."}
	if f := result.Failure; f != nil {
		done = notice{Kind: "bad", Title: "The ping failed with " + string(f.Trigger), Detail: visible(f.Message)}
		if f.Duration > 0 {
			took := "after "
			if f.Duration < time.Millisecond {
				took = "in "
			}
			done.Detail += " (" + took + span(f.Duration) + ")"
		}
	}
	if !c.may(httpapi.WebhooksRead) {
		v := problemView{frame: c.frame(done.Title), Status: http.StatusOK, Detail: done.Detail}
		return render("problem", v), nil
	}
	return c.webhookPage(diverted.DivertedFilter{}, ulid.Zero, chartHours, &done)
}
