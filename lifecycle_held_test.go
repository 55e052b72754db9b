package diverted_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/divertedevents/diverted"
)

// "suspend suspends the webhook when a budget is spent."

func TestLifeSuspendSuspendsTheWebhookWhenABudgetIsSpent(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Suspend: true, Divert: true, Retry: retries(1)}))
		w.receiver.answers(status(500))
		w.run()
		w.send(hook)
		w.is.True(!w.suspended(hook)) // there is budget left
		w.sleep(time.Minute)
		w.is.True(w.suspended(hook))
		w.is.Equal(len(w.diverted(hook)), 1)
		w.is.Equal(w.seen("suspended"), 1)
		w.is.Equal(w.log.count("webhook suspended"), 1)
	})
}

func TestLifeWhatWaitsForItsTurnWhenTheWebhookIsSuspendedIsHeld(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		slowly := func(h *diverted.Webhook) { h.MaxPerSecond = 20 }
		spends := w.webhook("spends", slowly, handling(diverted.FailureHandling{Suspend: true, Divert: true}))
		told := w.webhook("told", slowly)
		for range 10 {
			w.send(spends)
			w.send(told)
		}
		w.receiver.answers(func(message, int) response { return response{status: 500, after: 10 * time.Millisecond} })
		w.run() // claims eight of each at once, which may begin every 50 ms
		w.sleep(time.Millisecond)
		w.is.NoErr(w.store.Suspend(w.ctx, told))
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got("spends")), 1)
		w.is.Equal(len(w.diverted(spends)), 1)
		w.is.Equal(len(w.pending(spends)), 9)
		w.is.Equal(len(w.receiver.got("told")), 1)
		w.is.Equal(len(w.pending(told)), 10)

		w.receiver.answers(nil)
		for _, hook := range []diverted.WebhookKey{spends, told} {
			w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
			w.sleep(time.Minute)
			w.is.Equal(len(w.pending(hook)), 0)
		}
	})
}

func TestLifeASuspendedWebhookIsNotAttemptedAndSendingGoesOnBeingAccepted(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a")
		w.run()
		w.is.NoErr(w.store.Suspend(w.ctx, hook))
		for range 20 {
			w.send(hook)
			w.sleep(time.Second)
		}
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got()), 0)
		w.is.Equal(len(w.pending(hook)), 20)

		w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
		w.sleep(2 * time.Second) // it begins slowly
		w.is.Equal(w.seen("suspended"), 1)
		w.is.Equal(w.seen("unsuspended"), 1)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 20)
	})
}

func TestLifeHeldDeliveriesStartInTheOrderOfAcceptance(t *testing.T) {
	for _, how := range []string{"unsuspended", "enabled"} {
		t.Run(how, func(t *testing.T) {
			inFakeTime(t, func(t *testing.T, w *world) {
				w.config.MaxInFlightPerWebhook = 1
				hook := w.webhook("a")
				stand, err := w.store.FetchWebhook(w.ctx, hook)
				w.is.NoErr(err)
				if how == "enabled" {
					stand.Enabled = false
					stand, err = w.store.UpdateWebhook(w.ctx, stand)
					w.is.NoErr(err)
				} else {
					w.is.NoErr(w.store.Suspend(w.ctx, hook))
				}
				w.run()
				var want, got []string
				for range 20 {
					want = append(want, w.send(hook).Event.String())
					w.sleep(time.Millisecond)
				}
				w.is.Equal(len(w.receiver.got()), 0)
				if how == "enabled" {
					stand.Enabled = true
					_, err = w.store.UpdateWebhook(w.ctx, stand)
					w.is.NoErr(err)
				} else {
					w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
				}
				w.sleep(2 * time.Second) // it begins slowly
				for _, m := range w.receiver.got() {
					got = append(got, m.id)
				}
				w.is.Equal(got, want)
			})
		})
	}
}

func TestLifeWhatIsHeldWithASpentBudgetGetsAFreshOneAndIsDivertedIfThatIsSpentToo(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Suspend: true, Retry: retries(1)})) // divert is false
		w.receiver.answers(status(500))
		w.run()
		key := w.send(hook)
		w.sleep(time.Minute)
		w.is.True(w.suspended(hook))
		w.is.Equal(w.seen("held"), 1)
		w.is.Equal(len(w.pending(hook)), 1)
		w.is.Equal(len(w.receiver.got()), 2)

		w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
		synctest.Wait()
		w.is.Equal(len(w.receiver.got()), 3) // due now
		w.sleep(time.Minute)
		w.is.Equal(len(w.receiver.got()), 4) // a fresh budget
		w.is.Equal(len(w.pending(hook)), 0)
		w.is.Equal(len(w.diverted(hook)), 1) // whatever divert says
		w.is.Equal(w.diverted(hook)[0].Key, key)
		w.is.Equal(w.seen("dropped"), 0)
	})
}

func TestLifeAnAttemptThatBeganBeforeAnUnsuspendCannotSuspendAgain(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Suspend: true}))
		w.receiver.answers(func(_ message, n int) response {
			if n == 1 {
				return response{status: 500, after: 10 * time.Second} // the slow one that began before
			}
			return response{status: 200}
		})
		w.run()
		w.send(hook)
		w.is.NoErr(w.store.Suspend(w.ctx, hook))
		w.sleep(time.Second)
		w.is.NoErr(w.store.Unsuspend(w.ctx, hook))
		w.sleep(9 * time.Second)
		w.is.True(!w.suspended(hook))
		w.is.True(w.gone(hook)) // held, due at once with a fresh budget, and delivered
		w.is.Equal(len(w.receiver.got()), 2)
	})
}
