package diverted

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted/internal/testdata"
)

var acme = uuid.MustParse("0f9e0b3c-6b6f-4d26-9d7e-8a1c3f6f1f10")

// openTestStore opens a store in a fresh file, and closes it at the end of the test.
func openTestStore(t testing.TB) (*SQLiteStore, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "webhooks.db")
	s, err := OpenSQLite(context.Background(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s, path
}

// realEvent returns an event with the n-th of the real payloads.
func realEvent(t testing.TB, n int) Event {
	t.Helper()
	payloads := testdata.Payloads()
	p := payloads[n%len(payloads)]
	e, err := NewEvent(p.Type, p.Data)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func realMessage(t testing.TB, w Webhook, n int) Message {
	t.Helper()
	m, err := NewMessage(w.Tenant, w.Locator, realEvent(t, n))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func claimAll(count int) *ClaimRequest {
	return &ClaimRequest{
		Count: count, Bytes: 32 << 20, Notices: 16, Lease: 25 * time.Second,
		Reserve: func(_ WebhookKey, want int) int { return want },
	}
}

func TestAcceptClaimAndSettleOnSQLite(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)

	var ms []Message
	for i := range 20 {
		ms = append(ms, realMessage(t, w, i))
	}
	res, err := s.Accept(ctx, AcceptRequest{Messages: ms})
	is.NoErr(err)
	is.Equal(len(res.Messages), 20)
	is.Equal(res.Messages[0].Deliveries[0].Status, Accepted)

	work, err := s.Work(ctx, WorkRequest{Claim: claimAll(64)})
	is.NoErr(err)
	is.Equal(len(work.Claims), 20)
	var outcomes []Outcome
	for i, c := range work.Claims {
		is.Equal(c.Key.Event, ms[i].Event) // in the order of acceptance
		is.Equal(string(c.Body), string(ms[i].Body))
		outcomes = append(outcomes, Outcome{Key: c.Key, Token: c.Token, Kind: OutcomeDelivered})
	}
	work, err = s.Work(ctx, WorkRequest{Outcomes: outcomes, Claim: claimAll(64)})
	is.NoErr(err)
	is.Equal(len(work.Claims), 0)
	page, err := s.ListPending(ctx, DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(page.Deliveries), 0)
}

func TestOpenSQLiteRefusesWhatIsNotItsOwn(t *testing.T) {
	ctx := t.Context()
	dir := t.TempDir()
	hand := func(name string, statements ...string) string {
		path := filepath.Join(dir, name)
		db, err := sql.Open("sqlite", "file:"+path)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for _, s := range statements {
			if _, err := db.Exec(s); err != nil {
				t.Fatal(err)
			}
		}
		return path
	}
	text := filepath.Join(dir, "notes.txt")
	if err := os.WriteFile(text, []byte("this is no database, but a page of notes that is long enough to have a header"), 0o600); err != nil {
		t.Fatal(err)
	}
	const migrations = `CREATE TABLE diverted_migrations (version INTEGER PRIMARY KEY, minimum INTEGER NOT NULL, applied_at INTEGER NOT NULL) STRICT`
	tests := []struct {
		name, path string
		want       error
	}{
		{"another program's tables", hand("other.db", `CREATE TABLE invoices (id INTEGER)`), ErrForeign},
		{"no database at all", text, ErrForeign},
		{"too new", hand("new.db", migrations, `INSERT INTO diverted_migrations VALUES (99, 98, 0)`), ErrTooNew},
		{"empty path", "", ErrInvalid},
		{"memory", ":memory:", ErrInvalid},
		{"no such folder", filepath.Join(dir, "none", "x.db"), os.ErrNotExist},
		{"a folder", dir, syscall.EISDIR},
		{"a DSN", "file:" + dir + "/x.db", ErrInvalid},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			_, err := OpenSQLite(ctx, tt.path)
			t.Log(err)
			is.True(errors.Is(err, tt.want))
			is.Equal(strings.Count(err.Error(), "diverted: "), 1)
		})
	}
}

func TestOpenSQLiteOpensWhatANewerReleaseLeftOpenToIt(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	is.NoErr(s.Close())
	db, err := sql.Open("sqlite", "file:"+path)
	is.NoErr(err)
	defer db.Close()
	_, err = db.Exec(`INSERT INTO diverted_migrations VALUES (99, 1, 0)`)
	is.NoErr(err)

	s, err = OpenSQLite(ctx, path) // a rollback of the deploy
	is.NoErr(err)
	is.NoErr(s.Close())

	_, err = db.Exec(`UPDATE diverted_migrations SET minimum = 98 WHERE version = 99`)
	is.NoErr(err)
	_, err = OpenSQLite(ctx, path)
	is.True(errors.Is(err, ErrTooNew))
}

func TestOpenSQLiteKeepsTheFileToItsOwner(t *testing.T) {
	is := is.New(t)
	s, path := openTestStore(t)
	_, err := s.CreateWebhook(t.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	for _, suffix := range []string{"", "-wal", "-shm"} {
		info, err := os.Stat(path + suffix)
		is.NoErr(err)
		is.Equal(info.Mode().Perm(), os.FileMode(0o600))
	}
}

func TestOpenSQLiteTakesAnyPath(t *testing.T) {
	is := is.New(t)
	path := filepath.Join(t.TempDir(), "100% of #1? ü.db")
	s, err := OpenSQLite(t.Context(), path)
	is.NoErr(err)
	is.NoErr(s.Close())
	_, err = os.Stat(path)
	is.NoErr(err)
}

func TestManyProcessesMayOpenANewFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "webhooks.db")
	var group sync.WaitGroup
	for range 8 {
		group.Go(func() {
			s, err := OpenSQLite(t.Context(), path)
			if err != nil {
				t.Error(err)
				return
			}
			s.Close()
		})
	}
	group.Wait()
}

// openHost opens a database of the host's.
func openHost(t *testing.T, options string) *sql.DB {
	t.Helper()
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "host.db")+"?"+options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

const walOptions = "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate"

func TestNewSQLiteStoreRefusesASetupThatCannotHoldIt(t *testing.T) {
	ctx := t.Context()
	single := openHost(t, walOptions)
	single.SetMaxOpenConns(1)
	memory, err := sql.Open("sqlite", ":memory:")
	if err != nil {
		t.Fatal(err)
	}
	defer memory.Close()
	other := sql.OpenDB(otherDriver{})
	defer other.Close()
	for name, db := range map[string]*sql.DB{
		"a pool of one": single, "no write-ahead log": openHost(t, "_pragma=busy_timeout(5000)"), "in memory": memory, "another driver": other,
		"no busy timeout": openHost(t, "_pragma=journal_mode(WAL)"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := NewSQLiteStore(ctx, db)
			t.Log(err)
			is.New(t).True(errors.Is(err, ErrUnsupported))
		})
	}
	_, err = NewSQLiteStore(ctx, nil)
	is.New(t).True(errors.Is(err, ErrInvalid))
}

type otherDriver struct{}

func (otherDriver) Connect(context.Context) (driver.Conn, error) {
	return nil, errors.New("no connection")
}
func (d otherDriver) Driver() driver.Driver          { return d }
func (otherDriver) Open(string) (driver.Conn, error) { return nil, errors.New("no connection") }

func TestATransactionOfTheHostSendsExactlyIfItCommits(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	db := openHost(t, walOptions)
	_, err := db.Exec(`CREATE TABLE orders (id INTEGER PRIMARY KEY)`)
	is.NoErr(err)
	s, err := NewSQLiteStore(ctx, db)
	is.NoErr(err)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "github.*"))
	is.NoErr(err)
	_, err = s.Work(ctx, WorkRequest{Claim: claimAll(1)}) // it has looked, and seen nothing
	is.NoErr(err)

	for i, commit := range []bool{false, true} {
		tx, err := db.BeginTx(ctx, nil)
		is.NoErr(err)
		_, err = tx.Exec(`INSERT INTO orders DEFAULT VALUES`)
		is.NoErr(err)
		sent, published := realEvent(t, i), realEvent(t, i+1)
		acceptance, err := s.SendTx(ctx, tx, acme, w.Locator, sent)
		is.NoErr(err)
		is.Equal(acceptance, Acceptance{Webhook: w.Locator, Status: Accepted})
		all, err := s.PublishTx(ctx, tx, acme, published)
		is.NoErr(err)
		is.Equal(all, []Acceptance{{Webhook: w.Locator, Status: Accepted}})
		again, err := s.SendTx(ctx, tx, acme, w.Locator, sent)
		is.NoErr(err)
		is.Equal(again.Status, AlreadyPending)
		if !commit {
			is.NoErr(tx.Rollback())
			res, err := s.Work(ctx, WorkRequest{Claim: claimAll(10), Refresh: true})
			is.NoErr(err)
			is.Equal(len(res.Claims), 0)
			continue
		}
		is.NoErr(tx.Commit())
		res, err := s.Work(ctx, WorkRequest{Claim: claimAll(10), Refresh: true})
		is.NoErr(err)
		is.Equal(len(res.Claims), 2)
		is.Equal(res.Claims[0].Key.Event, sent.Locator)
		is.Equal(res.Claims[1].Key.Event, published.Locator)
	}
	tx, err := db.BeginTx(ctx, nil)
	is.NoErr(err)
	defer tx.Rollback()
	_, err = s.SendTx(ctx, tx, uuid.New(), w.Locator, realEvent(t, 0))
	is.True(errors.Is(err, ErrNotFound)) // another tenant's
	_, err = s.SendTx(ctx, tx, acme, w.Locator, Event{})
	is.True(errors.Is(err, ErrInvalid))

	is.NoErr(s.Close())
	is.NoErr(db.Ping()) // the host's own
	var synchronous string
	is.NoErr(db.QueryRow(`PRAGMA foreign_keys`).Scan(&synchronous))
	is.Equal(synchronous, "0") // the store's settings went with its connection
}

func TestATransactionOfTheHostWaitsForTheStoresWrites(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	db := openHost(t, "_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)")
	s, err := NewSQLiteStore(ctx, db)
	is.NoErr(err)
	defer s.Close()
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "github.*"))
	is.NoErr(err)

	hosts, stop := context.WithCancel(ctx)
	var writes sync.WaitGroup
	writes.Go(func() {
		for hosts.Err() == nil {
			if _, err := s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}}); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const n = 50
	for i := range n {
		tx, err := db.BeginTx(ctx, nil) // deferred: it takes no lock yet
		is.NoErr(err)
		_, err = s.PublishTx(ctx, tx, acme, realEvent(t, i))
		is.NoErr(err)
		is.NoErr(tx.Commit())
	}
	stop()
	writes.Wait()
	var sent int
	is.NoErr(db.QueryRow(`SELECT count(*) FROM diverted_deliveries`).Scan(&sent))
	is.True(sent > n) // the store wrote meanwhile
}

func TestWhatAnotherProcessAcceptsIsFoundByARefresh(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	other, err := OpenSQLite(ctx, path)
	is.NoErr(err)
	defer other.Close()
	_, err = s.Work(ctx, WorkRequest{Claim: claimAll(1)})
	is.NoErr(err)

	w, err := other.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = other.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.NoErr(err)
	res, err := s.Work(ctx, WorkRequest{Claim: claimAll(1), Refresh: true})
	is.NoErr(err)
	is.Equal(len(res.Claims), 1)

	is.NoErr(other.Suspend(ctx, w.Key())) // and what it suspends is seen at once
	res, err = s.Work(ctx, WorkRequest{Outcomes: []Outcome{{Key: res.Claims[0].Key, Token: res.Claims[0].Token, Kind: OutcomeReturn}}, Claim: claimAll(1)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 0)
}

func TestALeaseFromAClockThatRanAheadIsVoid(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0), realMessage(t, w, 1)}})
	is.NoErr(err)
	res, err := s.Work(ctx, WorkRequest{Claim: claimAll(2)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 2)
	failure := Failure{Trigger: TriggerTimeout, Message: "no answer", At: time.Now()}
	_, err = s.Work(ctx, WorkRequest{Outcomes: []Outcome{{Key: res.Claims[1].Key, Token: res.Claims[1].Token, Kind: OutcomeRetry, Wait: time.Hour, Failure: &failure}}})
	is.NoErr(err)
	is.NoErr(s.Close())

	db, err := sql.Open("sqlite", "file:"+path)
	is.NoErr(err)
	_, err = db.Exec(`UPDATE diverted_deliveries SET due = due + 365 * 86400000`) // the clock was a year ahead
	is.NoErr(err)
	is.NoErr(db.Close())

	s, err = OpenSQLite(ctx, path)
	is.NoErr(err)
	defer s.Close()
	res, err = s.Work(ctx, WorkRequest{Claim: claimAll(2)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 2)
	is.Equal(res.Claims[0].Losses, 1)
}

func TestADeletedWebhookIsPurgedInSteps(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	var ms []Message
	for i := range 3 * purgeRows {
		ms = append(ms, Message{
			Tenant: acme, Webhook: w.Locator, Event: realEvent(t, i).Locator, RequestLocator: w.Locator,
			EventType: "github.push", Body: []byte(`{}`),
		})
	}
	_, err = s.Accept(ctx, AcceptRequest{Messages: ms})
	is.NoErr(err)
	is.True(errors.Is(s.DeleteWebhook(ctx, w.Key(), false), ErrNotEmpty))
	is.NoErr(s.DeleteWebhook(ctx, w.Key(), true))
	_, err = s.CreateWebhook(ctx, w) // the same locator, a new life
	is.NoErr(err)
	page, err := s.ListPending(ctx, DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(page.Deliveries), 0)

	deadline := time.Now().Add(2 * time.Minute)
	for {
		var rows int
		is.NoErr(s.readers.QueryRow(`SELECT (SELECT count(*) FROM diverted_deliveries) + (SELECT count(*) FROM diverted_webhooks WHERE deleted = 1)`).Scan(&rows))
		if rows == 0 {
			break
		}
		is.True(time.Now().Before(deadline)) // the purge comes to an end
		runtime.Gosched()
	}
}

func TestADatabaseThatIsLockedSaysSo(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.writer.conn.ExecContext(ctx, "PRAGMA busy_timeout = 50")
	is.NoErr(err)
	db, err := sql.Open("sqlite", "file:"+path+"?_txlock=immediate")
	is.NoErr(err)
	defer db.Close()
	tx, err := db.Begin()
	is.NoErr(err)
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.True(errors.Is(err, ErrLocked))
	is.NoErr(tx.Rollback())
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.NoErr(err) // and works on when the lock is gone
}

func TestADamagedRowIsClaimedWithItsError(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.NoErr(err)
	db, err := sql.Open("sqlite", "file:"+path)
	is.NoErr(err)
	defer db.Close()
	_, err = db.Exec(`UPDATE diverted_deliveries SET body = x''`)
	is.NoErr(err)
	res, err := s.Work(ctx, WorkRequest{Claim: claimAll(1)})
	is.NoErr(err)
	is.Equal(len(res.Claims), 1)
	is.True(errors.Is(res.Claims[0].Err, ErrDamaged))
	failure := Failure{Trigger: TriggerTimeout, Message: "damaged", At: time.Now()}
	_, err = s.Work(ctx, WorkRequest{Outcomes: []Outcome{{Key: res.Claims[0].Key, Token: res.Claims[0].Token, Kind: OutcomeDivert, Failure: &failure}}})
	is.NoErr(err)
	_, err = s.FetchDiverted(ctx, res.Claims[0].Key)
	is.NoErr(err)
}

func TestADeletionThatFailedPurgesNothing(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, _ := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	_, err = s.Accept(ctx, AcceptRequest{Messages: []Message{realMessage(t, w, 0)}})
	is.NoErr(err)

	// The deletion is done, but cannot be committed: what it leaves in memory must not be believed.
	err = s.write(ctx, "delete webhook", func(tx *sqliteTx) error {
		row, err := tx.knownWebhook(w.Key())
		is.NoErr(err)
		tx.exec(`UPDATE diverted_webhooks SET deleted = 1 WHERE id = ?`, row.id)
		tx.purge = append(tx.purge, row.id)
		tx.fail(ErrFull)
		return nil
	})
	is.True(errors.Is(err, ErrFull))
	for range 3 { // the purge would come with the next idle moments
		_, err = s.Work(ctx, WorkRequest{})
		is.NoErr(err)
	}
	page, err := s.ListPending(ctx, DivertedQuery{Webhook: w.Key()})
	is.NoErr(err)
	is.Equal(len(page.Deliveries), 1)
	is.Equal(len(s.writer.purge), 0)
}

func TestADamagedRecordIsKeptAndItsWebhookStillGetsEvents(t *testing.T) {
	is := is.New(t)
	ctx := t.Context()
	s, path := openTestStore(t)
	w, err := s.CreateWebhook(ctx, NewWebhook(acme, "billing", "https://example.com/hook", "*"))
	is.NoErr(err)
	db, err := sql.Open("sqlite", "file:"+path)
	is.NoErr(err)
	defer db.Close()
	_, err = db.Exec(`UPDATE diverted_webhooks SET record = '{"name": '`)
	is.NoErr(err)
	_, err = db.Exec(`UPDATE diverted_state SET generation = generation + 1`)
	is.NoErr(err)

	is.NoErr(s.Suspend(ctx, w.Key()))
	is.NoErr(s.Unsuspend(ctx, w.Key()))
	var record string
	is.NoErr(db.QueryRow(`SELECT record FROM diverted_webhooks`).Scan(&record))
	is.Equal(record, `{"name": `)
	yes := true
	_, err = s.ListWebhooks(ctx, WebhookQuery{Tenant: acme, Active: &yes})
	is.True(errors.Is(err, ErrDamaged))
	_, err = s.ListWebhooks(ctx, WebhookQuery{Tenant: acme, Suspended: &yes})
	is.NoErr(err) // what is left out is not decoded
	m := realMessage(t, w, 0)
	m.Webhook = ulid.Zero // publish
	res, err := s.Accept(ctx, AcceptRequest{Messages: []Message{m}})
	is.NoErr(err)
	is.Equal(len(res.Messages[0].Deliveries), 1)
	work, err := s.Work(ctx, WorkRequest{Claim: claimAll(1)})
	is.NoErr(err)
	is.True(errors.Is(work.Claims[0].Err, ErrDamaged))
}
