package storetest

import (
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// mixed diverts events of every kind to a webhook, in some steps of time, and to another one, and returns
// those of the first as a list shows them.
func (k *kit) mixed(w diverted.WebhookKey) []diverted.DivertedEvent {
	k.Helper()
	other := diverted.WebhookKey{Tenant: w.Tenant, Webhook: ulid.Make()}
	for step := range 3 {
		for _, trigger := range []diverted.Trigger{"503", "404", "500", diverted.TriggerTimeout} {
			for _, eventType := range []string{"order.paid", "order.paid.late", "invoice.sent"} {
				for _, webhook := range []diverted.WebhookKey{w, other} {
					e := k.hostEvent(webhook)
					e.Event = ulid.MustNew(uint64(1+(7*k.events+step)%5), ulid.DefaultEntropy()) // in no order
					e.Failure.Trigger, e.EventType = trigger, eventType
					k.divert(e)
				}
			}
		}
		time.Sleep(k.short / 10)
	}
	page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w})
	k.ok(err)
	k.equal(len(page.Events), 36)
	return page.Events
}

// filters are some, of which each selects some of what mixed diverted, but for the last, which select none.
func filters(all []diverted.DivertedEvent) []diverted.DivertedFilter {
	var times []time.Time
	for _, e := range all {
		times = append(times, e.DivertedAt)
	}
	first, last := slices.MinFunc(times, time.Time.Compare), slices.MaxFunc(times, time.Time.Compare)
	middle := first.Add(last.Sub(first) / 2)
	return []diverted.DivertedFilter{
		{Trigger: "503"},
		{Trigger: "5xx"},
		{Trigger: "5XX"},
		{Trigger: "4xx"},
		{Trigger: "timeout"},
		{Trigger: "Timeout"},
		{EventType: "order.paid"},
		{EventType: "invoice.sent"},
		{Trigger: "404", EventType: "order.paid.late"},
		{Trigger: "5xx", EventType: "order.paid"},
		{Since: middle},
		{Until: middle},
		{Since: last},
		{Since: first, Until: last},
		{Since: first, Until: last.Add(time.Microsecond)},
		{Since: first.Add(time.Microsecond)},
		{Trigger: "5xx", EventType: "order.paid", Since: middle},
		{EventType: "invoice.sent", Until: middle},
		{Trigger: "timeout", Since: middle, Until: last.Add(time.Hour)},

		{Trigger: "502"},
		{Trigger: "3xx"},
		{EventType: "order"},
		{EventType: "ORDER.PAID"},
		{Until: first},
		{Since: last.Add(time.Hour)},
	}
}

// selected returns what a filter selects, by [diverted.DivertedFilter.Selects].
func selected(all []diverted.DivertedEvent, f diverted.DivertedFilter) []ulid.ULID {
	if trigger, err := diverted.ParseTrigger(string(f.Trigger)); err == nil {
		f.Trigger = trigger
	}
	var l []ulid.ULID
	for _, e := range all {
		if f.Selects(&e) {
			l = append(l, e.Event)
		}
	}
	return l
}

var filterTests = []test{
	{rule: "a list has what its filter selects, ascending, page by page", run: func(k *kit) {
		w := diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()}
		all := k.mixed(w)
		for _, f := range filters(all) {
			want := selected(all, f)
			for _, tt := range []struct{ offset, limit int }{{0, 100}, {0, 1}, {0, 5}, {3, 4}, {len(want), 1}} {
				var got []ulid.ULID
				q := diverted.DivertedQuery{Webhook: w, Filter: f, Offset: tt.offset, Limit: tt.limit}
				for {
					page, err := k.store.ListDiverted(k.ctx, q)
					k.ok(err)
					k.that(len(page.Events) <= tt.limit, "%+v: a page has %d events", f, len(page.Events))
					for _, e := range page.Events {
						got = append(got, e.Event)
					}
					if !page.More {
						break
					}
					k.equal(len(page.Events), tt.limit)
					q.After, q.Offset = got[len(got)-1], 0
				}
				k.that(slices.Equal(got, want[min(tt.offset, len(want)):]), "%+v, offset %d, pages of %d: got\n\t%v\nwant\n\t%v", f, tt.offset, tt.limit, got, want)
			}
		}
	}},

	{rule: "a filter goes by the last failure, and by when it was set aside last", run: func(k *kit) {
		e := k.hostEvent(diverted.WebhookKey{Tenant: k.tenant, Webhook: ulid.Make()})
		k.divert(e)
		first := k.fetchDiverted(e.Key).DivertedAt
		time.Sleep(k.short / 10)
		e.Failure.Trigger = "404"
		k.divert(e)
		for _, tt := range []struct {
			filter diverted.DivertedFilter
			want   int
		}{
			{diverted.DivertedFilter{Trigger: "503"}, 0},
			{diverted.DivertedFilter{Trigger: "404"}, 1},
			{diverted.DivertedFilter{Until: first.Add(time.Millisecond)}, 0},
			{diverted.DivertedFilter{Since: first.Add(time.Millisecond)}, 1},
		} {
			page, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: e.WebhookKey(), Filter: tt.filter})
			k.ok(err)
			k.that(len(page.Events) == tt.want, "%+v selects %d, want %d", tt.filter, len(page.Events), tt.want)
		}
	}},

	{rule: "a filter that breaks a rule is invalid, and any is for what is pending", run: func(k *kit) {
		w := k.webhook().Key()
		for _, f := range []diverted.DivertedFilter{
			{Trigger: "200"},
			{Trigger: "6xx"},
			{EventType: "order paid"},
			{Since: time.Unix(2, 0), Until: time.Unix(2, 0)},
		} {
			_, err := k.store.ListDiverted(k.ctx, diverted.DivertedQuery{Webhook: w, Filter: f})
			k.fails(err, diverted.ErrInvalid)
		}
		_, err := k.store.ListPending(k.ctx, diverted.DivertedQuery{Webhook: w, Filter: diverted.DivertedFilter{Trigger: "503"}})
		k.fails(err, diverted.ErrInvalid)
	}},
}
