package storetest

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

const (
	secretA = diverted.Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	secretB = diverted.Secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")
	secretC = diverted.Secret("whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")
)

// everything sets every field of a webhook that a caller can.
func everything(w *diverted.Webhook) {
	w.Name = "Bestellungen → ERP"
	w.Enabled = false
	w.EventTypes = []string{"policy.*", "order.paid", "order.refunded"}
	w.Endpoint = diverted.Endpoint{
		URL:         "https://receiver.example:8443/hook?key=s3cret&x=%2F",
		Headers:     http.Header{"Authorization": {"Bearer tø\"ken\\"}, "X-Many": {"one", "", "two"}},
		InsecureTLS: true,
		HMACEnabled: true,
		Secret:      secretA,
		Tag:         "blue ☂",
	}
	w.FailureHandling = &diverted.FailureHandling{
		Triggers: []diverted.Trigger{"503", diverted.TriggerTimeout},
		Retry:    &diverted.RetryStrategy{Attempts: 7, Interval: 90 * time.Second, Type: diverted.Linear},
		Divert:   true,
		Suspend:  true,
		Alert: &diverted.Endpoint{
			URL:         "http://alerts.example/",
			Headers:     http.Header{"X-Key": {"k"}},
			HMACEnabled: true,
			Secret:      secretB,
		},
	}
}

var webhookTests = []test{
	{rule: "a created webhook comes back exactly as it was given, as version 1 and not suspended", run: func(k *kit) {
		for _, change := range []func(*diverted.Webhook){
			func(*diverted.Webhook) {},
			everything,
			func(w *diverted.Webhook) { w.FailureHandling = &diverted.FailureHandling{} }, // not the same as nil
			func(w *diverted.Webhook) {
				w.FailureHandling = &diverted.FailureHandling{Retry: &diverted.RetryStrategy{}}
			},
			func(w *diverted.Webhook) { w.Version, w.SuspendedAt = 7, time.Now() }, // the store's, not the caller's
		} {
			w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
			change(&w)
			saved, err := k.store.CreateWebhook(k.ctx, w)
			k.ok(err)
			w.Version, w.SuspendedAt = 1, time.Time{}
			k.sameWebhook(saved, w)
			k.sameWebhook(k.fetch(w), w)
		}
	}},

	{rule: "names need not be unique", run: func(k *kit) {
		a, b := k.webhook(), k.webhook()
		k.equal(k.fetch(a).Name, k.fetch(b).Name)
	}},

	{rule: "creating a webhook that is there is a conflict and changes nothing", run: func(k *kit) {
		w := k.webhook(everything)
		again := w
		again.Name = "another"
		_, err := k.store.CreateWebhook(k.ctx, again)
		k.fails(err, diverted.ErrConflict)
		k.sameWebhook(k.fetch(w), w)
	}},

	{rule: "a webhook that breaks a rule is invalid and changes nothing", run: func(k *kit) {
		w := k.webhook()
		bad := w
		bad.Name = ""
		_, err := k.store.PutWebhook(k.ctx, bad)
		k.fails(err, diverted.ErrInvalid)
		_, err = k.store.UpdateWebhook(k.ctx, bad)
		k.fails(err, diverted.ErrInvalid)
		k.sameWebhook(k.fetch(w), w)

		bad.Locator = ulid.Make()
		_, err = k.store.CreateWebhook(k.ctx, bad)
		k.fails(err, diverted.ErrInvalid)
		_, err = k.store.PutWebhook(k.ctx, bad)
		k.fails(err, diverted.ErrInvalid)
		_, err = k.store.FetchWebhook(k.ctx, bad.Key())
		k.fails(err, diverted.ErrNotFound)
	}},

	{rule: "a webhook that is not there is not found", run: func(k *kit) {
		w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		w.Version = 1
		_, err := k.store.FetchWebhook(k.ctx, w.Key())
		k.fails(err, diverted.ErrNotFound)
		_, err = k.store.UpdateWebhook(k.ctx, w)
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), true), diverted.ErrNotFound)
		k.fails(k.store.Suspend(k.ctx, w.Key()), diverted.ErrNotFound)
		k.fails(k.store.Unsuspend(k.ctx, w.Key()), diverted.ErrNotFound)
		page, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant})
		k.ok(err)
		k.equal(len(page.Webhooks), 0)
		k.that(!page.More, "an empty list says that there is more")
	}},

	{rule: "putting a webhook creates it, and then replaces it with the next version", run: func(k *kit) {
		w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		w.Version, w.SuspendedAt = 7, time.Now() // the store's, not the caller's
		saved, err := k.store.PutWebhook(k.ctx, w)
		k.ok(err)
		w.Version, w.SuspendedAt = 1, time.Time{}
		k.sameWebhook(saved, w)
		k.sameWebhook(k.fetch(w), w)

		everything(&w)
		saved, err = k.store.PutWebhook(k.ctx, w)
		k.ok(err)
		w.Version = 2
		k.sameWebhook(saved, w)
		k.sameWebhook(k.fetch(w), w)
	}},

	{rule: "a webhook that is put for the first time keeps the old secrets it comes with", run: func(k *kit) {
		for _, diverts := range []bool{false, true} { // the host diverted events of it before
			w := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
			everything(&w)
			old := []diverted.OldSecret{{Secret: secretC, Until: time.Now().Add(long).UTC().Truncate(time.Millisecond)}}
			w.Endpoint.OldSecrets, w.FailureHandling.Alert.OldSecrets = old, old
			if diverts {
				k.divert(k.hostEvent(w.Key()))
			}
			saved, err := k.store.PutWebhook(k.ctx, w)
			k.ok(err)
			w.Version = 1
			k.sameWebhook(saved, w)
			k.sameWebhook(k.fetch(w), w)
		}
	}},

	{rule: "putting a webhook as it stands writes nothing", run: func(k *kit) {
		w := k.webhook(everything)
		w.Enabled, w.Endpoint.Secret, w.FailureHandling.Alert.Secret = true, secretC, secretC
		_, err := k.store.PutWebhook(k.ctx, w) // both secrets have predecessors now
		k.ok(err)
		k.suspend(w)
		stand := k.fetch(w)
		k.equal(len(stand.Endpoint.OldSecrets)+len(stand.FailureHandling.Alert.OldSecrets), 2)

		told := 0
		if watcher, ok := k.store.(diverted.Watcher); ok {
			defer watcher.Watch(func(c diverted.Change) {
				if c.Kind != diverted.ChangeDue { // which another store's change may be
					told++
				}
			})()
		}
		for _, change := range []func(*diverted.Webhook){
			func(*diverted.Webhook) {},
			func(w *diverted.Webhook) { w.Version, w.SuspendedAt = 7, time.Now() }, // the store's, not the caller's
			func(w *diverted.Webhook) { w.Endpoint.OldSecrets = nil },              // likewise
			func(w *diverted.Webhook) {
				w.Endpoint.OldSecrets = []diverted.OldSecret{{Secret: secretB, Until: time.Now().Add(long)}}
			},
		} {
			given := k.fetch(w)
			change(&given)
			saved, err := k.store.PutWebhook(k.ctx, given)
			k.ok(err)
			k.sameWebhook(saved, stand)
			k.sameWebhook(k.fetch(w), stand)
		}
		k.equal(told, 0)
		_, err = k.store.UpdateWebhook(k.ctx, stand) // nobody saved it meanwhile
		k.ok(err)

		for _, change := range []func(*diverted.Webhook){
			func(w *diverted.Webhook) { w.Name += "!" },
			func(w *diverted.Webhook) { w.Enabled = false },
			func(w *diverted.Webhook) { w.EventTypes = w.EventTypes[1:] },
			func(w *diverted.Webhook) { w.MaxPerSecond++ },
			func(w *diverted.Webhook) { w.Endpoint.Headers.Set("X-New", "1") },
			func(w *diverted.Webhook) { w.Endpoint.Secret = secretB },
			func(w *diverted.Webhook) { w.FailureHandling.Alert.Secret = secretB },
			func(w *diverted.Webhook) { w.FailureHandling = nil },
		} {
			given := k.fetch(w)
			version := given.Version
			change(&given)
			saved, err := k.store.PutWebhook(k.ctx, given)
			k.ok(err)
			k.equal(saved.Version, version+1)
			k.sameWebhook(k.fetch(w), saved)
		}
	}},

	{rule: "putting a webhook as it stands drops old secrets whose time is over", needs: exactTime, run: func(k *kit) {
		w := k.webhook(everything)
		w.Endpoint.Secret = secretC
		put := func() diverted.Webhook {
			saved, err := k.store.PutWebhook(k.ctx, w)
			k.ok(err)
			k.sameWebhook(k.fetch(w), saved)
			return saved
		}
		rotated := put()
		k.equal(len(rotated.Endpoint.OldSecrets), 1)
		time.Sleep(diverted.SecretOverlap + time.Second)
		for range 2 {
			saved := put()
			k.equal(len(saved.Endpoint.OldSecrets), 0)
			k.equal(saved.Version, rotated.Version+1) // once
		}
	}},

	{rule: "putting a webhook keeps its suspension and lets replaced secrets sign on", run: func(k *kit) {
		w := k.webhook(everything)
		k.suspend(w)
		suspended := k.fetch(w).SuspendedAt
		for _, secret := range []diverted.Secret{secretC, "", secretB} {
			put := w
			put.Endpoint.Secret, put.Endpoint.HMACEnabled = secret, secret != ""
			h := *w.FailureHandling
			a := *h.Alert
			a.Secret, a.HMACEnabled = secret, secret != ""
			h.Alert, put.FailureHandling = &a, &h

			stand := k.fetch(w)
			saved, err := k.store.PutWebhook(k.ctx, put)
			k.ok(err)
			k.sameWebhook(k.fetch(w), saved)
			k.equal(saved.SuspendedAt.UTC(), suspended.UTC())

			want := put.Replacing(stand, time.Now())
			check := func(got, want diverted.Endpoint) {
				k.equal(got.Secret, secret)
				k.equal(len(got.OldSecrets), len(want.OldSecrets))
				for i, old := range got.OldSecrets {
					k.equal(string(old.Secret), string(want.OldSecrets[i].Secret))
					if d := old.Until.Sub(want.OldSecrets[i].Until).Abs(); d > 10*time.Second {
						k.Fatalf("a replaced secret signs until %v, want %v", old.Until, want.OldSecrets[i].Until)
					}
				}
			}
			check(saved.Endpoint, want.Endpoint)
			check(*saved.FailureHandling.Alert, *want.FailureHandling.Alert)
		}
	}},

	{rule: "an update replaces the webhook if its version is the one that stands", run: func(k *kit) {
		w := k.webhook()
		k.suspend(w)
		suspended := k.fetch(w).SuspendedAt

		w = k.fetch(w)
		everything(&w)
		// Unlike PutWebhook, an update says itself which old secrets go on signing.
		w.Endpoint.OldSecrets = []diverted.OldSecret{{Secret: secretC, Until: time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)}}
		given := w
		given.SuspendedAt = time.Time{}
		saved, err := k.store.UpdateWebhook(k.ctx, given)
		k.ok(err)
		w.Version, w.SuspendedAt = w.Version+1, suspended
		k.sameWebhook(saved, w)
		k.sameWebhook(k.fetch(w), w)

		_, err = k.store.UpdateWebhook(k.ctx, given) // its version is of the past now
		k.fails(err, diverted.ErrConflict)
		given.Version = w.Version + 1
		_, err = k.store.UpdateWebhook(k.ctx, given)
		k.fails(err, diverted.ErrConflict)
		k.sameWebhook(k.fetch(w), w)
	}},

	{rule: "of many updates of one version exactly one wins", run: func(k *kit) {
		w := k.webhook()
		var wg sync.WaitGroup
		var mu sync.Mutex
		var won []string
		for i := range 8 {
			wg.Go(func() {
				u := w
				u.Name = fmt.Sprintf("update %d", i)
				_, err := k.store.UpdateWebhook(k.ctx, u)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won = append(won, u.Name)
				} else if !errors.Is(err, diverted.ErrConflict) {
					k.Errorf("error is %v, want one that is %v", err, diverted.ErrConflict)
				}
			})
		}
		wg.Wait()
		k.equal(len(won), 1)
		k.equal(k.fetch(w).Name, won[0])
		k.equal(k.fetch(w).Version, w.Version+1)
	}},

	{rule: "webhooks are listed ascending by locator, page by page", run: func(k *kit) {
		var want []ulid.ULID
		for range 25 {
			want = append(want, k.webhook().Locator)
		}
		want = ascending(want)
		locator := func(w diverted.Webhook) ulid.ULID { return w.Locator }
		got := pages(k, 10, func(after ulid.ULID) ([]diverted.Webhook, bool) {
			page, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant, After: after, Limit: 10})
			k.ok(err)
			return page.Webhooks, page.More
		}, locator, nil)
		k.equal(got, want)

		for _, tt := range []struct {
			after, offset, limit int // after: the index of the locator to go on from, plus 1
			from, to             int
		}{{0, 0, 25, 0, 25}, {0, 20, 10, 20, 25}, {0, 5, 20, 5, 25}, {0, 5, 19, 5, 24}, {10, 5, 5, 15, 20}, {0, 25, 5, 25, 25}, {0, 99, 5, 25, 25}, {25, 0, 5, 25, 25}} {
			q := diverted.WebhookQuery{Tenant: k.tenant, Offset: tt.offset, Limit: tt.limit}
			if tt.after > 0 {
				q.After = want[tt.after-1]
			}
			page, err := k.store.ListWebhooks(k.ctx, q)
			k.ok(err)
			var got []ulid.ULID
			for _, w := range page.Webhooks {
				got = append(got, w.Locator)
			}
			k.that(slices.Equal(got, want[tt.from:tt.to]), "%+v: got %v", tt, got)
			k.that(page.More == (tt.to < len(want)), "%+v: More is %v", tt, page.More)
		}
	}},

	{rule: "a page has 100 entries where a query names no number, and 1,000 at most", run: func(k *kit) {
		for range diverted.DefaultPage + 1 {
			k.webhook()
		}
		page, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant})
		k.ok(err)
		k.equal(len(page.Webhooks), diverted.DefaultPage)
		k.that(page.More, "the list is said to end at its default page")
		page, err = k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant, Limit: diverted.MaxPage})
		k.ok(err)
		k.equal(len(page.Webhooks), diverted.DefaultPage+1)
		k.that(!page.More, "there is said to be more than there is")
	}},

	{rule: "a list of an impossible offset or number is invalid", run: func(k *kit) {
		w := k.webhook()
		for _, bad := range []struct{ offset, limit int }{{-1, 10}, {diverted.MaxOffset + 1, 10}, {math.MaxInt, 10}, {0, -1}, {0, diverted.MaxPage + 1}} {
			_, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant, Offset: bad.offset, Limit: bad.limit})
			k.fails(err, diverted.ErrInvalid)
			q := diverted.DivertedQuery{Webhook: w.Key(), Offset: bad.offset, Limit: bad.limit}
			_, err = k.store.ListDiverted(k.ctx, q)
			k.fails(err, diverted.ErrInvalid)
			_, err = k.store.ListPending(k.ctx, q)
			k.fails(err, diverted.ErrInvalid)
		}
	}},

	{rule: "a list of no tenant is invalid, not empty", run: func(k *kit) {
		_, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{})
		k.fails(err, diverted.ErrInvalid)
	}},

	{rule: "the filters of a list must all hold", run: func(k *kit) {
		named := func(name string, types ...string) func(*diverted.Webhook) {
			return func(w *diverted.Webhook) { w.Name, w.EventTypes = name, types }
		}
		a := k.webhook(named("a", "order.*"))
		b := k.webhook(named("b", "order.paid"), disabled)
		c := k.webhook(named("c", "*"))
		d := k.webhook(named("d", "policy.issued"), disabled)
		k.suspend(c)
		k.suspend(d)
		yes, no := true, false
		for _, tt := range []struct {
			query diverted.WebhookQuery
			want  []diverted.Webhook
		}{
			{diverted.WebhookQuery{}, []diverted.Webhook{a, b, c, d}},
			{diverted.WebhookQuery{Name: "b"}, []diverted.Webhook{b}},
			{diverted.WebhookQuery{Name: "B"}, nil},
			{diverted.WebhookQuery{Enabled: &yes}, []diverted.Webhook{a, c}},
			{diverted.WebhookQuery{Enabled: &no}, []diverted.Webhook{b, d}},
			{diverted.WebhookQuery{Suspended: &yes}, []diverted.Webhook{c, d}},
			{diverted.WebhookQuery{Suspended: &no}, []diverted.Webhook{a, b}},
			{diverted.WebhookQuery{Active: &yes}, []diverted.Webhook{a}},
			{diverted.WebhookQuery{Active: &no}, []diverted.Webhook{b, c, d}},
			{diverted.WebhookQuery{Enabled: &yes, Suspended: &yes}, []diverted.Webhook{c}},
			{diverted.WebhookQuery{Enabled: &yes, Suspended: &yes, Name: "d"}, nil},
			{diverted.WebhookQuery{EventTypes: []string{"order.paid"}}, []diverted.Webhook{a, b, c}},
			{diverted.WebhookQuery{EventTypes: []string{"order.cancelled"}}, []diverted.Webhook{a, c}},
			{diverted.WebhookQuery{EventTypes: []string{"order.cancelled", "policy.issued"}}, []diverted.Webhook{a, c, d}},
			{diverted.WebhookQuery{EventTypes: []string{"order.paid"}, Enabled: &no}, []diverted.Webhook{b}},
			{diverted.WebhookQuery{Enabled: &no, Offset: 1}, []diverted.Webhook{d}},
			{diverted.WebhookQuery{Enabled: &no, After: b.Locator}, []diverted.Webhook{d}},
		} {
			tt.query.Tenant = k.tenant
			page, err := k.store.ListWebhooks(k.ctx, tt.query)
			k.ok(err)
			var got, want []ulid.ULID
			for _, w := range page.Webhooks {
				got = append(got, w.Locator)
			}
			for _, w := range tt.want {
				want = append(want, w.Locator)
			}
			k.that(slices.Equal(got, ascending(want)), "%+v: got %v, want %v", tt.query, got, want)
			k.that(!page.More, "%+v: there is said to be more", tt.query)

			if len(want) > 1 { // a page of filtered webhooks ends where the next begins
				tt.query.Limit = 1
				page, err = k.store.ListWebhooks(k.ctx, tt.query)
				k.ok(err)
				k.equal(len(page.Webhooks), 1)
				k.equal(page.Webhooks[0].Locator, ascending(want)[0])
				k.that(page.More, "%+v: there is said to be no more", tt.query)
			}
		}
	}},

	{rule: "webhooks given to the store and got from it are the caller's to change", run: func(k *kit) {
		given := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		everything(&given)
		spoil := func(w diverted.Webhook) {
			w.EventTypes[0] = "spoilt"
			w.Endpoint.Headers.Set("Authorization", "spoilt")
			w.FailureHandling.Triggers[0] = "spoilt"
			w.FailureHandling.Retry.Attempts = 1
			w.FailureHandling.Alert.URL = "spoilt"
		}
		saved, err := k.store.CreateWebhook(k.ctx, given)
		k.ok(err)
		spoil(given)
		spoil(saved)
		spoil(k.fetch(saved))
		page, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant})
		k.ok(err)
		spoil(page.Webhooks[0])

		want := diverted.NewWebhook(k.tenant, "orders", "https://receiver.example/hook", "*")
		everything(&want)
		want.Locator, want.Version = saved.Locator, 1
		k.sameWebhook(k.fetch(saved), want)

		for _, replace := range []func(diverted.Webhook) (diverted.Webhook, error){
			func(w diverted.Webhook) (diverted.Webhook, error) { return k.store.UpdateWebhook(k.ctx, w) },
			func(w diverted.Webhook) (diverted.Webhook, error) { return k.store.PutWebhook(k.ctx, w) },
		} {
			given := k.fetch(saved)
			given.Name += "!"
			got, err := replace(given)
			k.ok(err)
			spoil(given)
			spoil(got)
			want.Name += "!"
			want.Version++
			k.sameWebhook(k.fetch(saved), want)
		}
	}},

	{rule: "a webhook with pending or diverted events is not deleted unless they may be discarded", run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), false), diverted.ErrNotEmpty)
		k.equal(len(k.diverted(w)), 1)

		v := k.webhook()
		k.send(v, 1)
		k.fails(k.store.DeleteWebhook(k.ctx, v.Key(), false), diverted.ErrNotEmpty)
		k.equal(len(k.pending(v)), 1)

		empty := k.webhook()
		k.ok(k.store.DeleteWebhook(k.ctx, empty.Key(), false))
		_, err := k.store.FetchWebhook(k.ctx, empty.Key())
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.DeleteWebhook(k.ctx, empty.Key(), false), diverted.ErrNotFound)
	}},

	{rule: "a deleted webhook is gone from every method, with all that it had", run: func(k *kit) {
		w, other := k.webhook(), k.webhook()
		aside := k.aside(w)
		k.send(w, 3)
		k.send(other, 1)
		var inFlight []diverted.Claim
		for _, c := range k.claim(2) {
			if c.Key.Webhook == w.Locator {
				inFlight = append(inFlight, c)
			}
		}
		k.that(len(inFlight) > 0, "no delivery of the webhook is due")
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))

		_, err := k.store.FetchWebhook(k.ctx, w.Key())
		k.fails(err, diverted.ErrNotFound)
		page, err := k.store.ListWebhooks(k.ctx, diverted.WebhookQuery{Tenant: k.tenant})
		k.ok(err)
		k.equal(len(page.Webhooks), 1)
		k.equal(len(k.pending(w)), 0)
		k.equal(len(k.diverted(w)), 0)
		_, err = k.store.FetchDiverted(k.ctx, aside)
		k.fails(err, diverted.ErrNotFound)
		k.fails(k.store.Resend(k.ctx, aside), diverted.ErrNotFound)
		k.fails(k.store.DeleteDiverted(k.ctx, aside), diverted.ErrNotFound)
		r, err := k.store.Accept(k.ctx, diverted.AcceptRequest{Messages: []diverted.Message{k.message(w.Key()), k.message(diverted.WebhookKey{Tenant: k.tenant})}})
		k.ok(err)
		k.fails(r.Messages[0].Err, diverted.ErrNotFound)
		k.equal(r.Messages[1].Deliveries, []diverted.Acceptance{{Webhook: other.Locator, Status: diverted.Accepted}})
		for _, c := range inFlight {
			k.stale(of(c, diverted.OutcomeDivert))
		}
		for _, c := range k.claim(100) {
			k.equal(c.Key.Webhook, other.Locator)
		}
		k.fails(k.store.DeleteWebhook(k.ctx, w.Key(), true), diverted.ErrNotFound)
	}},

	{rule: "a webhook that was deleted and created again is as if it had never been", run: func(k *kit) {
		w := k.webhook()
		k.aside(w)
		m := k.messages(w, 1)[0]
		k.accept(m)
		old := k.claimOne()
		k.suspend(w)
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))

		again, err := k.store.CreateWebhook(k.ctx, w)
		k.ok(err)
		k.equal(again.Version, int64(1))
		k.that(!again.Suspended(), "it is suspended still")
		k.equal(len(k.pending(w))+len(k.diverted(w)), 0)
		k.equal(len(k.claim(10)), 0)

		r := k.accept(m) // the event is new to it
		k.equal(r[0].Deliveries[0].Status, diverted.Accepted)
		fresh := k.claimOne()
		k.equal(fresh.Losses, 0)
		o := of(old, diverted.OutcomeDrop)
		o.Suspend = true
		k.stale(o) // what was in flight settles into nothing
		k.that(!k.fetch(w).Suspended(), "an attempt of the deleted webhook suspended its successor")
		k.settle(delivered(fresh))
	}},

	{rule: "deleting a webhook leaves the others their events", run: func(k *kit) {
		w, other := k.webhook(), k.webhook()
		k.send(w, 10)
		want := k.send(other, 10)
		k.ok(k.store.DeleteWebhook(k.ctx, w.Key(), true))
		k.claims(want...)
	}},

	{rule: "any tenant may have a webhook of the same locator", run: func(k *kit) {
		w := k.webhook()
		same := w
		same.Tenant, same.Name = uuid.New(), "another tenant's"
		saved, err := k.store.CreateWebhook(k.ctx, same)
		k.ok(err)
		k.sameWebhook(k.fetch(w), w)
		k.sameWebhook(k.fetch(same), saved)
		k.ok(k.store.DeleteWebhook(k.ctx, same.Key(), true))
		k.sameWebhook(k.fetch(w), w)
	}},
}
