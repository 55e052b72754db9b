package consoletest

import (
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// What is easily lost on a narrow page: the end of a field, the ring around what has the focus, room for a finger.
func TestNothingIsCutOnAPhone(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	w := s.webhook("billing " + strings.Repeat("and invoices ", 8))
	e := s.divert(w, 1, func(e *diverted.DivertedEvent) { e.EventType = "github.branch_protection_rule.edited" })
	b.screen(narrow, true, "light")

	b.open(s.webhookAddress(w))
	for _, id := range []string{"since", "until"} {
		is.True(ask[bool](b, `(e => e.offsetWidth === document.querySelector(".filter").offsetWidth)(document.getElementById("`+id+`"))`)) // a row of its own
	}
	breaks := `document.querySelector("#diverted tbody a.name wbr") !== null`
	is.True(ask[bool](b, breaks))

	b.open(s.eventAddress(e.Key))
	is.True(ask[bool](b, `[...document.querySelectorAll(".crumbs a")].every(a => a.offsetHeight >= 24)`))
	is.True(ask[bool](b, `[...document.querySelectorAll(".crumbs li, .crumbs ol")].every(e => getComputedStyle(e).overflow === "visible")`)) // else the ring is clipped
	is.True(ask[bool](b, `document.documentElement.scrollWidth <= 390`))
	is.True(ask[bool](b, `getComputedStyle(document.querySelector(".headers .id")).fontFamily === getComputedStyle(document.querySelector("code.locator")).fontFamily`))

	b.open(s.address)
	gap := `(i => i.getBoundingClientRect().top - document.querySelector("label").getBoundingClientRect().bottom)(document.querySelector("input"))`
	is.Equal(ask[float64](b, gap), 4.0)

	// On a desk everything stands left.
	b.screen(1280, false, "light")
	b.open(s.webhookAddress(w) + "/diverted/delete")
	is.Equal(ask[float64](b, `document.querySelector("h1").getBoundingClientRect().left`), ask[float64](b, `document.querySelector(".brand").getBoundingClientRect().left`))
	is.True(ask[bool](b, `document.getElementById("status").offsetHeight === 0`)) // there is nothing to say yet
	b.quiet()
}

// Names and event types may be long and without a space, and windows of any width: nothing stands out of the page, and
// nothing leaves a hole.
func TestNoPageIsWiderThanItsWindow(t *testing.T) {
	s, b := newService(t), newBrowser(t)
	w := s.webhook(strings.Repeat("W", diverted.MaxNameLength), func(w *diverted.Webhook) {
		w.EventTypes, w.SuspendedAt = []string{strings.Repeat("type", 32)}, time.Now().Add(-3*time.Hour)
	})
	e := s.divert(w, 1, func(e *diverted.DivertedEvent) { e.EventType = w.EventTypes[0] })
	short := s.webhook("billing")
	failed := &diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503, Attempt: 4, At: time.Now()}
	s.history.pending = map[ulid.ULID][]diverted.PendingDelivery{short.Locator: {{
		Key: diverted.Key{Tenant: s.tenant, Webhook: short.Locator, Event: ulid.Make()}, EventType: "invoice.issued", Attempts: 4,
		AcceptedAt: time.Now().Add(-40 * time.Hour), Due: time.Now().Add(8*time.Hour + 31*time.Minute + 30*time.Second), Failure: failed,
	}}}
	webhook := s.webhookAddress(w)
	for _, address := range []string{
		s.address + "tenants/" + s.tenant.String() + "/webhooks",
		webhook, webhook + "?trigger=503&eventType=" + w.EventTypes[0], webhook + "/suspend",
		webhook + "/diverted/resend", webhook + "/diverted/delete?eventType=" + w.EventTypes[0],
		s.eventAddress(e.Key), s.eventAddress(e.Key) + "/delete",
		webhook + "?trigger=200", // a problem
		s.webhookAddress(short) + "/pending",
	} {
		b.open(address)
		for _, width := range []int64{320, narrow, 640, 641, 700, 768, 800, 801, 1280} {
			b.screen(width, false, "light")
			if wide := ask[int64](b, `document.documentElement.scrollWidth`); wide > width {
				t.Errorf("%s is %d px wide in a window of %d", address, wide, width)
			}
			if !ask[bool](b, `[...document.querySelectorAll(".tiles")].every(t => t.getBoundingClientRect().right - t.lastElementChild.getBoundingClientRect().right < 2)`) {
				t.Errorf("%s has a hole behind its last number in a window of %d", address, width)
			}
		}
	}
	b.quiet("the server responded with a status of 400")
}
