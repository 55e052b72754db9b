package diverted

import (
	"bytes"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"time"
)

// The policy of notices: how often they are sent, and for how long one is tried. The store only keeps
// them.
const (
	noticeTries       = 5
	firstNoticeRetry  = 40 * time.Second // then 80 s, 160 s and 320 s: ten minutes in all
	firstNoticeWindow = time.Minute
	lastNoticeWindow  = time.Hour
)

// noticeRetry is the wait after a try that failed, counted from 1; false after the last.
func noticeRetry(try int) (time.Duration, bool) {
	if try >= noticeTries {
		return 0, false
	}
	return firstNoticeRetry << (try - 1), true
}

// nextNoticeWindow is how long failures gather after a notice, by the window before it, which is 0 for
// the first notice.
func nextNoticeWindow(window time.Duration) time.Duration {
	return min(max(2*window, firstNoticeWindow), lastNoticeWindow)
}

// endedNotice is a try to send a notice that is over, on its way to be settled.
type endedNotice struct {
	outcome NoticeOutcome
	notice  Notice
	// told: the notice was sent, or given up, and then err says why.
	told bool
	err  error
}

// noticeMessage is the body of a notice.
type noticeMessage struct {
	Tenant    string             `json:"tenantLocator"`
	Webhook   string             `json:"webhookLocator"`
	Name      string             `json:"webhookName"`
	Failures  int                `json:"failures"`
	Diverted  int                `json:"diverted"`
	Suspended bool               `json:"suspended"`
	First     failedEventMessage `json:"first"`
	Last      failedEventMessage `json:"last"`
}

// failedEventMessage has the five properties of a diverted event.
type failedEventMessage struct {
	Event     string  `json:"eventLocator"`
	Request   string  `json:"requestLocator"`
	Message   string  `json:"failureMessage"`
	Timestamp string  `json:"failureTimestamp"`
	Trigger   Trigger `json:"failureTrigger"`
}

func encodeNotice(w *Webhook, n Notice) ([]byte, error) {
	failed := func(f FailedEvent) failedEventMessage {
		return failedEventMessage{
			Event: f.Event.String(), Request: f.RequestLocator.String(),
			Message: f.Failure.Message, Timestamp: FormatTime(f.Failure.At), Trigger: f.Failure.Trigger,
		}
	}
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(noticeMessage{
		Tenant: w.Tenant.String(), Webhook: w.Locator.String(), Name: w.Name,
		Failures: n.Failures, Diverted: n.Diverted, Suspended: n.Suspended,
		First: failed(n.First), Last: failed(n.Last),
	})
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// notify sends a notice to the alert endpoint of its webhook. leased is a moment before its lease began.
// A try that the end of the session cuts off, or that gets no response during an outage of our own, is not settled:
// somebody claims the notice when its lease is over, with as many tries left.
func (s *session) notify(c *NoticeClaim, leased time.Time) {
	e := endedNotice{
		outcome: NoticeOutcome{Webhook: c.Webhook.Key(), Token: c.Token},
		notice:  c.Notice,
	}
	failure := &Failure{Message: "the attempt broke off by a fault of the sending service"}
	settle := true
	defer func() {
		if v := recover(); v != nil {
			s.d.log.Error("diverted: panic contained", "in", "notice", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
		}
		e.conclude(c, failure)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.due = s.due || s.notices == maxNotices // there may be more than there was room for
		s.notices--
		if settle {
			s.noticed = append(s.noticed, e)
		}
		s.hush()
		s.signal()
	}()

	endpoint := c.Webhook.Handling().Alert
	if endpoint == nil { // removed meanwhile: there is nobody to tell
		e.outcome.Done = true
		failure = nil
		return
	}
	if time.Since(leased) > s.lease-s.d.config.Timeout {
		settle = false
		return
	}
	body, err := encodeNotice(c.Webhook, c.Notice)
	if err != nil {
		failure = &Failure{Message: "the notice cannot be encoded"}
		return
	}
	r := s.d.sender.send(s.attempting, request{endpoint: endpoint, id: c.Notice.Locator.String(), body: body})
	failure, settle = r.failure, !r.aborted && !(r.unanswered() && s.offline())
	e.told = true
}

// conclude decides what follows from a try.
func (e *endedNotice) conclude(c *NoticeClaim, failure *Failure) {
	if failure != nil {
		if wait, again := noticeRetry(c.Tries + 1); again {
			e.outcome.Wait, e.told = wait, false
			return
		}
		e.told = true
		// Without what the receiver answered: a notice quotes failures, and those what was sent.
		e.err = fmt.Errorf("diverted: notice given up after %d tries: %s", c.Tries+1, failure.Expunged().Message)
	}
	e.outcome.Done, e.outcome.Wait = true, nextNoticeWindow(c.Window)
}

// tellNotice says what became of a notice, once the store has settled it.
func (d *Dispatcher) tellNotice(e *endedNotice) {
	if !e.told {
		return
	}
	if e.err != nil {
		d.log.Warn("diverted: notice given up", append(logWebhook(e.outcome.Webhook), "message", e.err.Error())...)
	}
	if f := d.config.Observer.Alerted; f != nil {
		defer d.contain("observer")
		f(e.outcome.Webhook, e.notice, e.err)
	}
}
