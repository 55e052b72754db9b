package console

import (
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted/httpapi"
)

// frame is what every page has around its own content.
type frame struct {
	Title string
	// Root leads to the place where the console is mounted.
	Root string
	// Style and Script are the addresses of the console's files.
	Style, Script string
	// Tenant is whose pages these are; empty: nobody's yet.
	Tenant string
	// Crumbs lead from the tenant's webhooks to the page above this one.
	Crumbs []crumb
	// Notice says what was just done. Nil: nothing.
	Notice *notice
	Now    moment
}

// crumb is a link to a page above this one.
type crumb struct{ Name, Link string }

// notice says what was just done.
type notice struct {
	// Kind is good, warn or bad.
	Kind, Title, Detail string
}

// notices are what a page can be asked to say after something was done. An address names one, and so can say nothing else.
var notices = map[string]notice{
	"resent":        {"good", "The event is on its way again", "It is attempted when its turn comes, with a fresh retry budget. If it fails again, it comes back here."},
	"handed":        {"good", "The event was handed to the service's own delivery", "It is no longer kept here. If the service sets it aside again, it comes back."},
	"deleted":       {"good", "The event was deleted", ""},
	"expunged":      {"good", "The body was expunged", "Only the record is left: that the event existed, and how it failed."},
	"suspended":     {"good", "The webhook is suspended", "Nothing more is attempted. What is sent to it is held until it is unsuspended."},
	"unsuspended":   {"good", "The webhook is active again", "Its pending deliveries are attempted in the order in which they were accepted, slowly at first."},
	"stilldisabled": {"warn", "The suspension has ended", "The webhook is still disabled: nothing is attempted until it is enabled."},
}

// lastHasLeft says whether something was just done that can leave nothing of a webhook that the store does not know. A link from
// elsewhere cannot say so: else there would be a page of every locator, also of those that never were a webhook's.
func (c *call) lastHasLeft() bool {
	switch c.query["notice"] {
	case "resent", "handed", "deleted":
		return c.fromOwnPage()
	}
	return false
}

// frame returns the frame of a page with this title.
func (c *call) frame(title string) frame {
	f := frame{
		Title:  title,
		Root:   c.root,
		Style:  c.root + "assets/console.css?v=" + assets["console.css"].version,
		Script: c.root + "assets/console.js?v=" + assets["console.js"].version,
		Now:    c.moment(c.now),
	}
	if c.tenant == uuid.Nil {
		return f
	}
	f.Tenant = c.tenant.String()
	if c.may(httpapi.WebhooksRead, httpapi.WebhooksList) {
		f.Crumbs = append(f.Crumbs, crumb{"Webhooks", c.webhooksLink()})
	}
	if n, known := notices[c.query["notice"]]; known && c.r.Method != http.MethodPost {
		f.Notice = &n
	}
	return f
}

// Links, relative to the request's path.

func (c *call) webhooksLink() string {
	return c.root + "tenants/" + c.tenant.String() + "/webhooks"
}

func (c *call) webhookLink(more ...string) string {
	return strings.Join(append([]string{c.webhooksLink(), c.webhook.String()}, more...), "/")
}

func (c *call) eventLink(more ...string) string {
	return c.webhookLink(append([]string{"diverted", c.event.String()}, more...)...)
}

// withWebhook adds the way to the webhook's page, by its name if the caller may know it.
func (f *frame) withWebhook(c *call, name string) {
	if c.may(httpapi.WebhooksRead) {
		f.Crumbs = append(f.Crumbs, crumb{name, c.webhookLink()})
	}
}

// withEvent adds the way to the event's page.
func (f *frame) withEvent(c *call) {
	if c.may(httpapi.DivertedRead) {
		f.Crumbs = append(f.Crumbs, crumb{"Event " + c.event.String(), c.eventLink()})
	}
}

// moment is a time as a page shows it: how long ago, and exactly.
type moment struct {
	time.Time
	now time.Time
}

func (c *call) moment(t time.Time) moment { return moment{t, c.now} }
