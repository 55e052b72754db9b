package console

import (
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
)

// eventView is one diverted event.
type eventView struct {
	frame
	Locator, Request, Type string
	DivertedAt, AcceptedAt moment
	Failure                attemptRow
	// Attempts are those that are remembered, oldest first.
	Attempts []attemptRow
	// Earlier says that there were more, which are forgotten.
	Earlier bool
	// Sent are the headers of its messages; nil: the caller may not know, or nobody does. To is where they went.
	To   string
	Sent []header
	// Body is what was sent, taken apart; Whole says whether all of it is shown. Shows says whether the caller may see it.
	Shows, Whole, Expunged bool
	Body                   []token
	Size                   int
	Download               string
	// Where the buttons lead to; empty: not offered. Held says why there is no Resend.
	Resend, Delete, Expunge string
	Held                    string
}

// attemptRow is an attempt on the timeline.
type attemptRow struct {
	Number     int
	At         moment
	Trigger    diverted.Trigger
	Message    string
	Duration   string
	RetryAfter string
	Excerpt    string
	// After says how long after the attempt before it ended this one did; empty: it is the first.
	After string
	// Again: a fresh budget began with it, by a resend or an unsuspend.
	Again bool
}

// header is a header of a message. Its kind is empty where the value is the one that was sent, id where that is a locator,
// masked where a mask stands for it, and told where words do.
type header struct{ Name, Value, Kind string }

func (c *call) showEvent() (answer, error) {
	e, err := c.h.config.Store.FetchDiverted(c.r.Context(), c.key())
	if err != nil {
		return answer{}, err
	}
	v := eventView{
		frame: c.frame("Event " + e.Event.String()), Locator: e.Event.String(), Request: e.RequestLocator.String(), Type: e.EventType,
		DivertedAt: c.moment(e.DivertedAt), AcceptedAt: c.moment(e.AcceptedAt),
		Expunged: e.Expunged, Shows: c.may(httpapi.DivertedRead, httpapi.DivertedPayload), Size: len(e.Body),
	}
	v.Failure = c.attemptRow(e.Failure)
	v.Failure.Message = visible(unrepeated(e.Failure, true))
	failures := e.Failures
	if len(failures) == 0 {
		failures = []diverted.Failure{e.Failure}
	}
	v.Earlier = len(failures) == diverted.MaxFailures
	for i, f := range failures {
		row := c.attemptRow(f)
		if i > 0 {
			before := failures[i-1]
			if wait := f.At.Sub(before.At); wait > 0 {
				row.After = span(wait) + " later"
				if before.Attempt > 0 {
					row.After = span(wait) + " after attempt " + count(before.Attempt)
				}
			}
			row.Again = f.Attempt > 0 && f.Attempt <= max(before.Attempt, 1)
		}
		v.Attempts = append(v.Attempts, row)
	}
	if v.Shows && !e.Expunged {
		v.Body, v.Whole = pretty(e.Body, maxShown)
		v.Download = c.eventLink("body")
	}

	w, known, err := c.fetchWebhook()
	if err != nil {
		return answer{}, err
	}
	if known && c.may(httpapi.WebhooksRead) {
		v.To, v.Sent = shownURL(w.Endpoint.URL), sentHeaders(w.Endpoint, e, c.now)
	}
	v.withWebhook(c, w.Name)
	c.offerEvent(&v, w, known)
	return render("event", v), nil
}

// offerEvent offers what can be done with the event, and would not be refused.
func (c *call) offerEvent(v *eventView, w diverted.Webhook, known bool) {
	if c.may(httpapi.DivertedResend) {
		switch {
		case v.Expunged:
			v.Held = "It cannot be resent: its body was expunged."
		case c.h.hostResends(): // which decides
			v.Resend = c.eventLink("resend")
		case !known:
			v.Held = "It cannot be resent from here: its webhook is not registered here."
		case w.Suspended() && !w.Enabled:
			v.Held = "It can be resent once its webhook is unsuspended and enabled."
		case w.Suspended():
			v.Held = "It can be resent once its webhook is unsuspended."
		case !w.Enabled:
			v.Held = "It can be resent once its webhook is enabled."
		default:
			v.Resend = c.eventLink("resend")
		}
	}
	if c.may(httpapi.DivertedDelete) {
		v.Delete = c.eventLink("delete")
		if c.h.retention != nil && !v.Expunged {
			v.Expunge = c.eventLink("expunge")
		}
	}
}

func (c *call) attemptRow(f diverted.Failure) attemptRow {
	row := attemptRow{
		Number: f.Attempt, At: c.moment(f.At), Trigger: f.Trigger, Message: visible(unrepeated(f, false)), Excerpt: visible(f.Excerpt),
	}
	if f.Duration > 0 {
		row.Duration = span(f.Duration)
	}
	if f.RetryAfter > 0 {
		row.RetryAfter = span(f.RetryAfter)
	}
	return row
}

// sentHeaders are the headers of an event's messages, as the webhook stands. The values of its own headers are
// credentials, and the signatures would be if the receiver's clock stood still.
func sentHeaders(endpoint diverted.Endpoint, e diverted.DivertedEvent, now time.Time) []header {
	headers := []header{
		{"Content-Type", "application/json", ""},
		{"User-Agent", "set by the dispatcher", "told"},
		{"webhook-id", e.Event.String(), "id"},
		{"webhook-timestamp", "time of each attempt (Unix seconds)", "told"},
	}
	if endpoint.HMACEnabled {
		signatures := []string{"v1," + diverted.Mask}
		for _, old := range endpoint.OldSecrets {
			if old.Until.After(now) {
				signatures = append(signatures, "v1,"+diverted.Mask)
			}
		}
		headers = append(headers, header{"webhook-signature", strings.Join(signatures, " "), "masked"})
	}
	for _, name := range slices.Sorted(maps.Keys(endpoint.Headers)) {
		for range endpoint.Headers[name] {
			headers = append(headers, header{http.CanonicalHeaderKey(name), diverted.Mask, "masked"})
		}
	}
	return headers
}

// downloadBody answers with the body as it was sent, for a browser to save and not to show.
func (c *call) downloadBody() (answer, error) {
	e, err := c.h.config.Store.FetchDiverted(c.r.Context(), c.key())
	if err != nil {
		return answer{}, err
	}
	if e.Expunged {
		return answer{}, diverted.ErrExpunged
	}
	return answer{status: http.StatusOK, body: e.Body, header: http.Header{
		"Content-Type":        {"application/json"},
		"Content-Disposition": {`attachment; filename="` + e.Event.String() + `.json"`},
	}}, nil
}

// The buttons of an event. Each leads to the page of its webhook, or, if the caller may not see that, says what was done.

func (c *call) resend() (answer, error) {
	told, resend := "resent", c.h.config.Store.Resend
	if c.h.hostResends() {
		told, resend = "handed", c.h.host.One
	}
	return c.change(c.done(told), func() error { return resend(c.r.Context(), c.key()) })
}

func (c *call) delete() (answer, error) {
	return c.change(c.done("deleted"), func() error { return c.h.config.Store.DeleteDiverted(c.r.Context(), c.key()) })
}

func (c *call) expunge() (answer, error) {
	told := c.done("expunged")
	if c.may(httpapi.DivertedRead) {
		told = seeOther(c.eventLink() + "?notice=expunged")
	}
	return c.change(told, func() error { return c.h.retention.Expunge(c.r.Context(), c.key()) })
}

// change does something, and answers with what was made ready before: that asks the authorizer, whose fault would hide that it is
// done.
func (c *call) change(told answer, do func() error) (answer, error) {
	if c.unsure != nil {
		return answer{}, c.unsure
	}
	if err := do(); err != nil {
		return answer{}, err
	}
	return told, nil
}

// done leads to the page of the webhook, which says what was done, or says it itself if the caller may not see that.
func (c *call) done(what string) answer {
	if c.may(httpapi.WebhooksRead) {
		return seeOther(c.webhookLink() + "?notice=" + what)
	}
	n := notices[what]
	return render("problem", problemView{frame: c.frame(n.Title), Status: http.StatusOK, Detail: n.Detail})
}

// confirmView asks before something that is not to be done by a slip of the finger.
type confirmView struct {
	frame
	Action, Back         string
	Question, What, Does string
	// Danger: it cannot be undone.
	Danger bool
	// Name is the webhook's, Type the event's; empty: it is not about one, or the caller may not know.
	Name, Type string
}

// ask is the page, which leads back to the one above it.
func (v confirmView) ask() answer {
	if n := len(v.Crumbs); n > 0 {
		v.Back = v.Crumbs[n-1].Link
	}
	return render("confirm", v)
}

func (c *call) confirmDelete() (answer, error) {
	return c.confirm("delete", "Delete this event?", "This permanently deletes its record, attempts and body. The receiver will never get it.", "Delete the event")
}

func (c *call) confirmExpunge() (answer, error) {
	return c.confirm("expunge", "Expunge the body of this event?",
		"This permanently removes its body, and the excerpts of what the receiver answered. The record stays: that the event existed, and how it failed. It can then be deleted, but not resent.",
		"Expunge the body")
}

func (c *call) confirm(action, question, what, does string) (answer, error) {
	e, err := c.h.config.Store.FetchDiverted(c.r.Context(), c.key())
	if err != nil {
		return answer{}, err
	}
	v := confirmView{frame: c.frame(question), Action: c.eventLink(action), Question: question, What: what, Does: does, Danger: true}
	w, _, err := c.fetchWebhook()
	if err != nil {
		return answer{}, err
	}
	v.withWebhook(c, w.Name)
	v.withEvent(c)
	if c.may(httpapi.DivertedRead) {
		v.Type = e.EventType
	}
	return v.ask(), nil
}
