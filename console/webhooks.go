package console

import (
	"net/url"
	"strings"
	"unicode/utf8"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// webhooksPage is how many webhooks a page lists: each has its numbers looked up.
const webhooksPage = 25

// webhooksView is the list of a tenant's webhooks.
type webhooksView struct {
	frame
	// Numbers are those of the whole tenant; nil if the store has none.
	Numbers  *numbers
	Webhooks []webhookRow
	// What was searched for.
	Name, State, EventType string
	Searched               bool
	// All leads to the list without conditions, Suspended to what is suspended, First to the first page, Next to the
	// next; empty: there is none.
	All, Suspended, First, Next string
}

// webhookRow is a webhook in the list.
type webhookRow struct {
	Name, Link, URL string
	State           state
	Numbers         *numbers
}

// state is what a webhook does at the moment.
type state struct {
	// Name is active, failing, suspended or disabled, and the shape that stands beside it.
	Name string
	// Since is when a suspension began.
	Since moment
}

// stateOf says what a webhook does at the moment. An active one is failing if its last attempt failed.
func (c *call) stateOf(w diverted.Webhook, n *numbers) state {
	switch {
	case w.Suspended():
		return state{"suspended", c.moment(w.SuspendedAt)}
	case !w.Enabled:
		return state{Name: "disabled"}
	case n != nil && n.Stats.LastFailure.After(n.Stats.LastSuccess):
		return state{Name: "failing"} // the numbers tell the last success
	default:
		return state{Name: "active"}
	}
}

// numbers are the statistics of something as a page shows them.
type numbers struct {
	diverted.Stats
	call *call
	// Delivered and Failed count the attempts of the last 24 hours.
	Delivered, Failed int
}

// numbersOf asks the store for the numbers of a webhook, or of the tenant if webhook is zero, with those of that many of
// the last hours, 24 or more; nil if the store has none.
func (c *call) numbersOf(webhook ulid.ULID, hours int) (*numbers, error) {
	if c.h.stats == nil {
		return nil, nil
	}
	stats, err := c.h.stats.Stats(c.r.Context(), diverted.StatsQuery{Tenant: c.tenant, Webhook: webhook, Hours: hours})
	if err != nil {
		return nil, err
	}
	n := &numbers{Stats: stats, call: c}
	for _, hour := range stats.Hours {
		if c.now.Sub(hour.Hour) <= day {
			n.Delivered += hour.Delivered
			n.Failed += hour.Failed
		}
	}
	return n, nil
}

// Rate is the share of the attempts of the last 24 hours that failed.
func (n *numbers) Rate() string { return percent(n.Failed, n.Failed+n.Delivered) }

// Attempts counts those of the last 24 hours.
func (n *numbers) Attempts() int { return n.Failed + n.Delivered }

// Grade is how bad the rate is: none is less than 1 %, or of no attempts, high is 20 % and more.
func (n *numbers) Grade() string {
	switch {
	case n.Failed == 0 || n.Failed*100 < n.Attempts():
		return "none"
	case n.Failed*5 < n.Attempts():
		return "low"
	default:
		return "high"
	}
}

// Oldest is when the oldest pending delivery was accepted.
func (n *numbers) Oldest() moment { return n.call.moment(n.OldestPending) }

// Success is when a receiver last answered 2xx.
func (n *numbers) Success() moment { return n.call.moment(n.LastSuccess) }

// Failure is when an attempt last failed.
func (n *numbers) Failure() moment { return n.call.moment(n.LastFailure) }

// FirstSuspended is since when a webhook, or the first of several, is suspended.
func (n *numbers) FirstSuspended() moment { return n.call.moment(n.SuspendedAt) }

func (c *call) listWebhooks() (answer, error) {
	v := webhooksView{
		frame: c.frame("Webhooks"), All: c.webhooksLink(), Suspended: c.webhooksLink() + "?state=suspended",
		Name: c.query["name"], State: c.query["state"], EventType: c.query["eventType"],
	}
	v.Crumbs = nil // they would lead here
	v.Searched = v.Name != "" || v.State != "" || v.EventType != ""

	var f faults
	if s, given := c.query["webhook"]; given {
		c.query["webhook"] = strings.TrimSpace(s) // it is pasted, with what was selected around it
	}
	webhook := c.query.locator(&f, "webhook")
	query := diverted.WebhookQuery{Tenant: c.tenant, Name: v.Name, After: c.query.locator(&f, "after"), Limit: webhooksPage}
	if !utf8.ValidString(v.Name) || utf8.RuneCountInString(v.Name) > diverted.MaxNameLength {
		f.Add("name", "must be 1 to %d characters", diverted.MaxNameLength)
	}
	switch v.State {
	case "":
	case "active":
		query.Active = new(true)
	case "suspended":
		query.Suspended = new(true)
	case "disabled":
		query.Enabled = new(false)
	default:
		f.Add("state", "must be active, suspended or disabled")
	}
	if v.EventType != "" {
		f.Merge("", diverted.DivertedFilter{EventType: v.EventType}.Validate())
		query.EventTypes = []string{v.EventType}
	}
	if err := f.Err(errParameter); err != nil {
		return answer{}, err
	}

	// The list has what the store knows; diverted events may be of a webhook that it does not know.
	if !webhook.IsZero() {
		c.webhook = webhook
		return seeOther(c.webhookLink()), nil
	}

	page, err := c.h.config.Store.ListWebhooks(c.r.Context(), query)
	if err != nil {
		return answer{}, err
	}
	if v.Numbers, err = c.numbersOf(ulid.Zero, 24); err != nil {
		return answer{}, err
	}
	for _, w := range page.Webhooks {
		n, err := c.numbersOf(w.Locator, 24)
		if err != nil {
			return answer{}, err
		}
		v.Webhooks = append(v.Webhooks, webhookRow{
			Name: visible(w.Name), Link: c.webhooksLink() + "/" + w.Locator.String(), URL: shownURL(w.Endpoint.URL),
			State: c.stateOf(w, n), Numbers: n,
		})
	}

	conditions := url.Values{}
	for _, name := range []string{"name", "state", "eventType"} {
		if s := c.query[name]; s != "" {
			conditions.Set(name, s)
		}
	}
	if !query.After.IsZero() {
		v.First = withQuery(c.webhooksLink(), conditions)
	}
	if n := len(page.Webhooks); page.More && n > 0 {
		conditions.Set("after", page.Webhooks[n-1].Locator.String())
		v.Next = withQuery(c.webhooksLink(), conditions)
	}
	return render("webhooks", v), nil
}

// withQuery is an address with a query.
func withQuery(link string, query url.Values) string {
	if len(query) == 0 {
		return link
	}
	return link + "?" + query.Encode()
}
