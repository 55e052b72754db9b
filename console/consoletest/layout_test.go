package consoletest

import (
	"strings"
	"testing"

	"github.com/matryer/is"

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
