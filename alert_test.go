package diverted_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
)

func TestNoticesThatHangDelayNoDeliveryAndAreAllSentInTheEnd(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		s := &counted{Store: w.store, Watcher: w.store.(diverted.Watcher)}
		w.store = s
		w.observe()
		good := w.webhook("good")
		hang := true
		w.receiver.inTurn = true
		w.receiver.answers(func(m message, _ int) response {
			switch m.path {
			case "/good":
				return response{status: 200}
			case "/alert":
				if hang {
					return response{status: 200, after: time.Hour}
				}
				return response{status: 200}
			default:
				return response{status: 404}
			}
		})
		w.run()
		for i := range 40 {
			w.send(w.webhook(fmt.Sprint(i), handling(diverted.FailureHandling{
				Alert: &diverted.Endpoint{URL: "https://receiver.example/alert"},
			})))
		}
		before := s.works.Load()
		w.sleep(10 * time.Second)
		w.is.Equal(len(w.receiver.got("alert")), 16)
		w.is.True(s.works.Load()-before <= 11) // no busy loop
		w.send(good)
		w.is.Equal(len(w.receiver.got("good")), 1)
		w.sleep(time.Minute)
		w.receiver.do(func() { hang = false })
		w.sleep(10 * time.Minute)
		w.is.Equal(w.seen("alerted"), 40)
	})
}

func TestANoticeWhoseEndpointWasRemovedIsForgotten(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		hook := alerting(w)
		w.receiver.answers(notAlerts(404))
		w.run()
		w.send(hook)
		w.send(hook) // joins the notice of the first window
		stand, err := w.store.FetchWebhook(w.ctx, hook)
		w.is.NoErr(err)
		stand.FailureHandling = &diverted.FailureHandling{Divert: true}
		_, err = w.store.UpdateWebhook(w.ctx, stand)
		w.is.NoErr(err)
		w.sleep(time.Hour)
		w.is.Equal(len(w.receiver.got("alert")), 1)
		w.is.Equal(w.seen("alerted")+w.seen("alert given up"), 1)
	})
}

func TestANoticeThatTheEndOfRunCutsOffIsSentByTheNext(t *testing.T) {
	inFakeTime(t, func(t *testing.T, w *world) {
		w.observe()
		w.config.GracePeriod = -1
		hook := alerting(w)
		w.receiver.answers(func(m message, n int) response {
			if m.path == "/alert" {
				return response{status: 200, after: 10 * time.Second}
			}
			return response{status: 404}
		})
		w.run()
		w.send(hook)
		w.is.Equal(len(w.receiver.got("alert")), 1)
		w.stop()
		w.is.Equal(w.seen("alerted"), 0)
		w.run()
		w.sleep(time.Minute)
		notices := w.receiver.got("alert")
		w.is.Equal(len(notices), 2)
		w.is.Equal(notices[0].id, notices[1].id)
		w.is.Equal(w.seen("alerted"), 1)
	})
}
