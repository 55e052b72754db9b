package diverted

import (
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/turns"
)

// memoryNotice is what the alert endpoint of a webhook is to be told, and was told last.
type memoryNotice struct {
	// open is what came since the last notice was closed; it has no locator yet. No failures: nothing.
	open Notice
	// closed is the notice that is being sent, or that will be tried again. Zero locator: none.
	closed Notice
	tries  int
	window time.Duration
	token  int64 // of its claim; 0: nobody's
	// due is when the notice is to be claimed: after the window, after a wait, when the lease is over.
	due time.Time
}

// idle says that nothing is to be told.
func (n *memoryNotice) idle() bool { return n.closed.Locator.IsZero() && n.open.Failures == 0 }

// alert adds the failure of a delivery to the notice of its webhook.
func (tx *memoryTx) alert(w *memoryWebhook, d *memoryDelivery, diverted, suspended bool) {
	if n := w.notice; n == nil || n.idle() && tx.over(n.due) {
		w.notice = &memoryNotice{due: tx.now} // the window passed in silence, or there was none
	}
	w.notice.open.Add(FailedEvent{Event: d.event, RequestLocator: d.request, Failure: *d.failure()}, diverted, suspended)
	tx.planNotice(w)
}

// claimNotices claims what is due, at most most, and says whether more is.
func (tx *memoryTx) claimNotices(most int, lease time.Duration) (claims []NoticeClaim, more bool) {
	tx.notices.Round(tx.now, func(w *memoryWebhook) turns.Answer {
		if len(claims) == most {
			more = true
			return turns.Stop
		}
		n := w.notice
		if n.closed.Locator.IsZero() {
			n.closed, n.open, n.tries = n.open, Notice{}, 0
			n.closed.Locator = ulid.Make()
		}
		n.token, n.due = tx.token(), tx.in(lease)
		claims = append(claims, NoticeClaim{Webhook: w.webhook, Token: n.token, Notice: n.closed, Tries: n.tries, Window: n.window})
		tx.notices.At(w.key.Tenant, w, n.due)
		return turns.Idle
	})
	return claims, more
}

// settleNotice applies the outcome of a notice.
func (tx *memoryTx) settleNotice(o NoticeOutcome) {
	w := tx.find(o.Webhook)
	if w == nil || w.notice == nil || w.notice.token == 0 || w.notice.token != o.Token {
		return
	}
	n := w.notice
	n.token, n.due = 0, tx.in(o.Wait)
	if o.Done {
		n.closed, n.window = Notice{}, o.Wait
	} else {
		n.tries++
	}
	tx.planNotice(w)
}

// planNotice tells turns when the notice of a webhook is due.
func (tx *memoryTx) planNotice(w *memoryWebhook) {
	tx.notices.Drop(w)
	if !w.notice.idle() {
		tx.notices.At(w.key.Tenant, w, w.notice.due)
	}
}
