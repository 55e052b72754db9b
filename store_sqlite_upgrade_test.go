package diverted_test

import (
	"database/sql"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/testdata"
	"github.com/divertedevents/diverted/storetest"
)

// laterRelease does to a database what a later release may: it adds columns, tables and indexes, and lets this
// release open it still.
func laterRelease(t *testing.T, path string) {
	t.Helper()
	byHand(t, path,
		`ALTER TABLE diverted_webhooks   ADD COLUMN later TEXT NOT NULL DEFAULT 'x'`,
		`ALTER TABLE diverted_deliveries ADD COLUMN later INTEGER NOT NULL DEFAULT 7`,
		`ALTER TABLE diverted_notices    ADD COLUMN later BLOB`,
		`ALTER TABLE diverted_state      ADD COLUMN later INTEGER NOT NULL DEFAULT 0`,
		`ALTER TABLE diverted_migrations ADD COLUMN later INTEGER NOT NULL DEFAULT 0`,
		`CREATE TABLE diverted_later (id INTEGER PRIMARY KEY, webhook INTEGER NOT NULL) STRICT`,
		`CREATE INDEX diverted_deliveries_later ON diverted_deliveries (webhook, later, due)`,
		`INSERT INTO diverted_migrations (version, minimum, applied_at) VALUES (5, 1, 0), (6, 1, 0)`,
	)
}

func byHand(t *testing.T, path string, statements ...string) {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+path+"?_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	for _, s := range statements {
		if _, err := db.Exec(s); err != nil {
			t.Fatalf("%s: %v", s, err)
		}
	}
}

func openFile(t *testing.T, path string) *diverted.SQLiteStore {
	t.Helper()
	s, err := diverted.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestSQLiteKeepsTheContractInADatabaseThatALaterReleaseAddedTo(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as the contract")
	}
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) diverted.Store {
		path := filepath.Join(t.TempDir(), "webhooks.db")
		if err := openFile(t, path).Close(); err != nil {
			t.Fatal(err)
		}
		laterRelease(t, path)
		return openFile(t, path)
	}})
}

// A deploy, and its rollback: events are accepted by one release, and finished by the other.
func TestWhatOneReleaseAcceptedIsFinishedByTheOther(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	s := openFile(t, path)
	w := diverted.NewWebhook(uuid.New(), "billing", "https://example.com/hook", "*")
	w.FailureHandling = &diverted.FailureHandling{Divert: true, Alert: &diverted.Endpoint{URL: "https://example.com/alert"}}
	w, err := s.CreateWebhook(ctx, w)
	is.NoErr(err)
	var messages []diverted.Message
	for i := range 3 {
		event, err := diverted.NewEvent(testdata.Payloads()[i].Type, testdata.Payloads()[i].Data)
		is.NoErr(err)
		m, err := diverted.NewMessage(w.Tenant, w.Locator, event)
		is.NoErr(err)
		messages = append(messages, m)
	}
	_, err = s.Accept(ctx, diverted.AcceptRequest{Messages: messages})
	is.NoErr(err)
	claim := func(count int) *diverted.ClaimRequest {
		return &diverted.ClaimRequest{Count: count, Bytes: 32 << 20, Notices: 1, Lease: 25 * time.Second}
	}
	res, err := s.Work(ctx, diverted.WorkRequest{Claim: claim(2)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 2)
	failure := &diverted.Failure{Trigger: "503", Status: 503, Message: "answered 503 Service Unavailable"}
	_, err = s.Work(ctx, diverted.WorkRequest{Outcomes: []diverted.Outcome{
		{Key: res.Claims[0].Key, Token: res.Claims[0].Token, Kind: diverted.OutcomeDivert, Failure: failure, Alert: true},
		{Key: res.Claims[1].Key, Token: res.Claims[1].Token, Kind: diverted.OutcomeRetry, Failure: failure},
	}})
	is.NoErr(err)
	is.NoErr(s.Close())

	laterRelease(t, path)
	byHand(t, path, // and its JSON has more in it
		`UPDATE diverted_webhooks   SET record  = json_set(record, '$.later', json('{"a":[1]}'), '$.endpoint.later', 1, '$.failureHandling.later', 'x')`,
		`UPDATE diverted_deliveries SET failure = json_set(failure, '$.later', json('[null]')) WHERE failure IS NOT NULL`,
		`UPDATE diverted_notices    SET open    = json_set(open, '$.later', 1, '$.First.later', 2)`,
	)

	s = openFile(t, path)
	defer s.Close()
	same, err := s.FetchWebhook(ctx, w.Key())
	is.NoErr(err)
	is.Equal(same, w)
	page, err := s.ListDiverted(ctx, diverted.DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(page.Events), 1)
	is.Equal(page.Events[0].Failure.Message, failure.Message)
	pending, err := s.ListPending(ctx, diverted.DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(pending.Deliveries), 2)
	is.NoErr(s.Resend(ctx, page.Events[0].Key))

	res, err = s.Work(ctx, diverted.WorkRequest{Claim: claim(10)})
	is.NoErr(err)
	is.Equal(len(res.Notices), 1)
	is.Equal(res.Notices[0].Notice.First.Failure.Status, 503)
	is.Equal(len(res.Claims), 3)
	var outcomes []diverted.Outcome
	for _, c := range res.Claims {
		is.NoErr(c.Err)
		outcomes = append(outcomes, diverted.Outcome{Key: c.Key, Token: c.Token, Kind: diverted.OutcomeDelivered})
	}
	_, err = s.Work(ctx, diverted.WorkRequest{Outcomes: outcomes})
	is.NoErr(err)
	is.NoErr(s.DeleteWebhook(ctx, w.Key(), false)) // nothing is left
}

// A rollback of a deploy: the release before, which knows schema 1 alone, diverts, resends and deletes in a
// database of this one. These are its statements.
func TestWhatTheReleaseBeforeWroteIsCountedAndFiltered(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	s := openFile(t, path)
	key := diverted.WebhookKey{Tenant: uuid.New(), Webhook: ulid.Make()}
	divertSome(t, s, key, 4)
	stats := func() map[diverted.Trigger]int {
		t.Helper()
		got, err := s.Stats(ctx, diverted.StatsQuery{Tenant: key.Tenant, Webhook: key.Webhook})
		is.NoErr(err)
		return got.Diverted
	}
	is.Equal(stats(), map[diverted.Trigger]int{"503": 4})

	// While this release has the file open too.
	byHand(t, path,
		`INSERT INTO diverted_deliveries (webhook, event, request, type, accepted_at, attempts, losses, was_diverted, released, diverted_at, failure, body)
			SELECT webhook, x'00000000000000000000000000000001', request, type, accepted_at, 1, 0, 0, 0, diverted_at,
			'{"trigger":"timeout","message":"connection refused","at":"2026-11-23T17:58:00.123Z"}', body FROM diverted_deliveries LIMIT 1`,
		`DELETE FROM diverted_deliveries WHERE id = (SELECT min(id) FROM diverted_deliveries)`,
		`UPDATE diverted_deliveries SET failure = '{"trigger":"404","message":"404 Not Found","status":404,"at":"2026-11-23T17:58:00.123Z"}'
			WHERE id = (SELECT min(id) FROM diverted_deliveries)`,
		`UPDATE diverted_deliveries SET due = 0, diverted_at = NULL WHERE id = 3`,
	)
	want := map[diverted.Trigger]int{"503": 1, "404": 1, "timeout": 1}
	is.Equal(stats(), want)
	is.NoErr(s.Close())
	s = openFile(t, path)
	defer s.Close()
	is.Equal(stats(), want)
	for trigger, n := range want {
		page, err := s.ListDiverted(ctx, diverted.DivertedQuery{Webhook: key, Filter: diverted.DivertedFilter{Trigger: trigger}, Failures: true})
		is.NoErr(err)
		is.Equal(len(page.Events), n)
		is.Equal(page.Events[0].Failures, []diverted.Failure{page.Events[0].Failure})
	}
}
