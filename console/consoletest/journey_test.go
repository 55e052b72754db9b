package consoletest

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/console"
)

// Somebody is told at three in the morning that a customer's webhooks fail.
func TestOperatorFindsAFailingWebhookAndSendsEverythingAgain(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	for _, name := range []string{"warehouse", "ledger", "mailing"} {
		s.webhook(name)
	}
	billing := s.webhook("billing")
	const many = 4_500
	for n := range many {
		s.divert(billing, n)
	}
	is.NoErr(s.store.Suspend(t.Context(), billing.Key()))

	b.open(s.address)
	b.do(chromedp.SendKeys(chromedp.CSS("#tenant"), s.tenant.String()))
	b.follow("Open")
	b.sees("billing", "warehouse", "suspended", "4,500")

	b.do(chromedp.SetValue(chromedp.CSS("#state"), "suspended"))
	b.follow("Filter")
	is.True(!strings.Contains(b.text(), "warehouse"))
	b.follow("billing")
	b.sees("Nothing is attempted.", "All 4,500 diverted events failed with 503 (Service Unavailable).",
		"Failed deliveries are retried 10 times",
		"+1 min", "+8 h 32 min", "down for maintenance")
	is.True(!strings.Contains(b.text(), "Resend all")) // it would be refused

	// The customer says that the receiver is back. Is it?
	b.follow("Ping")
	b.sees("The ping failed with 503")
	s.answer.Store(http.StatusOK)
	b.follow("Unsuspend")
	b.sees("The webhook is active again", "active", "Resend all")
	is.Equal(ask[string](b, `location.search`), "") // it is said once
	b.next(func() { b.do(chromedp.Reload()) })
	is.True(!strings.Contains(b.text(), "active again"))

	// One event first.
	first := ask[string](b, `document.querySelector("#diverted tbody .locator").textContent`)
	follow(b, chromedp.CSS("#diverted tbody a.name"))
	b.sees(first, "Attempt 1", "503", "Body", "webhook-id")
	b.follow("Resend")
	b.sees("The event is on its way again")
	b.reloadUntil("4,499")
	b.until(func() bool { return s.counts()[first] == 1 })

	// Then all of them, with a look at how many that is.
	b.follow("Resend all")
	b.sees("All diverted events of billing.", "4,499 events would be resent")
	is.Equal(len(s.counts()), 2) // the ping and the first: counting sends nothing
	ask[chromedp.Void](b, `
		sessionStorage.seen = "[]";
		new MutationObserver(() => {
			const seen = JSON.parse(sessionStorage.seen), value = document.getElementById("bar").position;
			if (seen.at(-1) !== value) sessionStorage.seen = JSON.stringify([...seen, value]);
		}).observe(document.getElementById("bar"), {attributes: true});
	`)
	b.follow("Resend 4,499 events")
	b.sees("4,499 events are on their way again.")
	positions := ask[[]float64](b, `JSON.parse(sessionStorage.seen)`)
	is.True(len(positions) >= 4) // the bar moved, step by step
	for i, p := range positions[1:] {
		is.True(p >= positions[i]) // and never back
	}
	is.Equal(positions[len(positions)-1], 1.0)

	b.follow("Back to the webhook")
	b.sees("Nothing is diverted.")
	b.until(func() bool { return len(s.counts()) == many+1 })
	for id, n := range s.counts() {
		if n != 1 {
			t.Errorf("%s was sent %d times", id, n)
		}
	}
	b.follow("Webhooks")
	b.sees("billing", "active")
	b.quiet()
}

// A step that fails says why, and is made again when that is mended. Whoever stops goes on where it was.
func TestOperatorGoesOnAfterAStepThatFailed(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	s.answer.Store(http.StatusOK)
	billing := s.webhook("billing")
	const many = 2_300
	for n := range many {
		s.divert(billing, n)
	}
	b.open(s.webhookAddress(billing))
	b.follow("Resend all")
	is.NoErr(s.store.Suspend(t.Context(), billing.Key())) // by somebody else, or by itself
	b.do(chromedp.Click(chromedp.CSS("#steps button")))
	b.until(func() bool { return strings.Contains(b.text(), "Continue") })
	b.sees("The webhook is suspended. Nothing was changed. Unsuspend it first. What is done stays done")
	is.NoErr(s.store.Unsuspend(t.Context(), billing.Key()))
	b.follow("Continue")
	b.sees("2,300 events are on their way again.")
	b.until(func() bool { return len(s.counts()) == many })
	b.quiet("the server responded with a status of 409") // which was shown
}

// A customer asks for a break, and sends word when it is over.
func TestOperatorSuspendsAWebhookForAWhile(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	s.answer.Store(http.StatusOK)
	billing := s.webhook("billing")
	b.open(s.webhookAddress(billing))
	b.follow("Suspend")
	b.sees("Suspend this webhook?", "billing", "Nothing more is attempted", "is held until it is unsuspended")
	b.follow("Cancel")
	b.sees("active")
	b.follow("Suspend")
	b.follow("Suspend the webhook")
	b.sees("The webhook is suspended", "Nothing is attempted.")
	is.True(!strings.Contains(b.text(), "Suspend …"))

	event, err := diverted.NewEvent("order.paid", "o-1234")
	is.NoErr(err)
	message, err := diverted.NewMessage(s.tenant, billing.Locator, event)
	is.NoErr(err)
	_, err = s.store.Accept(t.Context(), diverted.AcceptRequest{Messages: []diverted.Message{message}})
	is.NoErr(err)
	b.reloadUntil("1 delivery is waiting")
	is.Equal(len(s.counts()), 0)
	b.follow("Unsuspend")
	b.sees("The webhook is active again")
	b.until(func() bool { return s.counts()[event.Locator.String()] == 1 })
	b.quiet()
}

// A locator is pasted from a log, often with a blank or two of what was around it.
func TestOperatorPastesALocator(t *testing.T) {
	s, b := newService(t), newBrowser(t)
	billing := s.webhook("billing")
	b.open(s.address + "tenants/" + s.tenant.String() + "/webhooks")
	b.do(chromedp.Focus(chromedp.CSS("#webhook")))
	call(b, input.InsertText, input.InsertTextParams{Text: "  " + billing.Locator.String() + " "})
	b.follow("Open")
	b.sees("billing", "Nothing is diverted.")
	b.quiet()
}

// A host that takes nothing is seen to take nothing, while there is time to press Stop.
func TestOperatorSeesThatTheHostTakesNothing(t *testing.T) {
	is := is.New(t)
	s := newService(t, func(c *console.Config) {
		c.Logger = slog.New(slog.DiscardHandler) // it would be told of each step
		c.Resend = func(context.Context, diverted.DivertedEvent) error { return errors.New("the queue is full") }
	})
	b := newBrowser(t)
	billing := s.webhook("billing")
	for n := range 2_500 {
		s.divert(billing, n)
	}
	b.open(s.webhookAddress(billing))
	b.follow("Resend all")
	b.sees("2,500 events would be handed over")
	// The script tells of what it does now and then: here of every step.
	ask[chromedp.Void](b, `
		let now = 0;
		performance.now = () => now += 10_000;
		sessionStorage.seen = "[]";
		new MutationObserver(() => {
			const text = id => document.getElementById(id).textContent;
			const told = [text("count"), document.getElementById("bar").position, text("status")];
			sessionStorage.seen = JSON.stringify([...JSON.parse(sessionStorage.seen), told]);
		}).observe(document.getElementById("status"), {childList: true});
	`)
	b.follow("Resend 2,500 events")
	b.sees("0 events were handed to the service's own delivery.", "2,500 were skipped")
	is.Equal(ask[[][]any](b, `JSON.parse(sessionStorage.seen)`), [][]any{
		{"0 of 2,500 handed over, 1,000 skipped", 0.4, "40 %, about 15 s left"},
		{"0 of 2,500 handed over, 2,000 skipped", 0.8, "80 %, about 5 s left"},
	})
	b.quiet()
}

// Without JavaScript the same is done by hand, a step at a time.
func TestOperatorWithoutJavaScriptDeletesInSteps(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	billing := s.webhook("billing")
	const many = 10_050 // a step of a form has 10,000
	for n := range many {
		s.divert(billing, n)
	}
	call(b, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true})
	b.open(s.webhookAddress(billing))
	b.follow("Delete all")
	b.sees("10,000 or more events would be deleted", "Continue counting")
	b.follow("Continue counting")
	b.sees("10,050 events would be deleted")
	b.follow("Delete 10,050 events")
	b.sees("10,000 of 10,050 deleted", "Next step")
	b.next(func() { b.do(chromedp.Reload()) })
	b.sees("10,000 of 10,050 deleted", "Next step")
	address := ask[string](b, `location.href`)
	b.open(address) // as somebody sends it to somebody else: it is counted anew
	b.sees("50 events would be deleted")
	b.followTo(s.webhookAddress(billing), address)
	b.sees("10,000 of 10,050 deleted", "Next step")
	b.follow("Next step")
	b.sees("10,050 events were deleted.")
	b.follow("Back to the webhook")
	b.sees("Nothing is diverted.")
	stats, err := s.history.Stats(t.Context(), diverted.StatsQuery{Tenant: billing.Tenant, Webhook: billing.Locator})
	is.NoErr(err)
	is.Equal(stats.DivertedInAll(), 0)
	b.quiet()
}
