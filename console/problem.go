package console

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/hostresend"
	"github.com/divertedevents/diverted/internal/requests"
)

// What can be wrong with a request before a store is asked.
var (
	errNoPage      = errors.New("no such page")
	errMethod      = errors.New("method not allowed")
	errParameter   = errors.New("invalid parameter")
	errCrossOrigin = errors.New("cross-origin request")
	errTooLarge    = errors.New("form too large")
	errTooOften    = errors.New("too often")
	errPanicked    = errors.New("panic")
)

// problem is how an error is shown.
type problem struct {
	err    error
	status int
	title  string
	// detail says what to do. It never depends on what was looked up, so that a foreign locator and an unknown
	// one are answered alike.
	detail string
	// faults: what is wrong with the request is listed.
	faults bool
	// retryAfter, in seconds, says that the same request may succeed later. 0: not sent.
	retryAfter int
}

// problems is the one table from errors to pages: the first entry whose error matches is shown. Anything that is
// not here is unforeseen.
var problems = []problem{
	{err: errNoPage, status: 404, title: "Page not found"},
	{err: errMethod, status: 405, title: "Method not allowed"},
	{err: errParameter, status: 400, title: "Invalid request", faults: true},
	{err: errTooLarge, status: 413, title: "The form is too large", detail: "Nothing was changed. The console's own forms are far smaller."},
	{err: errCrossOrigin, status: 403, title: "This came from another site", detail: "Nothing was changed. If you meant to do it, do it from the console's own pages."},
	{err: httpapi.ErrUnauthenticated, status: 401, title: "Not signed in", detail: "The request has no valid credentials. Sign in, then open the page again."},
	{err: httpapi.ErrForbidden, status: 403, title: "Not permitted", detail: "You do not have permission for this in this tenant."},
	{err: errTooOften, status: 429, title: "Too soon: pinged a few seconds ago", detail: "A ping is a request to someone else's server. Wait a few seconds, then try again."},

	{err: diverted.ErrInvalid, status: 400, title: "Invalid request", faults: true},
	{err: diverted.ErrNotFound, status: 404, title: "Not found", detail: "It does not exist in this tenant. It may have been delivered, resent or deleted a moment ago."},
	{err: diverted.ErrWebhookUnknown, status: 409, title: "The webhook is not registered here", detail: "The event stays diverted: there is no webhook to send it to."},
	{err: diverted.ErrDisabled, status: 409, title: "The webhook is disabled", detail: "Nothing was changed. Enable it first."},
	{err: diverted.ErrSuspended, status: 409, title: "The webhook is suspended", detail: "Nothing was changed. Unsuspend it first."},
	{err: diverted.ErrExpunged, status: 409, title: "The body of this event was expunged", detail: "Nothing was changed. An event without a body can be deleted, but not resent."},
	{err: diverted.ErrConflict, status: 409, title: "Something changed in the meantime", detail: "Nothing was changed. Check the webhook: it may not be in the state that this needs."},

	{err: hostresend.ErrFailed, status: 502, title: "The event could not be resent", detail: "The service's own delivery did not take it. It stays diverted. The service's log says why."},

	{err: hostresend.ErrListed, status: 502, title: "The event was handed over, but is still listed", detail: "The store could not delete it. Resending it hands it over again."},
	{err: diverted.ErrLocked, status: 503, title: "The store is busy", detail: "Try again in a moment.", retryAfter: 1},
	{err: diverted.ErrClosed, status: 503, title: "The service is stopping", detail: "Try again in a moment.", retryAfter: 1},
	{err: context.DeadlineExceeded, status: 503, title: "The store took too long", detail: "Try again in a moment.", retryAfter: 1},
	{err: context.Canceled, status: 503, title: "The request was cancelled", detail: "Try again in a moment.", retryAfter: 1},
}

// unforeseen shows everything else.
var unforeseen = problem{status: 500, title: "Something went wrong", detail: "The service's log has the details."}

// problemOf returns the entry for an error.
func problemOf(err error) problem {
	for _, p := range problems {
		if errors.Is(err, p.err) {
			return p
		}
	}
	return unforeseen
}

// maxErrors bounds the faults that one page lists.
const maxErrors = 20

// problemView is a page that says what went wrong. Only faults of the request itself are repeated; the text of any
// other error is for the log alone.
type problemView struct {
	frame
	Status int
	Detail string
	Faults []diverted.FieldError
	// Back leads to what the request was about.
	Back *crumb
}

// problem returns the answer to an error.
func (c *call) problem(err error) answer {
	p := problemOf(err)
	v := problemView{frame: c.frame(p.title), Status: p.status, Detail: p.detail}
	if !c.wantsJSON() {
		c.withPlace(&v.frame, p.status)
	}
	var invalid *diverted.InvalidError
	if p.faults && errors.As(err, &invalid) {
		v.Faults = invalid.Fields[:min(len(invalid.Fields), maxErrors)]
	}
	if n := len(v.Crumbs); n > 0 {
		v.Back = &v.Crumbs[n-1]
	}
	header := http.Header{}
	if p.retryAfter > 0 {
		header.Set("Retry-After", fmt.Sprint(p.retryAfter))
	}
	requests.SetHeader(header, err)
	if p.status == http.StatusUnauthorized {
		header.Set("WWW-Authenticate", c.h.config.Challenge)
	}
	if c.wantsJSON() {
		return answer{status: p.status, header: header, json: stepProblem{Title: p.title, Detail: p.detail}}
	}
	a := render("problem", v)
	a.status, a.header = p.status, header
	return a
}

// withPlace adds the way to the page of the webhook that a request was about, unless there is none to lead to.
func (c *call) withPlace(f *frame, status int) {
	if c.webhook.IsZero() || !c.may(httpapi.WebhooksRead) {
		return
	}
	name := "Webhook " + c.webhook.String()
	if status < 500 { // else the store may be what failed
		w, _, err := c.fetchWebhook()
		if err != nil {
			return
		}
		name = w.Name
	}
	f.withWebhook(c, name)
}
