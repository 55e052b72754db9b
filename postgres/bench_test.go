package postgres_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
)

func poolOf(n int32) func(*pgxpool.Config) {
	return func(c *pgxpool.Config) { c.MaxConns = n }
}

// sized is a message for a webhook, with a body of some bytes.
func sized(w diverted.Webhook, size int) diverted.Message {
	return diverted.Message{
		Tenant: w.Tenant, Webhook: w.Locator, Event: ulid.Make(), RequestLocator: ulid.Make(),
		EventType: "invoice.paid", Body: fmt.Appendf(nil, `{"note":%q}`, bytes.Repeat([]byte("thank you "), size/10)),
	}
}

// BenchmarkAccept accepts one event a call, from many goroutines.
func BenchmarkAccept(b *testing.B) {
	for _, goroutines := range []int{1, 64} {
		b.Run(fmt.Sprint("goroutines=", goroutines), func(b *testing.B) {
			s := open(b, newPool(b, poolOf(16)), newSchema())
			w := newWebhook(b, s, uuid.New())
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var group sync.WaitGroup
			for range goroutines {
				group.Go(func() {
					for left.Add(-1) >= 0 {
						_, err := s.Accept(context.Background(), diverted.AcceptRequest{Messages: []diverted.Message{sized(w, 500)}})
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// answered is a transport that answers at once, so that the store is what is measured.
type answered struct{}

func (answered) RoundTrip(r *http.Request) (*http.Response, error) {
	_, err := io.Copy(io.Discard, r.Body)
	return &http.Response{StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Body: http.NoBody, Request: r}, err
}

// fill accepts n events for webhooks in turn.
func fill(b testing.TB, s *postgres.Store, webhooks []diverted.Webhook, n int) {
	for i := 0; i < n; {
		var r diverted.AcceptRequest
		for range min(1000, n-i) {
			r.Messages = append(r.Messages, sized(webhooks[i%len(webhooks)], 500))
			i++
		}
		if _, err := s.Accept(context.Background(), r); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkDrain delivers what was accepted before, by one dispatcher.
func BenchmarkDrain(b *testing.B) {
	for _, webhooks := range []int{10, 1000} {
		b.Run(fmt.Sprint("webhooks=", webhooks), func(b *testing.B) {
			s := open(b, newPool(b, poolOf(16)), newSchema())
			tenant := uuid.New()
			var all []diverted.Webhook
			for range webhooks {
				all = append(all, newWebhook(b, s, tenant))
			}
			fill(b, s, all, b.N)
			var left atomic.Int64
			left.Store(int64(b.N))
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			d, err := diverted.NewDispatcher(s, diverted.Config{
				Transport: answered{}, Logger: slog.New(slog.DiscardHandler),
				Observer: diverted.Observer{Delivered: func(diverted.Attempt) {
					if left.Add(-1) == 0 {
						cancel()
					}
				}},
			})
			if err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if err := d.Run(ctx); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkWork settles and claims in batches of a size, without a dispatcher.
func BenchmarkWork(b *testing.B) {
	for _, batch := range []int{80, 1000} {
		b.Run(fmt.Sprint("batch=", batch), func(b *testing.B) {
			s := open(b, newPool(b), newSchema())
			tenant := uuid.New()
			var all []diverted.Webhook
			for range 10 {
				all = append(all, newWebhook(b, s, tenant))
			}
			fill(b, s, all, b.N)
			b.ResetTimer()
			var request diverted.WorkRequest
			for left := b.N; left > 0; {
				request.Claim = &diverted.ClaimRequest{Count: batch, Bytes: 32 << 20, Lease: time.Minute}
				result, err := s.Work(context.Background(), request)
				if err != nil {
					b.Fatal(err)
				}
				left -= len(request.Outcomes)
				request.Outcomes = allDelivered(result.Claims)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkWorkBesideASnapshot is BenchmarkWork amid a standing backlog of one webhook, while nothing else is open in the
// database, and while a transaction is, as a backup's, so that the server keeps all that is deleted. It asks what others
// may have added once a second, as a dispatcher does.
func BenchmarkWorkBesideASnapshot(b *testing.B) {
	for _, held := range []bool{false, true} {
		b.Run(fmt.Sprint("held=", held), func(b *testing.B) {
			pool := newPool(b)
			s := open(b, pool, newSchema())
			w := newWebhook(b, s, uuid.New())
			if held {
				hold(b, pool)
			}
			fill(b, s, []diverted.Webhook{w}, 1000)
			b.ResetTimer()
			var request diverted.WorkRequest
			asked := time.Now()
			for left := b.N; left > 0; {
				fill(b, s, []diverted.Webhook{w}, 100)
				request.Claim = &diverted.ClaimRequest{Count: 100, Bytes: 32 << 20, Lease: time.Minute}
				if request.Refresh = time.Since(asked) > time.Second; request.Refresh {
					asked = time.Now()
				}
				result, err := s.Work(context.Background(), request)
				if err != nil {
					b.Fatal(err)
				}
				left -= len(request.Outcomes)
				request.Outcomes = allDelivered(result.Claims)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "events/s")
		})
	}
}

// BenchmarkHostTransactions commits transactions of the host's, an insert each, from 16 goroutines: alone, and with a
// PublishTx to one webhook.
func BenchmarkHostTransactions(b *testing.B) {
	for _, what := range []string{"alone", "NoNotify", "default"} {
		b.Run(what, func(b *testing.B) {
			ctx := context.Background()
			pool, schema := newPool(b, poolOf(16)), newSchema()
			s, err := postgres.Open(ctx, pool, postgres.Config{Schema: schema, NoNotify: what == "NoNotify"})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			w := newWebhook(b, s, uuid.New())
			if _, err := pool.Exec(ctx, `CREATE TABLE `+schema+`.orders (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, note text)`); err != nil {
				b.Fatal(err)
			}
			one := func(tx pgx.Tx) error {
				_, err := tx.Exec(ctx, `INSERT INTO `+schema+`.orders (note) VALUES ($1)`, "thank you")
				if err != nil || what == "alone" {
					return err
				}
				event, err := diverted.NewEvent("order.paid", map[string]string{"note": "thank you"})
				if err == nil {
					_, err = s.PublishTx(ctx, tx, w.Tenant, event)
				}
				return err
			}
			var left atomic.Int64
			left.Store(int64(b.N))
			b.ResetTimer()
			var group sync.WaitGroup
			for range 16 {
				group.Go(func() {
					for left.Add(-1) >= 0 {
						if err := pgx.BeginFunc(ctx, pool, one); err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			group.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
		})
	}
}
