package diverted

import (
	"errors"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
)

// Whatever stands in a column of JSON, no method panics, an error says that the row is damaged, and other
// webhooks are not held up.
func FuzzStoredJSON(f *testing.F) {
	record, err := EncodeWebhook(plantedWebhook())
	if err != nil {
		f.Fatal(err)
	}
	failure := &Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503, Excerpt: "later", At: time.UnixMilli(1795474800000), Attempt: 1}
	notice := `{"Locator":"01JZQ8X4W3M9V6T5R2P1N0KHGF","Failures":2,"Diverted":1,"Suspended":false,"First":{"Event":"01JZQ8X4W3M9V6T5R2P1N0KHGF"},"Last":{}}`
	for column := range uint8(4) {
		for _, text := range []string{string(record), encodeFailure(failure).(string), notice, "null", "", "[", "{}", `{"at":"9999-12-31T23:59:59-23:59"}`, `"\ud800"`} {
			f.Add(column, text)
		}
	}
	s, _ := openTestStore(f)
	if _, err := s.writer.conn.ExecContext(f.Context(), "PRAGMA synchronous = OFF"); err != nil { // it need not last
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, column uint8, text string) {
		damaged, healthy := plantedWebhook(), NewWebhook(acme, "billing", "https://example.com/hook", "*")
		damaged.Tenant = acme
		damaged.Locator = ulid.Make()
		var keys []Key
		for _, w := range []Webhook{damaged, healthy} {
			w, err := s.CreateWebhook(t.Context(), w)
			if err != nil {
				t.Fatal(err)
			}
			messages := []Message{realMessage(t, w, 0), realMessage(t, w, 1)}
			if _, err := s.Accept(t.Context(), AcceptRequest{Messages: messages}); err != nil {
				t.Fatal(err)
			}
			for _, m := range messages {
				keys = append(keys, Key{m.Tenant, m.Webhook, m.Event})
			}
		}
		spend(t, s, keys[0], failure)
		err := s.write(t.Context(), "damage", func(tx *sqliteTx) error {
			switch column % 4 {
			case 0:
				tx.exec(`UPDATE diverted_webhooks SET record = ? WHERE locator = ?`, text, damaged.Locator[:])
			case 1:
				tx.exec(`UPDATE diverted_deliveries SET failure = ? WHERE event IN (?, ?)`, text, keys[0].Event[:], keys[1].Event[:])
			case 2:
				tx.exec(`UPDATE diverted_notices SET open = ?`, text)
			case 3:
				tx.exec(`UPDATE diverted_notices SET open = NULL, sending = ?`, text)
			}
			tx.exec(`UPDATE diverted_state SET generation = generation + 1`)
			tx.forget() // as after a restart
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}

		for name, err := range useDamaged(t, s, damaged.Key(), keys[0]) {
			if err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrInvalid) {
				t.Errorf("%s: %v", name, err)
			}
		}
		// Both of the healthy webhook's are claimed, and what was claimed is settled.
		left := map[Key]bool{keys[2]: true, keys[3]: true}
		for range 3 {
			work, err := s.Work(t.Context(), WorkRequest{Claim: claimAll(10), Refresh: true})
			if err != nil {
				t.Fatal(err)
			}
			var outcomes []Outcome
			for _, c := range work.Claims {
				delete(left, c.Key)
				outcomes = append(outcomes, Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeDivert, Failure: failure, Alert: true})
			}
			if _, err := s.Work(t.Context(), WorkRequest{Outcomes: outcomes}); err != nil {
				t.Fatal(err)
			}
		}
		if len(left) > 0 {
			t.Errorf("%d deliveries of a healthy webhook are held up", len(left))
		}
		for _, w := range []Webhook{damaged, healthy} {
			if err := s.DeleteWebhook(t.Context(), w.Key(), true); err != nil {
				t.Errorf("a webhook cannot be deleted: %v", err)
			}
		}
	})
}

// spend claims all, diverts one with an alert, and gives the others back.
func spend(t *testing.T, s *SQLiteStore, key Key, failure *Failure) {
	t.Helper()
	work, err := s.Work(t.Context(), WorkRequest{Claim: claimAll(10)})
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []Outcome
	for _, c := range work.Claims {
		o := Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeReturn}
		if c.Key == key {
			o.Kind, o.Failure, o.Alert = OutcomeDivert, failure, true
		}
		outcomes = append(outcomes, o)
	}
	if _, err := s.Work(t.Context(), WorkRequest{Outcomes: outcomes}); err != nil {
		t.Fatal(err)
	}
}

// useDamaged calls what reads and writes the rows of a webhook, and returns the errors.
func useDamaged(t *testing.T, s *SQLiteStore, webhook WebhookKey, diverted Key) map[string]error {
	ctx := t.Context()
	faults := make(map[string]error)
	w, err := s.FetchWebhook(ctx, webhook)
	faults["FetchWebhook"] = err
	if err == nil {
		_, faults["UpdateWebhook"] = s.UpdateWebhook(ctx, w)
	}
	_, faults["ListWebhooks"] = s.ListWebhooks(ctx, WebhookQuery{Tenant: webhook.Tenant, EventTypes: []string{"order.paid"}})
	_, faults["ListPending"] = s.ListPending(ctx, DivertedQuery{Webhook: webhook})
	_, faults["ListDiverted"] = s.ListDiverted(ctx, DivertedQuery{Webhook: webhook, Failures: true})
	_, faults["FetchDiverted"] = s.FetchDiverted(ctx, diverted)
	faults["Suspend"] = s.Suspend(ctx, webhook)
	faults["Unsuspend"] = s.Unsuspend(ctx, webhook)
	faults["Resend"] = s.Resend(ctx, diverted)
	return faults
}
