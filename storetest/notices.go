package storetest

import (
	"time"

	"github.com/google/uuid"

	"github.com/divertedevents/diverted"
)

// fail sends a new event to a webhook and spends its budget, to be alerted of.
func (k *kit) fail(w diverted.Webhook, kind diverted.OutcomeKind) diverted.Outcome {
	k.Helper()
	event := k.send(w, 1)[0]
	for _, c := range k.claim(100) {
		if c.Key.Event == event {
			o := of(c, kind)
			o.Alert = true
			o.Failure.Message = "of " + event.String()
			k.settle(o)
			return o
		}
	}
	k.Fatal("an accepted event is not due")
	return diverted.Outcome{}
}

// notices claims the notices that are due.
func (k *kit) notices() []diverted.NoticeClaim {
	k.Helper()
	return k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 100, Lease: long}}).Notices
}

// notice claims the one notice that is due.
func (k *kit) notice() diverted.NoticeClaim {
	k.Helper()
	n := k.notices()
	if len(n) != 1 {
		k.Fatalf("%d notices are due, want 1", len(n))
	}
	return n[0]
}

// told settles a notice as sent, failures within window to join the next one.
func (k *kit) told(n diverted.NoticeClaim, window time.Duration) {
	k.Helper()
	k.settleNotice(diverted.NoticeOutcome{Webhook: n.Webhook.Key(), Token: n.Token, Done: true, Wait: window})
}

func (k *kit) settleNotice(o diverted.NoticeOutcome) {
	k.Helper()
	k.work(diverted.WorkRequest{Notices: []diverted.NoticeOutcome{o}})
}

var noticeTests = []test{
	{rule: "notices of tenants take turns, however many one has", run: func(k *kit) {
		for range 5 {
			k.fail(k.webhook(), diverted.OutcomeDivert)
		}
		small, err := k.store.CreateWebhook(k.ctx, diverted.NewWebhook(uuid.New(), "small", "https://receiver.example/hook", "*"))
		k.ok(err)
		k.fail(small, diverted.OutcomeDivert)
		first := k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 2, Lease: long}}).Notices
		k.equal(len(first), 2)
		k.that(first[0].Webhook.Key() == small.Key() || first[1].Webhook.Key() == small.Key(), "the tenant with one notice waits behind one with five")
		k.equal(len(k.notices()), 4)
	}},

	{rule: "the first failure is told at once, with what it was", run: func(k *kit) {
		w := k.webhook(everything, func(w *diverted.Webhook) { w.Enabled = true })
		k.equal(len(k.notices()), 0)
		o := k.fail(w, diverted.OutcomeDivert)
		n := k.notice()
		k.sameWebhook(*n.Webhook, w)
		k.that(n.Token != 0, "the token is 0")
		k.equal(n.Tries, 0)
		k.equal(n.Window, time.Duration(0))
		k.that(!n.Notice.Locator.IsZero(), "the notice has no locator")
		k.equal([]int{n.Notice.Failures, n.Notice.Diverted}, []int{1, 1})
		k.equal(n.Notice.Suspended, false)
		d := k.fetchDiverted(o.Key)
		for _, f := range []diverted.FailedEvent{n.Notice.First, n.Notice.Last} {
			f.Failure = utc(f.Failure)
			k.equal(f, diverted.FailedEvent{Event: o.Key.Event, RequestLocator: d.RequestLocator, Failure: *o.Failure})
		}
		k.equal(len(k.notices()), 0) // it is claimed
	}},

	{rule: "failures that nobody is to be alerted of are not told", run: func(k *kit) {
		k.aside(k.webhook())
		k.equal(len(k.notices()), 0)
	}},

	{rule: "failures before a notice is claimed join it", run: func(k *kit) {
		w := k.webhook()
		first := k.fail(w, diverted.OutcomeDivert)
		k.fail(w, diverted.OutcomeDrop)
		last := k.fail(w, diverted.OutcomeDivert)
		n := k.notice().Notice
		k.equal([]int{n.Failures, n.Diverted}, []int{3, 2})
		k.equal(n.First.Event, first.Key.Event)
		k.equal(n.Last.Event, last.Key.Event)
		k.equal(n.Last.Failure.Message, last.Failure.Message)
	}},

	{rule: "a notice says whether its failures suspended the webhook, and is due while it is suspended or disabled", run: func(k *kit) {
		w := k.webhook()
		c := k.claims(k.send(w, 2)...)
		a, b := of(c[0], diverted.OutcomeDivert), hold(c[1])
		a.Alert, b.Alert = true, true
		k.settle(a, b)
		k.disable(w)
		n := k.notice()
		k.equal(n.Notice.Suspended, true)
		k.equal([]int{n.Notice.Failures, n.Notice.Diverted}, []int{2, 1})
		k.that(n.Webhook.Suspended() && !n.Webhook.Enabled, "the webhook is not as it stands: %+v", n.Webhook)
	}},

	{rule: "a notice does not say of a webhook that it was suspended by a failure of before an unsuspend", run: func(k *kit) {
		w := k.webhook()
		k.send(w, 1)
		o := hold(k.claimOne())
		o.Alert = true
		k.suspend(w)
		k.unsuspend(w)
		k.equal(k.settle(o), []diverted.Settled{{}})
		k.equal(k.notice().Notice.Suspended, false)
	}},

	{rule: "failures within the window join one notice, due after it", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		first := k.notice()
		during := k.fail(w, diverted.OutcomeDivert) // while the first is being sent
		k.equal(len(k.notices()), 0)
		k.told(first, k.short)
		k.fail(w, diverted.OutcomeDrop)
		last := k.fail(w, diverted.OutcomeDrop)
		k.equal(len(k.notices()), 0)
		time.Sleep(k.short + k.short/10)
		second := k.notice()
		k.that(second.Notice.Locator != first.Notice.Locator, "another notice has the same locator")
		k.equal(second.Window, k.short)
		k.equal([]int{second.Notice.Failures, second.Notice.Diverted, second.Tries}, []int{3, 1, 0})
		k.equal(second.Notice.First.Event, during.Key.Event)
		k.equal(second.Notice.Last.Event, last.Key.Event)
	}},

	{rule: "Next tells of the end of a window in which something failed", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		k.told(k.notice(), k.short)
		k.fail(w, diverted.OutcomeDivert)
		r := k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 1, Lease: long}})
		k.equal(len(r.Notices), 0)
		k.that(r.Next > 0 && r.Next <= k.short+time.Millisecond, "the window ends within %v, and Next is %v", k.short, r.Next)
	}},

	{rule: "after a window in which nothing failed the next failure is told at once", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		k.told(k.notice(), k.short)
		time.Sleep(k.short + k.short/10)
		k.equal(len(k.notices()), 0) // it ended in silence
		k.fail(w, diverted.OutcomeDivert)
		n := k.notice()
		k.equal(n.Window, time.Duration(0)) // the webhook has begun anew
		k.equal(n.Notice.Failures, 1)
		k.told(n, long)
		k.fail(w, diverted.OutcomeDivert)
		k.equal(len(k.notices()), 0)
	}},

	{rule: "a notice that could not be sent is due again after its wait, as the same notice", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		first := k.notice()
		k.settleNotice(diverted.NoticeOutcome{Webhook: w.Key(), Token: first.Token, Wait: k.short})
		k.fail(w, diverted.OutcomeDivert) // not one of it
		k.equal(len(k.notices()), 0)
		time.Sleep(k.short + k.short/10)
		again := k.notice()
		k.equal(again.Tries, 1)
		k.equal(again.Notice.Locator, first.Notice.Locator)
		k.equal(again.Notice.Failures, 1)
		k.equal(again.Notice.Last.Event, first.Notice.Last.Event)
		k.told(again, 0)
		next := k.notice() // what came meanwhile is the next one
		k.equal(next.Notice.Failures, 1)
		k.equal(next.Tries, 0)
		k.that(next.Notice.Locator != first.Notice.Locator, "another notice has the same locator")
	}},

	{rule: "a notice whose claim is lost is claimed again as the same notice", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		claim := &diverted.ClaimRequest{Notices: 1, Lease: k.short}
		lost := k.work(diverted.WorkRequest{Claim: claim}).Notices[0]
		k.fail(w, diverted.OutcomeDivert)
		k.equal(len(k.notices()), 0)
		time.Sleep(k.short + k.short/10)
		again := k.notice()
		k.equal(again.Notice.Locator, lost.Notice.Locator)
		k.equal(again.Notice.Failures, lost.Notice.Failures)
		k.equal(again.Tries, 0) // a lost claim is no try
		k.that(again.Token != lost.Token, "a new claim has the old token")

		k.told(lost, 0) // stale: changes nothing
		k.equal(len(k.notices()), 0)
		k.told(again, 0)
		k.equal(k.notice().Notice.Failures, 1)
	}},

	{rule: "a lost notice is found though nothing else fails", run: func(k *kit) {
		w := k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		r := k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 1, Lease: k.short}})
		k.equal(len(r.Notices), 1)
		k.that(r.Next > 0 && r.Next <= k.short+time.Millisecond, "the lease of a notice ends in %v, and Next is %v", k.short, r.Next)
		time.Sleep(k.short + k.short/10)
		k.equal(k.notice().Notice, r.Notices[0].Notice)
	}},

	{rule: "the outcome of a notice that is not there changes nothing", run: func(k *kit) {
		w := k.webhook()
		k.settleNotice(diverted.NoticeOutcome{Webhook: w.Key(), Token: 1, Done: true})
		k.settleNotice(diverted.NoticeOutcome{Webhook: diverted.WebhookKey{Tenant: uuid.New(), Webhook: w.Locator}, Done: true})
		k.fail(w, diverted.OutcomeDivert)
		k.settleNotice(diverted.NoticeOutcome{Webhook: w.Key(), Done: true, Wait: long}) // the token of nobody's notice
		n := k.notice()
		k.told(n, 0)
		k.told(n, long) // twice
		k.fail(w, diverted.OutcomeDivert)
		k.notice()
	}},

	{rule: "a window that passed in silence takes no other notice's place", run: func(k *kit) {
		quiet, w := k.webhook(), k.webhook()
		k.fail(quiet, diverted.OutcomeDivert)
		k.told(k.notice(), k.short)
		k.fail(w, diverted.OutcomeDivert)
		one := &diverted.ClaimRequest{Notices: 1, Lease: 2 * k.short}
		k.equal(len(k.work(diverted.WorkRequest{Claim: one}).Notices), 1)
		time.Sleep(2*k.short + k.short/5) // the window is over, and then the lease
		n := k.work(diverted.WorkRequest{Claim: one}).Notices
		k.equal(len(n), 1)
		k.equal(n[0].Webhook.Key(), w.Key())
	}},

	{rule: "notices are claimed up to their number, and none unless they are asked for", run: func(k *kit) {
		for range 3 {
			k.fail(k.webhook(), diverted.OutcomeDivert)
		}
		r := k.work(diverted.WorkRequest{Claim: upTo(10)})
		k.equal(len(r.Notices), 0)
		k.that(r.Next != 0, "the caller is told to come again at once, for notices that it does not want")
		seen := map[diverted.WebhookKey]bool{}
		for _, want := range []int{2, 1, 0} {
			r := k.work(diverted.WorkRequest{Claim: &diverted.ClaimRequest{Notices: 2, Lease: long}})
			k.equal(len(r.Notices), want)
			k.equal(r.Next == 0, want == 2) // one more is due
			for _, n := range r.Notices {
				seen[n.Webhook.Key()] = true
			}
		}
		k.equal(len(seen), 3)
	}},

	{rule: "the notices of a deleted webhook are gone", run: func(k *kit) {
		w, v := k.webhook(), k.webhook()
		k.fail(w, diverted.OutcomeDivert)
		k.fail(v, diverted.OutcomeDivert)
		inFlight := k.notices()
		k.equal(len(inFlight), 2)
		k.fail(w, diverted.OutcomeDivert)
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
		for _, n := range inFlight {
			k.told(n, 0)
		}
		k.equal(len(k.notices()), 0)
		k.fail(v, diverted.OutcomeDivert)
		k.ok(k.store.DeleteWebhook(k.ctx, v.Key(), true)) // with a notice that is due
		k.equal(len(k.notices()), 0)

		_, err := k.store.CreateWebhook(k.ctx, w)
		k.ok(err)
		k.fail(w, diverted.OutcomeDivert)
		n := k.notice() // the window of its predecessor is not its own
		k.equal([]int{n.Notice.Failures, int(n.Window)}, []int{1, 0})
	}},
}
