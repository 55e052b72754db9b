package console

import (
	"context"
	"errors"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/httpapi"
	"github.com/divertedevents/diverted/internal/requests"
)

// bulk is something that is done to many events of a webhook: first counted, then done, both in steps that the browser
// drives, so that nothing is remembered between two of them. What a step knows of those before it is in its form.
type bulk struct {
	path        string
	permissions []httpapi.Permission
	// filters name the parameters that select the events; others are refused.
	filters []string
	// danger: it cannot be undone.
	danger bool
	// title asks, does is what the button does, doing says how far it is; each is followed by, or follows, a number of events.
	title, does, doing, explain string
	// done says of one event, or of several, that it is done; left why it may have been skipped: whatever is done, somebody else
	// may have been faster.
	done, left forms
	run        func(*call, diverted.BulkRequest) (diverted.BulkResult, error)
}

// forms are what is said of one event, and of several.
type forms struct{ one, many string }

func (f forms) of(n int) string {
	if n == 1 {
		return f.one
	}
	return f.many
}

// stepOf has the store itself make a step.
func stepOf(step func(diverted.BulkStore, context.Context, diverted.BulkRequest) (diverted.BulkResult, error)) func(*call, diverted.BulkRequest) (diverted.BulkResult, error) {
	return func(c *call, request diverted.BulkRequest) (diverted.BulkResult, error) {
		return step(c.h.bulk, c.r.Context(), request)
	}
}

var (
	resendAll = &bulk{
		path: "diverted/resend", permissions: []httpapi.Permission{httpapi.DivertedList, httpapi.DivertedResend}, filters: filterNames,
		title: "Resend diverted events", does: "Resend", doing: "resent",
		explain: "Each gets a fresh retry budget, and the oldest goes first. They are sent only as fast as the receiver can take them, however fast they are queued.",
		done:    forms{"is on its way again", "are on their way again"},
		left:    forms{"its body was expunged, or it was resent or deleted meanwhile", "their bodies were expunged, or they were resent or deleted meanwhile"},
		run:     stepOf(diverted.BulkStore.ResendAll),
	}
	// handAll is resendAll where the host delivers by itself.
	handAll = &bulk{
		path: resendAll.path, permissions: resendAll.permissions, filters: resendAll.filters,
		title: resendAll.title, does: resendAll.does, doing: "handed over",
		explain: "Each is handed to the service's own delivery, and removed from here once that delivery has taken it. What it does not take stays diverted.",
		done:    forms{"was handed to the service's own delivery", "were handed to the service's own delivery"},
		left: forms{
			"its body was expunged, it was resent or deleted meanwhile, or the service's own delivery did not take it and its log says why",
			"their bodies were expunged, they were resent or deleted meanwhile, or the service's own delivery did not take them and its log says why",
		},
		run: func(c *call, request diverted.BulkRequest) (diverted.BulkResult, error) {
			return c.h.host.All(c.r.Context(), c.report(), request)
		},
	}
	deleteAll = &bulk{
		path: "diverted/delete", permissions: []httpapi.Permission{httpapi.DivertedList, httpapi.DivertedDelete}, filters: filterNames, danger: true,
		title: "Delete diverted events", does: "Delete", doing: "deleted", done: forms{"was deleted", "were deleted"},
		explain: "This permanently deletes their records, attempts and bodies. The receiver will never get them.",
		left:    forms{"it was resent or deleted meanwhile", "they were resent or deleted meanwhile"},
		run:     stepOf(diverted.BulkStore.DeleteAll),
	}
	divertAll = &bulk{
		path: "divert", permissions: []httpapi.Permission{httpapi.WebhooksWrite, httpapi.DivertedList},
		filters: []string{"eventType"}, // what is pending was not diverted yet, and may not have failed
		title:   "Divert pending deliveries", does: "Divert", doing: "diverted", done: forms{"was set aside", "were set aside"},
		explain: "They are set aside, to be looked at, resent or deleted like any other diverted event. They are not sent by themselves when the webhook is active again.",
		left:    forms{"it is no longer pending", "they are no longer pending"},
		run:     stepOf(diverted.BulkStore.DivertAll),
	}
)

// hostResends says whether what is resent goes to the host instead of the store.
func (h *Handler) hostResends() bool { return h.config.Resend != nil }

// bulks are what this console does to many events.
func (h *Handler) bulks() []*bulk {
	if h.hostResends() {
		return []*bulk{handAll, deleteAll, divertAll}
	}
	return []*bulk{resendAll, deleteAll, divertAll}
}

// The states of what is done to many events.
const (
	counting = ""         // nothing is done yet
	running  = "running"  // some steps are done, more are to come
	finished = "finished" // all are done
)

// The sizes of a step: of one that counts, of one that a form asks for, and of one that the script asks for, whose
// progress is to be seen.
const (
	countStep  = diverted.MaxBulk
	formStep   = diverted.MaxBulk
	scriptStep = diverted.DefaultBulk
)

// maxCount is the greatest number that a form may carry: what an int holds on every machine.
const maxCount = math.MaxInt32

// progress is how far something that is done to many events has come.
type progress struct {
	Request diverted.BulkRequest
	State   string
	// Counted are those found so far, and once something is done all of them, 0 if nobody waited for that.
	Counted int
	// Done are those that were changed, Missed those that were selected and could not be.
	Done, Missed int
}

// Seen are those that were looked at, whatever became of them.
func (p progress) Seen() int { return p.Done + p.Missed }

// progress reads how far it has come. A link from elsewhere cannot say: whoever follows it would believe what the button says,
// and press it. It leads to a count from the beginning.
func (c *call) progress() (progress, error) {
	if c.r.Method != http.MethodPost && !c.fromOwnPage() {
		maps.DeleteFunc(c.query, func(name, _ string) bool { return !slices.Contains(filterNames, name) })
	}
	var f faults
	p := progress{
		Request: diverted.BulkRequest{
			Webhook: c.webhookKey(), Filter: c.query.filter(&f),
			After: c.query.locator(&f, "after"), Before: c.query.moment(&f, "before"),
			Limit: c.query.number(&f, "limit", diverted.MaxBulk),
		},
		State: c.query["state"], Counted: c.query.number(&f, "counted", maxCount),
		Done: c.query.number(&f, "done", maxCount), Missed: c.query.number(&f, "missed", maxCount),
	}
	switch p.State {
	case counting, running, finished:
	default:
		f.Add("state", "must be running, finished or left out")
	}
	return p, f.Err(errParameter)
}

// fromOwnPage says whether a page of this origin led here. Over plain HTTP browsers send no Sec-Fetch-Site, but the address of
// that page, which another site can leave out but not forge.
func (c *call) fromOwnPage() bool {
	if site := c.r.Header.Get("Sec-Fetch-Site"); site != "" {
		return site == "same-origin"
	}
	page, err := url.Parse(c.r.Referer())
	return err == nil && page.Host != "" && page.Host == c.r.Host
}

// query is the inverse of [call.progress].
func (p progress) query() url.Values {
	q := filterQuery(p.Request.Filter)
	number := func(name string, n int) {
		if n > 0 {
			q.Set(name, strconv.Itoa(n))
		}
	}
	if !p.Request.After.IsZero() {
		q.Set("after", p.Request.After.String())
	}
	if !p.Request.Before.IsZero() {
		q.Set("before", diverted.FormatTime(p.Request.Before))
	}
	if p.State != counting {
		q.Set("state", p.State)
	}
	number("counted", p.Counted)
	number("done", p.Done)
	number("missed", p.Missed)
	number("limit", p.Request.Limit)
	return q
}

// bulkView is the page on which many events are counted and changed.
type bulkView struct {
	frame
	Name            string
	Does, Doing     string
	Explain, Danger string
	// Kind is what is selected, of which What says more; empty: all of them are.
	Kind, What string
	progress
	// Finished and Skipped say what became of those that are done, and of those that could not be.
	Finished, Skipped string
	// Action is where the form goes, Fields what it carries. CountOn leads on to the next step of the counting; empty: all
	// are counted.
	Action  string
	Fields  []field
	CountOn string
	// Step is how many events a step has that the script drives.
	Step int
	Back string
	// Refused says why it cannot be done now; empty: it can.
	Refused string
}

type field struct{ Name, Value string }

// plan counts what would be done, a step at a time, or shows how far it has come.
func (b *bulk) plan(c *call) (answer, error) {
	p, err := c.progress()
	if err != nil {
		return answer{}, err
	}
	v := bulkView{frame: c.frame(b.title), Does: b.does, Doing: b.doing, Explain: b.explain, Action: c.webhookLink(b.path), Step: scriptStep}
	if b.danger {
		v.Danger = "danger"
	}
	if p.State == counting {
		request := p.Request
		request.DryRun, request.Limit = true, countStep
		result, err := b.run(c, request)
		if err != nil {
			return answer{}, err
		}
		p.Counted += result.Matched
		p.Request.Before = result.Before
		if result.More {
			p.Request.After = result.After
			v.CountOn = withQuery(v.Action, p.query())
		}
		if c.wantsJSON() {
			return answer{status: 200, json: countStepAnswer{Counted: p.Counted, Next: v.CountOn, Before: diverted.FormatTime(p.Request.Before)}}, nil
		}
		// The first step that changes something begins where the counting did.
		p.Request.After = ulid.Zero
	}

	w, known, err := c.fetchWebhook()
	// Of a webhook that the store does not know nothing is left when its last event is done.
	gone := p.State == finished && errors.Is(err, diverted.ErrNotFound)
	if err != nil && !gone {
		return answer{}, err
	}
	if c.may(httpapi.WebhooksRead) && !gone {
		v.Name = w.Name
		v.Back = withQuery(c.webhookLink(), filterQuery(p.Request.Filter))
		v.withWebhook(c, w.Name)
	}
	v.progress = p
	v.Finished = plural(p.Done, "event", "events") + " " + b.done.of(p.Done) + "."
	if p.Missed > 0 {
		v.Skipped = count(p.Missed) + " " + forms{"was", "were"}.of(p.Missed) + " skipped: " + b.left.of(p.Missed) + "."
	}
	v.What = filterWords(p.Request.Filter)
	switch {
	case b == divertAll && v.What == "":
		v.Kind = "All pending deliveries"
	case b == divertAll:
		v.Kind = "Pending deliveries"
	case v.What == "":
		v.Kind = "All diverted events"
	default:
		v.Kind = "Events"
	}
	v.Refused = b.refused(w, known)
	p.State, p.Request.Limit = running, formStep
	if b == handAll {
		p.Request.Limit = scriptStep // each event is a call of the host's, and a request must end in time
	}
	if v.CountOn != "" {
		p.Counted = 0
	}
	query := p.query()
	for _, name := range slices.Sorted(maps.Keys(query)) {
		v.Fields = append(v.Fields, field{name, query.Get(name)})
	}
	return render("bulk", v), nil
}

// refused says why the webhook, as it stands, does not let it be done.
func (b *bulk) refused(w diverted.Webhook, known bool) string {
	switch {
	case b == resendAll && !known:
		return "This webhook is not registered here, so there is nowhere to send them."
	case b == resendAll && !w.Enabled:
		return "The webhook is disabled. Enable it first."
	case b == resendAll && w.Suspended():
		return "The webhook is suspended. Unsuspend it first."
	case b == divertAll && w.Active():
		return "The webhook is active: its pending deliveries are being sent."
	}
	return ""
}

// step makes one step, and leads to how far it has come.
func (b *bulk) step(c *call) (answer, error) {
	p, err := c.progress()
	if err != nil {
		return answer{}, err
	}
	if p.State != running { // a form that lost its fields must not empty a webhook
		return answer{}, requests.Fault(errParameter, "state", "must be running")
	}
	result, err := b.run(c, p.Request)
	if err != nil {
		return answer{}, err
	}
	p.Done += result.Done
	p.Missed += result.Matched - result.Done
	p.State = finished
	if result.More {
		p.State, p.Request.After, p.Request.Before = running, result.After, result.Before
	}
	if c.wantsJSON() {
		a := doStepAnswer{Done: p.Done, Missed: p.Missed, More: result.More, Fields: map[string]string{}}
		for name, list := range p.query() {
			a.Fields[name] = list[0]
		}
		return answer{status: 200, json: a}, nil
	}
	return seeOther(withQuery(c.webhookLink(b.path), p.query())), nil
}

// The answers to the console's script.
type (
	countStepAnswer struct {
		Counted int    `json:"counted"`
		Next    string `json:"next,omitempty"`
		Before  string `json:"before"`
	}
	doStepAnswer struct {
		Done   int               `json:"done"`
		Missed int               `json:"missed"`
		More   bool              `json:"more"`
		Fields map[string]string `json:"fields"`
	}
	stepProblem struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
	}
)
