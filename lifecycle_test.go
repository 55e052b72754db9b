package diverted_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
)

// These tests follow "The life of a delivery" of the design, sentence by sentence, on every store.

// The picture: nothing → pending → delivered, retried, diverted, held or dropped; and back by a resend.

func TestLifeA2xxDeliversAndTheDeliveryIsForgotten(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a")
		w.run()
		for _, code := range []int{200, 201, 202, 204, 226, 299} {
			w.receiver.answers(status(code))
			w.send(hook)
			w.is.True(w.gone(hook))
		}
		w.is.Equal(w.seen("delivered"), 6)
	})
}

func TestLifeAFailureWithBudgetLeftIsPendingUntilItsWaitIsOver(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true, Retry: &diverted.RetryStrategy{Attempts: 3, Interval: time.Minute}}))
		w.receiver.answers(status(503))
		w.run()
		w.sleep(300 * time.Millisecond) // off the beat of the fallback
		began := time.Now()
		key := w.send(hook)

		w.sleep(time.Minute - time.Millisecond)
		w.is.Equal(len(w.receiver.got()), 1) // no retry is early
		pending := w.pending(hook)
		w.is.Equal(len(pending), 1)
		w.is.Equal(pending[0].Attempts, 1)
		w.is.Equal(pending[0].Failure.Trigger, diverted.Trigger("503"))

		w.sleep(10 * time.Minute)
		var waits []time.Duration
		for _, m := range w.receiver.got() {
			waits = append(waits, m.at.Sub(began))
			w.is.Equal(m.id, key.Event.String())
		}
		w.is.Equal(waits, []time.Duration{0, time.Minute, 3 * time.Minute, 7 * time.Minute})
		w.is.Equal(w.seen("retried"), 3)
	})
}

func TestLifeASpentBudgetDivertsTheDelivery(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true, Retry: retries(2)}))
		w.receiver.answers(status(503))
		w.run()
		key := w.send(hook)
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got()), 3)
		w.is.Equal(len(w.pending(hook)), 0)
		events := w.diverted(hook)
		w.is.Equal(len(events), 1)
		w.is.Equal(events[0].Key, key)
		w.is.Equal(events[0].Failure.Trigger, diverted.Trigger("503")) // what was observed, not the class
		w.is.Equal(events[0].Failure.Status, 503)
		w.is.Equal(events[0].Attempts, 3)
		w.is.Equal(w.seen("diverted"), 1)
		w.is.True(strings.Contains(w.log.String(), "event diverted"))
	})
}

func TestLifeASpentBudgetThatNeitherDivertsNorSuspendsDropsTheDeliveryLoudly(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{
			Alert: &diverted.Endpoint{URL: "https://receiver.example/alert"},
		}))
		w.receiver.answers(func(m message, _ int) response {
			if m.path == "/alert" {
				return response{status: 200}
			}
			return response{status: 500}
		})
		w.run()
		key := w.send(hook)
		w.is.True(w.gone(hook))
		w.is.Equal(w.seen("dropped"), 1)
		w.is.True(strings.Contains(w.log.String(), "event dropped"))
		w.is.True(strings.Contains(w.log.String(), key.Event.String()))
		w.is.Equal(len(w.receiver.got("alert")), 1) // a budget was spent: alerted
	})
}

func TestLifeAcceptingAgainAddsNothingWhileItIsPendingOrDivertedAndSendsAgainOnceDelivered(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true, Retry: retries(1)}))
		w.receiver.answers(status(500))
		w.run()
		event := w.event()
		send := func() diverted.AcceptStatus {
			a, err := w.d.Send(w.ctx, tenant, hook.Webhook, event)
			w.is.NoErr(err)
			synctest.Wait()
			return a.Status
		}
		w.is.Equal(send(), diverted.Accepted)
		w.is.Equal(send(), diverted.AlreadyPending)
		w.sleep(time.Minute)
		w.is.Equal(send(), diverted.AlreadyDiverted)
		w.is.Equal(len(w.receiver.got()), 2)

		w.receiver.answers(nil)
		w.is.NoErr(w.store.Resend(w.ctx, w.diverted(hook)[0].Key))
		synctest.Wait()
		w.is.True(w.gone(hook))
		w.is.Equal(send(), diverted.Accepted)
		got := w.receiver.got()
		w.is.Equal(len(got), 4)
		for _, m := range got {
			w.is.Equal(m.id, event.Locator.String())
		}
	})
}

// "The status decides, once the header section is complete: 200–299 is success."

func TestLifeTheStatusDecides(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.run()
		for _, tt := range []struct {
			status int
			want   diverted.Trigger
		}{
			{300, "300"}, {304, "304"}, {400, "400"}, {404, "404"}, {499, "499"}, {500, "500"}, {599, "599"},
			{199, "timeout"}, {600, "timeout"}, {999, "timeout"},
		} {
			w.receiver.answers(status(tt.status))
			key := w.send(hook)
			event, err := w.store.FetchDiverted(w.ctx, key)
			w.is.NoErr(err)
			w.is.Equal(event.Failure.Trigger, tt.want)
		}
	})
}

func TestLifeRedirectsAreNotFollowed(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.receiver.answers(func(message, int) response {
			return response{status: 308, header: http.Header{"Location": {"https://receiver.example/elsewhere"}}}
		})
		w.run()
		w.send(hook)
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(w.diverted(hook)[0].Failure.Trigger, diverted.Trigger("308"))
	})
}

func TestLifeTheBodyIsReadForTheExcerptAndItsFailureChangesNothing(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		broken := iotest.ErrReader(io.ErrUnexpectedEOF)
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.run()
		w.receiver.answers(func(message, int) response { return response{status: 200, reader: broken} })
		w.send(hook)
		w.is.True(w.gone(hook)) // delivered all the same

		w.receiver.answers(func(message, int) response {
			return response{status: 422, reader: io.MultiReader(strings.NewReader("no such repository"), broken)}
		})
		w.send(hook)
		failure := w.diverted(hook)[0].Failure
		w.is.Equal(failure.Trigger, diverted.Trigger("422"))
		w.is.Equal(failure.Excerpt, "no such repository")
	})
}

func TestLifeWhatHasNoValidHeaderSectionIsATimeoutAndTheMessageSaysWhich(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true}))
		w.run()
		for _, tt := range []struct {
			answer response
			want   string
		}{
			{response{status: 200, after: time.Minute}, "no answer within 15s"},
			{response{err: syscall.ECONNREFUSED}, "connection refused"},
			{response{err: syscall.ECONNRESET}, "connection reset"},
			{response{err: io.EOF}, "connection closed"},
		} {
			w.receiver.answers(func(message, int) response { return tt.answer })
			key := w.send(hook)
			w.sleep(20 * time.Second)
			event, err := w.store.FetchDiverted(w.ctx, key)
			w.is.NoErr(err)
			w.is.Equal(event.Failure.Trigger, diverted.TriggerTimeout)
			w.is.Equal(event.Failure.Status, 0)
			w.is.True(strings.Contains(event.Failure.Message, tt.want)) // says which
		}
	})
}

func TestLifeA410SpendsTheBudgetAtOnce(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a") // by default with ten retries
		w.receiver.answers(status(410))
		w.run()
		w.send(hook)
		w.is.Equal(len(w.pending(hook)), 0)
		w.is.Equal(w.diverted(hook)[0].Failure.Trigger, diverted.Trigger("410"))
	})
}

// "Handling applies to failures that match triggers."

func TestLifeAFailureThatMatchesNoTriggerIsDroppedLoudlyButNotAlerted(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{
			Triggers: []diverted.Trigger{"5xx", "429"}, Retry: retries(3), Divert: true, Suspend: true,
			Alert: &diverted.Endpoint{URL: "https://receiver.example/alert"},
		}))
		w.receiver.answers(status(404))
		w.run()
		w.send(hook)
		w.sleep(time.Hour)
		w.is.True(w.gone(hook))
		w.is.True(!w.suspended(hook))
		w.is.Equal(w.seen("dropped"), 1)
		w.is.Equal(w.log.count("event dropped"), 1)
		w.is.Equal(len(w.receiver.got("alert")), 0)
		w.is.Equal(len(w.receiver.got("a")), 1)
	})
}

func TestLifeADeliveryThatWasDivertedOnceIsNeverDroppedAndNeverMerelyHeld(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		for _, h := range []diverted.FailureHandling{
			{Triggers: []diverted.Trigger{"5xx"}, Divert: true}, // would drop a 404
			{},              // drops everything
			{Suspend: true}, // holds
		} {
			hook := w.webhook("a", handling(h))
			event := w.event()
			body, err := event.Encode()
			w.is.NoErr(err)
			key := diverted.Key{Tenant: tenant, Webhook: hook.Webhook, Event: event.Locator}
			w.is.NoErr(w.store.Divert(w.ctx, diverted.DivertedEvent{
				Key: key, RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
				Failure: diverted.Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503},
			}))
			w.receiver.answers(status(404))
			w.is.NoErr(w.store.Resend(w.ctx, key))
			w.is.NoErr(w.dispatcher().Flush(w.ctx))
			again, err := w.store.FetchDiverted(w.ctx, key)
			w.is.NoErr(err)
			w.is.Equal(again.Failure.Trigger, diverted.Trigger("404"))
			w.is.Equal(w.suspended(hook), h.Suspend)
		}
	})
}

// "Update in flight", "Delete of a webhook".

func TestLifeAnAttemptUsesTheWebhookAsItStoodAtTheClaim(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("old", handling(diverted.FailureHandling{Retry: retries(1), Divert: true}))
		w.receiver.answers(func(m message, _ int) response {
			if m.path == "/old" {
				return response{status: 500, after: 5 * time.Second}
			}
			return response{status: 200}
		})
		w.run()
		w.send(hook)
		stand, err := w.store.FetchWebhook(w.ctx, hook)
		w.is.NoErr(err)
		stand.Endpoint.URL = "https://receiver.example/new"
		stand.FailureHandling = &diverted.FailureHandling{} // would drop it
		_, err = w.store.UpdateWebhook(w.ctx, stand)
		w.is.NoErr(err)
		w.sleep(5 * time.Second)
		w.is.Equal(len(w.pending(hook)), 1) // retried by the handling at the claim
		w.sleep(time.Minute)
		w.is.Equal(len(w.receiver.got("old")), 1)
		w.is.Equal(len(w.receiver.got("new")), 1)
		w.is.True(w.gone(hook))
	})
}

func TestLifeWhatIsInFlightAtADeletedWebhookSettlesIntoNothing(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a")
		w.receiver.answers(func(message, int) response { return response{status: 500, after: 5 * time.Second} })
		w.run()
		w.send(hook)
		w.is.NoErr(w.store.DeleteWebhook(w.ctx, hook, true))
		_, err := w.store.FetchWebhook(w.ctx, hook)
		w.is.True(errors.Is(err, diverted.ErrNotFound)) // gone at the commit
		w.sleep(time.Hour)
		w.is.True(w.gone(hook))
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(w.seen("retried")+w.seen("diverted")+w.seen("delivered"), 0)
	})
}

// "resend", "Send", "Publish".

func TestLifeAResendIsAttemptedAtOnceWithAFreshBudgetUnderTheSameLocator(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Divert: true, Retry: retries(1)}))
		w.receiver.answers(status(500))
		w.run()
		key := w.send(hook)
		w.sleep(time.Minute)
		w.is.Equal(len(w.diverted(hook)), 1)

		w.is.NoErr(w.store.Resend(w.ctx, key))
		synctest.Wait()
		w.is.Equal(len(w.receiver.got()), 3) // woken
		w.is.Equal(len(w.diverted(hook)), 0)
		w.is.Equal(len(w.pending(hook)), 1)
		w.sleep(time.Minute)
		w.is.Equal(len(w.receiver.got()), 4) // a fresh budget
		w.is.Equal(w.diverted(hook)[0].Key, key)
		w.is.Equal(w.diverted(hook)[0].Attempts, 2)
		w.is.Equal(w.seen("resent"), 1)
		w.is.True(errors.Is(w.store.Resend(w.ctx, diverted.Key{Tenant: tenant, Webhook: hook.Webhook, Event: ulid.Make()}), diverted.ErrNotFound))
	})
}

func TestLifeAResendIsRefusedOnASuspendedADisabledAndAnUnknownWebhook(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		suspended, off := w.webhook("a"), w.webhook("b", disabled)
		w.is.NoErr(w.store.Suspend(w.ctx, suspended))
		unknown := diverted.WebhookKey{Tenant: tenant, Webhook: ulid.Make()}
		w.run()
		for _, tt := range []struct {
			hook diverted.WebhookKey
			want error
		}{{suspended, diverted.ErrSuspended}, {off, diverted.ErrDisabled}, {unknown, diverted.ErrWebhookUnknown}} {
			event := w.event()
			body, err := event.Encode()
			w.is.NoErr(err)
			key := diverted.Key{Tenant: tenant, Webhook: tt.hook.Webhook, Event: event.Locator}
			w.is.NoErr(w.store.Divert(w.ctx, diverted.DivertedEvent{
				Key: key, RequestLocator: event.RequestLocator, EventType: event.Type, Body: body,
				Failure: diverted.Failure{Trigger: diverted.TriggerTimeout},
			}))
			w.is.True(errors.Is(w.store.Resend(w.ctx, key), tt.want))
			w.is.Equal(len(w.diverted(tt.hook)), 1) // nothing changed
			w.is.Equal(len(w.pending(tt.hook)), 0)
		}
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got()), 0)
	})
}

func TestLifeSendToADisabledWebhookIsHeldAndPublishSkipsIt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		on, off := w.webhook("on"), w.webhook("off", disabled)
		paused := w.webhook("paused")
		other := w.webhook("other", func(w *diverted.Webhook) { w.EventTypes = []string{"order.*"} })
		w.is.NoErr(w.store.Suspend(w.ctx, paused))
		w.run()
		w.send(off)
		w.is.Equal(len(w.pending(off)), 1)

		answer, err := w.d.Publish(w.ctx, tenant, w.event())
		w.is.NoErr(err)
		synctest.Wait()
		var receivers []ulid.ULID
		for _, a := range answer {
			w.is.Equal(a.Status, diverted.Accepted)
			receivers = append(receivers, a.Webhook)
		}
		want := []ulid.ULID{on.Webhook, paused.Webhook}
		slices.SortFunc(want, ulid.ULID.Compare)
		w.is.Equal(receivers, want)
		w.is.Equal(len(w.pending(off)), 1)
		w.is.Equal(len(w.pending(paused)), 1) // held
		w.is.True(w.gone(other))
		w.is.Equal(len(w.receiver.got()), 1)
		w.is.Equal(len(w.receiver.got("on")), 1)

		answer, err = w.d.Publish(w.ctx, tenant, diverted.Event{})
		w.is.True(errors.Is(err, diverted.ErrInvalid))
		w.is.Equal(len(answer), 0)
	})
}

// "A delivery whose claim was lost ten times, or whose row cannot be decoded, is diverted, saying so."

func TestLifeADeliveryWhoseClaimWasLostTenTimesIsDivertedWithoutAnAttempt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := w.webhook("a", handling(diverted.FailureHandling{Suspend: true}))
		key := w.send(hook)
		for range diverted.MaxLosses { // claimed by processes that die
			claimed, err := w.store.Work(w.ctx, diverted.WorkRequest{Claim: &diverted.ClaimRequest{
				Count: 1, Bytes: 1, Lease: time.Second,
				Reserve:  func(_ diverted.WebhookKey, want int) int { return want },
				InFlight: func(diverted.Key) bool { return false },
			}})
			w.is.NoErr(err)
			w.is.Equal(len(claimed.Claims), 1)
			w.sleep(2 * time.Second)
		}
		w.is.NoErr(w.d.Flush(w.ctx))
		w.is.Equal(len(w.receiver.got()), 0)
		event, err := w.store.FetchDiverted(w.ctx, key)
		w.is.NoErr(err)
		w.is.Equal(event.Failure.Trigger, diverted.TriggerTimeout)
		w.is.True(strings.Contains(event.Failure.Message, "claim was lost 10 times"))
		w.is.Equal(w.seen("diverted"), 1)
		w.is.Equal(w.seen("attempted"), 0)
	})
}

func TestLifeADeliveryWhoseRowCannotBeDecodedIsDivertedWithoutAnAttempt(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		hook := w.webhook("a")
		key := w.send(hook)
		w.store = &tampered{Store: w.store, result: func(r *diverted.WorkResult) {
			for i, c := range r.Claims {
				r.Claims[i] = diverted.Claim{Key: c.Key, Token: c.Token, Err: fmt.Errorf("row: %w", diverted.ErrDamaged)}
			}
		}}
		w.d = nil
		w.is.NoErr(w.dispatcher().Flush(w.ctx))
		w.is.Equal(len(w.receiver.got()), 0)
		event, err := w.store.FetchDiverted(w.ctx, key)
		w.is.NoErr(err)
		w.is.Equal(event.Failure.Trigger, diverted.TriggerTimeout)
		w.is.True(strings.Contains(event.Failure.Message, "cannot be decoded"))
	})
}

// All real payloads, to three webhooks.

func TestLifeOfAllRealPayloadsAtThreeReceivers(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		payloads := testdata.Payloads()
		w.is.Equal(len(payloads), 329)
		good := w.webhook("good")
		flaky := w.webhook("flaky")
		bad := w.webhook("bad", handling(diverted.FailureHandling{Triggers: diverted.AllTriggers(), Divert: true}))

		attempts := map[string]int{} // by path and event; the receiver calls in turn
		repaired := false
		w.receiver.answers(func(m message, _ int) response {
			attempts[m.path+m.id]++
			switch {
			case m.path == "/flaky" && attempts[m.path+m.id] <= 2:
				return response{status: 503}
			case m.path == "/bad" && !repaired:
				return response{status: 404}
			}
			return response{status: 200}
		})
		w.receiver.inTurn = true

		bodies := map[string][]byte{} // by event
		w.run()
		for _, p := range payloads {
			event, err := diverted.NewEvent(p.Type, p.Data)
			w.is.NoErr(err)
			bodies[event.Locator.String()], err = event.Encode()
			w.is.NoErr(err)
			answer, err := w.d.Publish(w.ctx, tenant, event)
			w.is.NoErr(err)
			w.is.Equal(len(answer), 3)
		}
		w.sleep(10 * time.Minute)

		check := func(path string, perEvent int) {
			t.Helper()
			got := w.receiver.got(path)
			w.is.Equal(len(got), perEvent*329)
			count := map[string]int{}
			for _, m := range got {
				count[m.id]++
				if string(m.body) != string(bodies[m.id]) {
					t.Fatalf("%s: the body of %s is not the one that was accepted", path, m.id)
				}
			}
			w.is.Equal(len(count), 329)
			for _, n := range count {
				w.is.Equal(n, perEvent)
			}
		}
		check("good", 1)
		check("flaky", 3)
		check("bad", 1)
		w.is.True(w.gone(good))
		w.is.True(w.gone(flaky))
		w.is.Equal(len(w.pending(bad)), 0)
		events := w.diverted(bad)
		w.is.Equal(len(events), 329)
		for _, e := range events {
			w.is.Equal(e.Failure.Trigger, diverted.Trigger("404"))
		}
		w.is.Equal(w.seen("accepted"), 3*329)
		w.is.Equal(w.seen("delivered"), 2*329)
		w.is.Equal(w.seen("retried"), 2*329)
		w.is.Equal(w.seen("diverted"), 329)

		w.receiver.do(func() { repaired = true })
		for _, e := range events {
			w.is.NoErr(w.store.Resend(w.ctx, e.Key))
		}
		synctest.Wait()
		check("bad", 2) // the same identifiers, the same bytes
		w.is.True(w.gone(bad))
		w.is.Equal(w.seen("delivered"), 3*329)
		w.is.Equal(w.seen("resent"), 329)
	})
}
