package modeltest

import (
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"pgregory.net/rapid"

	"github.com/divertedevents/diverted"
)

// The steps of an operator, for stores that have these powers.

// operate returns the steps that the store allows.
func (m *machine) operate() map[string]func(*rapid.T) {
	actions := make(map[string]func(*rapid.T))
	if _, ok := m.store.(diverted.BulkStore); ok {
		actions["resend all"] = m.resendAll
		actions["delete all"] = m.deleteAll
		actions["divert all"] = m.divertAll
		actions["list filtered"] = m.listFiltered
	}
	if _, ok := m.store.(diverted.RetentionStore); ok {
		actions["purge"] = m.purge
		actions["expunge"] = func(t *rapid.T) {
			key := drawKey(t)
			fails(t, m.store.(diverted.RetentionStore).Expunge(m.ctx, key), m.model.expunge(key))
		}
	}
	if _, ok := m.store.(diverted.StatsStore); ok {
		actions["statistics"] = m.stats
	}
	return actions
}

func drawFilter(t *rapid.T) diverted.DivertedFilter {
	return diverted.DivertedFilter{
		Trigger:   rapid.SampledFrom([]diverted.Trigger{"", "503", "5xx", "timeout", "404"}).Draw(t, "trigger"),
		EventType: rapid.SampledFrom(append([]string{""}, types...)).Draw(t, "type"),
	}
}

// bulk drives a call to its end, and returns how many it matched and did.
func (m *machine) bulk(t *rapid.T, call func(diverted.BulkRequest) (diverted.BulkResult, error), r diverted.BulkRequest) (matched, done int, err error) {
	r.Limit = rapid.IntRange(0, 3).Draw(t, "limit")
	r.DryRun = rapid.IntRange(0, 3).Draw(t, "dry run") == 0
	for {
		result, err := call(r)
		if err != nil {
			return matched, done, err
		}
		matched += result.Matched
		done += result.Done
		if !result.More {
			if r.DryRun {
				equal(t, "done by a dry run", done, 0)
				done = -1
			}
			return matched, done, nil
		}
		r.After, r.Before = result.After, result.Before
	}
}

// selects returns the diverted deliveries of a webhook that a filter selects.
func (w *webhook) selects(f diverted.DivertedFilter) []*delivery {
	return slices.DeleteFunc(w.aside(), func(d *delivery) bool {
		event := d.divertedEvent()
		return !f.Selects(&event)
	})
}

// inBulk returns those of them that a bulk step takes, which leaves out what is stamped with the next millisecond, since it
// was diverted twice within this one.
func (w *webhook) inBulk(f diverted.DivertedFilter) []*delivery {
	return slices.DeleteFunc(w.selects(f), func(d *delivery) bool { return d.divertedAt.After(today()) })
}

func (m *machine) resendAll(t *rapid.T) {
	key, f := drawWebhookKey(t), drawFilter(t)
	matched, done, err := m.bulk(t, func(r diverted.BulkRequest) (diverted.BulkResult, error) {
		return m.store.(diverted.BulkStore).ResendAll(m.ctx, r)
	}, diverted.BulkRequest{Webhook: key, Filter: f})
	w := m.model.webhooks[key]
	all := w.inBulk(f)
	if done < 0 {
		equal(t, "matched", matched, len(all))
		return
	}
	if want := w.letsGo(); want != nil {
		if err != nil { // a dry run has none
			fails(t, err, want)
		} else {
			t.Fatalf("error is nil, want %v", want)
		}
		return
	}
	ok(t, err)
	equal(t, "matched", matched, len(all))
	n := 0
	for _, d := range all {
		if len(d.message.Body) > 0 {
			ok(t, m.model.resend(d.key()))
			n++
		}
	}
	equal(t, "done", done, n)
}

func (m *machine) deleteAll(t *rapid.T) {
	key, f := drawWebhookKey(t), drawFilter(t)
	matched, done, err := m.bulk(t, func(r diverted.BulkRequest) (diverted.BulkResult, error) {
		return m.store.(diverted.BulkStore).DeleteAll(m.ctx, r)
	}, diverted.BulkRequest{Webhook: key, Filter: f})
	ok(t, err)
	all := m.model.webhooks[key].inBulk(f)
	equal(t, "matched", matched, len(all))
	if done < 0 {
		return
	}
	equal(t, "done", done, len(all))
	for _, d := range all {
		ok(t, m.model.deleteDiverted(d.key()))
	}
}

func (m *machine) divertAll(t *rapid.T) {
	key := drawWebhookKey(t)
	f := diverted.DivertedFilter{EventType: drawFilter(t).EventType}
	matched, done, err := m.bulk(t, func(r diverted.BulkRequest) (diverted.BulkResult, error) {
		return m.store.(diverted.BulkStore).DivertAll(m.ctx, r)
	}, diverted.BulkRequest{Webhook: key, Filter: f})
	w := m.model.known(key)
	switch {
	case w == nil:
		fails(t, err, diverted.ErrNotFound)
		return
	case w.active():
		fails(t, err, diverted.ErrConflict)
		return
	}
	ok(t, err)
	all := slices.DeleteFunc(w.pending(), func(d *delivery) bool { return f.EventType != "" && d.message.EventType != f.EventType })
	equal(t, "matched", matched, len(all))
	if done < 0 {
		return
	}
	equal(t, "done", done, len(all))
	for _, d := range all {
		if d.failure == nil {
			failure := diverted.AsideOnRequest(now())
			d.keep(&failure)
		}
		d.diverted, d.divertedAt = true, today()
		d.token, d.due, d.losses, d.spent = 0, time.Time{}, 0, false
		m.model.changed(diverted.ChangeDiverted, key, d.message.Event)
	}
}

// listFiltered holds a filtered list against the model.
func (m *machine) listFiltered(t *rapid.T) {
	q := diverted.DivertedQuery{
		Webhook: drawWebhookKey(t), Filter: drawFilter(t), Failures: true,
		Offset: rapid.IntRange(0, 3).Draw(t, "offset"), Limit: rapid.IntRange(0, 3).Draw(t, "limit"),
	}
	if rapid.Bool().Draw(t, "cursor") {
		q.After = drawEvent(t)
	}
	if m.model.slack == 0 && rapid.Bool().Draw(t, "times") {
		q.Filter.Until = now().Add(-time.Duration(rapid.IntRange(0, 20).Draw(t, "until")) * time.Minute)
		if rapid.Bool().Draw(t, "since") {
			q.Filter.Since = q.Filter.Until.Add(-time.Duration(rapid.IntRange(1, 20).Draw(t, "for")) * time.Minute)
		}
	}
	page, err := m.store.ListDiverted(m.ctx, q)
	ok(t, err)
	all := slices.DeleteFunc(m.model.webhooks[q.Webhook].selects(q.Filter), func(d *delivery) bool { return d.message.Event.Compare(q.After) <= 0 })
	want, more := cut(all, q.Offset, q.Limit)
	equal(t, "more diverted", page.More, more)
	equal(t, "number of diverted", len(page.Events), len(want))
	for i, d := range want {
		event := d.divertedEvent()
		event.Body = nil
		m.sameDiverted(t, page.Events[i], event)
		m.sameFailures(t, page.Events[i].Failures, d)
	}
}

func (m *machine) sameFailures(t *rapid.T, got []diverted.Failure, d *delivery) {
	equal(t, "number of failures", len(got), len(d.failures))
	for i, want := range d.failures {
		got[i].At = m.model.near(got[i].At, want.At)
		equal(t, "failure", got[i], want)
	}
}

// purge has the store delete, and then sees that it was what is old or too much, since among what is equally
// old a store may choose.
func (m *machine) purge(t *rapid.T) {
	r := diverted.PurgeRequest{Limit: rapid.IntRange(1, 5).Draw(t, "limit")}
	if m.model.slack == 0 && rapid.Bool().Draw(t, "age") {
		r.Retention.MaxAge = time.Duration(rapid.IntRange(1, 60).Draw(t, "minutes")) * time.Minute
	} else {
		r.Retention.MaxPerWebhook = rapid.IntRange(1, 4).Draw(t, "cap")
	}
	purged := 0
	for {
		result, err := m.store.(diverted.RetentionStore).Purge(m.ctx, r)
		ok(t, err)
		n := 0
		for _, p := range result.Webhooks {
			n += p.Diverted + p.Pending
		}
		equal(t, "purged within the limit", n <= r.Limit, true)
		purged += n
		if !result.More {
			break
		}
		equal(t, "purged something", n > 0, true)
	}
	for key, w := range m.model.webhooks {
		page, err := m.store.ListDiverted(m.ctx, diverted.DivertedQuery{Webhook: key, Limit: diverted.MaxPage})
		ok(t, err)
		left := make(map[ulid.ULID]bool)
		for _, e := range page.Events {
			left[e.Event] = true
		}
		aside := w.aside()
		purged -= m.purged(t, w, aside, len(aside), left, r.Retention, func(d *delivery) time.Time { return d.divertedAt })
		if !w.known || w.active() {
			continue
		}
		pending, err := m.store.ListPending(m.ctx, diverted.DivertedQuery{Webhook: key, Limit: diverted.MaxPage})
		ok(t, err)
		clear(left)
		for _, p := range pending.Deliveries {
			left[p.Event] = true
		}
		all := w.pending()
		held := slices.DeleteFunc(slices.Clone(all), func(d *delivery) bool { return d.token != 0 && !over(d.due) })
		retention := r.Retention
		if !w.value.Suspended() {
			retention.MaxAge = 0
		}
		purged -= m.purged(t, w, held, len(all), left, retention, func(d *delivery) time.Time {
			if w.value.SuspendedAt.After(d.acceptedAt) {
				return w.value.SuspendedAt
			}
			return d.acceptedAt
		})
	}
	equal(t, "purged beyond what had to go", purged, 0)
}

// purged judges what is left of all that might go, and has the model forget the rest.
func (m *machine) purged(t *rapid.T, w *webhook, all []*delivery, inAll int, left map[ulid.ULID]bool, r diverted.Retention, since func(*delivery) time.Time) (gone int) {
	slices.SortStableFunc(all, func(a, b *delivery) int { return since(a).Compare(since(b)) })
	must := 0
	for must < len(all) && (r.MaxAge > 0 && over(since(all[must]).Add(r.MaxAge)) || r.MaxPerWebhook > 0 && inAll-must > r.MaxPerWebhook) {
		must++
	}
	var youngest, oldest time.Time // of what is gone, and of what is left
	for _, d := range all {
		if left[d.message.Event] {
			if oldest.IsZero() {
				oldest = since(d)
			}
			continue
		}
		gone++
		youngest = since(d)
		delete(w.deliveries, d.message.Event)
	}
	equal(t, "purged", gone, must)
	equal(t, "the oldest first", gone == 0 || oldest.IsZero() || youngest.Sub(oldest) <= m.model.slack, true)
	return gone
}

// stats holds the exact numbers against the model.
func (m *machine) stats(t *rapid.T) {
	key := drawWebhookKey(t)
	q := diverted.StatsQuery{Tenant: key.Tenant, Webhook: key.Webhook}
	if rapid.Bool().Draw(t, "tenant") {
		q.Webhook = ulid.ULID{}
	}
	got, err := m.store.(diverted.StatsStore).Stats(m.ctx, q)
	ok(t, err)
	want := diverted.Stats{Diverted: make(map[diverted.Trigger]int)}
	for key, w := range m.model.webhooks {
		if key.Tenant != q.Tenant || !q.Webhook.IsZero() && key.Webhook != q.Webhook {
			continue
		}
		if w.known {
			want.Webhooks++
			if !w.value.Enabled {
				want.Disabled++
			}
			if w.value.Suspended() {
				want.Suspended++
			}
		}
		for _, d := range w.pending() {
			want.Pending++
			if w.active() && (over(d.due) || d.token != 0) {
				want.Due++
			}
			if want.OldestPending.IsZero() || d.acceptedAt.Before(want.OldestPending) {
				want.OldestPending = d.acceptedAt
			}
		}
		for _, d := range w.aside() {
			want.Diverted[d.failure.Trigger]++
		}
	}
	equal(t, "webhooks", []int{got.Webhooks, got.Disabled, got.Suspended}, []int{want.Webhooks, want.Disabled, want.Suspended})
	equal(t, "pending and due", []int{got.Pending, got.Due}, []int{want.Pending, want.Due})
	equal(t, "oldest pending", m.model.near(got.OldestPending, want.OldestPending).UTC(), want.OldestPending.UTC())
	equal(t, "number of triggers", len(got.Diverted), len(want.Diverted))
	for trigger, n := range want.Diverted {
		equal(t, "diverted by "+string(trigger), got.Diverted[trigger], n)
	}
}

func (d *delivery) key() diverted.Key {
	return diverted.Key{Tenant: d.message.Tenant, Webhook: d.message.Webhook, Event: d.message.Event}
}

// letsGo returns why the webhook, nil for none, does not let diverted events go.
func (w *webhook) letsGo() error {
	switch {
	case w == nil || !w.known:
		return diverted.ErrWebhookUnknown
	case !w.value.Enabled:
		return diverted.ErrDisabled
	case w.value.Suspended():
		return diverted.ErrSuspended
	}
	return nil
}

func (m *model) expunge(key diverted.Key) error {
	_, d := m.find(key)
	if d == nil || !d.diverted {
		return diverted.ErrNotFound
	}
	d.message.Body = nil
	for i, f := range d.failures {
		d.failures[i] = f.Expunged()
	}
	last := d.failure.Expunged()
	d.failure = &last
	return nil
}
