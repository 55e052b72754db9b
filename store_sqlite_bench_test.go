package diverted

import (
	"fmt"
	"sync"
	"testing"
	"time"
)

// An operation of these benchmarks is one delivery, of a message of 500 bytes.

// benchWebhooks makes 10 webhooks.
func benchWebhooks(b *testing.B, s *SQLiteStore) (webhooks []Webhook) {
	b.Helper()
	for range 10 {
		w, err := s.CreateWebhook(b.Context(), NewWebhook(acme, "billing", "https://example.com/hook", "*"))
		if err != nil {
			b.Fatal(err)
		}
		webhooks = append(webhooks, w)
	}
	return webhooks
}

// benchMessages makes b.N messages, for the webhooks in turn.
func benchMessages(b *testing.B, webhooks []Webhook) []Message {
	b.Helper()
	body := fmt.Appendf(nil, `{"note":"%0489d"}`, 0)
	if len(body) != 500 {
		b.Fatal(len(body))
	}
	ms := make([]Message, b.N)
	for i := range ms {
		e := realEvent(b, 0)
		ms[i] = Message{Tenant: acme, Webhook: webhooks[i%len(webhooks)].Locator,
			Event: e.Locator, RequestLocator: e.RequestLocator, EventType: e.Type, Body: body}
	}
	return ms
}

// benchAccept accepts b.N messages in bulk.
func benchAccept(b *testing.B, s *SQLiteStore) {
	b.Helper()
	for ms := benchMessages(b, benchWebhooks(b, s)); len(ms) > 0; {
		n := min(len(ms), 1000)
		if _, err := s.Accept(b.Context(), AcceptRequest{Messages: ms[:n]}); err != nil {
			b.Fatal(err)
		}
		ms = ms[n:]
	}
}

// benchClaim claims all that is due, 64 at once, and calls settle between the claims.
func benchClaim(b *testing.B, s *SQLiteStore, settle func([]Claim) []Outcome) {
	b.Helper()
	var outcomes []Outcome
	for claimed := 0; ; {
		result, err := s.Work(b.Context(), WorkRequest{Outcomes: outcomes, Claim: claimAll(64)})
		if err != nil {
			b.Fatal(err)
		}
		if len(result.Claims) == 0 {
			if claimed != b.N {
				b.Fatalf("%d were claimed, of %d", claimed, b.N)
			}
			return
		}
		claimed += len(result.Claims)
		outcomes = settle(result.Claims)
	}
}

func delivered(claims []Claim) (outcomes []Outcome) {
	for i := range claims {
		outcomes = append(outcomes, Outcome{Key: claims[i].Key, Token: claims[i].Token, Kind: OutcomeDelivered})
	}
	return outcomes
}

func BenchmarkSQLiteAccept(b *testing.B) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s, _ := openTestStore(b)
			ms := benchMessages(b, benchWebhooks(b, s)[:1])
			next := make(chan int, b.N)
			for i := range b.N {
				next <- i
			}
			close(next)
			b.ReportAllocs()
			b.ResetTimer()
			var group sync.WaitGroup
			for range callers {
				group.Go(func() {
					for i := range next {
						if _, err := s.Accept(b.Context(), AcceptRequest{Messages: ms[i : i+1]}); err != nil {
							b.Error(err)
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

func BenchmarkSQLiteClaim(b *testing.B) {
	s, _ := openTestStore(b)
	benchAccept(b, s)
	b.ReportAllocs()
	b.ResetTimer()
	benchClaim(b, s, func([]Claim) []Outcome { return nil })
}

func BenchmarkSQLiteSettle(b *testing.B) {
	failure := Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503, At: time.Now()}
	for _, kind := range []OutcomeKind{OutcomeDelivered, OutcomeRetry, OutcomeDivert} {
		b.Run(string(kind), func(b *testing.B) {
			s, _ := openTestStore(b)
			benchAccept(b, s)
			var outcomes []Outcome
			benchClaim(b, s, func(claims []Claim) []Outcome {
				for _, o := range delivered(claims) {
					if o.Kind = kind; kind != OutcomeDelivered {
						o.Failure, o.Wait = &failure, time.Hour
					}
					outcomes = append(outcomes, o)
				}
				return nil
			})
			b.ReportAllocs()
			b.ResetTimer()
			for len(outcomes) > 0 {
				n := min(len(outcomes), 64)
				result, err := s.Work(b.Context(), WorkRequest{Outcomes: outcomes[:n]})
				if err != nil {
					b.Fatal(err)
				}
				if result.Settled[0].Stale {
					b.Fatal("stale")
				}
				outcomes = outcomes[n:]
			}
		})
	}
}

// BenchmarkSQLiteWork settles a batch and claims the next in one transaction, as the dispatcher does.
func BenchmarkSQLiteWork(b *testing.B) {
	s, _ := openTestStore(b)
	benchAccept(b, s)
	b.ReportAllocs()
	b.ResetTimer()
	benchClaim(b, s, delivered)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
}

// BenchmarkSQLiteRefresh looks at 10,000 webhooks that each wait for a retry, as a dispatcher does every second while
// others write to the database. An operation is a look.
func BenchmarkSQLiteRefresh(b *testing.B) {
	s, path := openTestStore(b)
	accept := func(to *SQLiteStore, w Webhook) {
		if _, err := to.Accept(b.Context(), AcceptRequest{Messages: []Message{realMessage(b, w, 0)}}); err != nil {
			b.Fatal(err)
		}
	}
	var outcomes []Outcome
	waits := func() {
		result, err := s.Work(b.Context(), WorkRequest{Outcomes: outcomes, Claim: claimAll(1000)})
		if err != nil {
			b.Fatal(err)
		}
		outcomes = delivered(result.Claims)
		for i := range outcomes {
			outcomes[i].Kind, outcomes[i].Wait, outcomes[i].Failure = OutcomeRetry, time.Hour, &Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503}
		}
	}
	webhook := NewWebhook(acme, "billing", "https://example.com/hook", "*")
	for range 10 {
		for range 1000 {
			webhook.Locator = realEvent(b, 0).Locator
			if _, err := s.CreateWebhook(b.Context(), webhook); err != nil {
				b.Fatal(err)
			}
			accept(s, webhook)
		}
		waits()
	}
	waits()
	other, err := OpenSQLite(b.Context(), path)
	if err != nil {
		b.Fatal(err)
	}
	defer other.Close()
	b.ResetTimer()
	for range b.N {
		b.StopTimer()
		accept(other, webhook)
		b.StartTimer()
		result, err := s.Work(b.Context(), WorkRequest{Claim: claimAll(1000), Refresh: true})
		if err != nil || len(result.Claims) != 1 {
			b.Fatal(len(result.Claims), err)
		}
	}
}

// BenchmarkSQLiteList lists a page of 100 out of 10,000. An operation is a page.
func BenchmarkSQLiteList(b *testing.B) {
	s, _ := openTestStore(b)
	w := benchWebhooks(b, s)[0]
	keys := make([]Key, 10_000)
	var group sync.WaitGroup
	for part := range 64 {
		for i := part; i < len(keys); i += 64 {
			keys[i] = Key{acme, w.Locator, realEvent(b, 0).Locator}
		}
		group.Go(func() {
			for i := part; i < len(keys); i += 64 {
				if err := s.Divert(b.Context(), DivertedEvent{
					Key: keys[i], RequestLocator: keys[i].Event, EventType: "invoice.paid", Body: []byte(`{"data":7}`),
					Failure: Failure{Trigger: "503", Message: "503 Service Unavailable", Status: 503},
				}); err != nil {
					b.Error(err)
				}
			}
		})
	}
	group.Wait()
	all, err := s.ListDiverted(b.Context(), DivertedQuery{Webhook: w.Key(), Offset: len(keys) - 101, Limit: 1})
	if err != nil || len(all.Events) != 1 {
		b.Fatal(len(all.Events), err)
	}
	for name, query := range map[string]DivertedQuery{
		"first": {Webhook: w.Key()},
		"last":  {Webhook: w.Key(), After: all.Events[0].Event},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				page, err := s.ListDiverted(b.Context(), query)
				if err != nil || len(page.Events) != 100 {
					b.Fatal(len(page.Events), err)
				}
			}
		})
	}
}
