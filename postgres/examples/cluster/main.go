// Cluster shows what PostgreSQL is for: three dispatchers, each a process of its own, share the work of one
// database. One is killed under load, and the other two finish what it had in its hands.
//
//	go run ./examples/cluster -db postgres://postgres@127.0.0.1:5432/postgres
//
// It makes a schema of its own there and drops it at the end. It ends with status 0 only if it has checked
// that every event arrived, and that none arrived twice but what the killed process had under way.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
)

const (
	webhooks = 10
	events   = 3000
	// Short, so that the leases of the killed process are over soon: ten seconds later.
	timeout = 3 * time.Second
)

func main() {
	db := flag.String("db", "postgres://postgres@127.0.0.1:5432/postgres", "`URL` of the PostgreSQL database")
	name := flag.String("dispatcher", "", "run as the dispatcher of this `name`, in -schema; the program starts itself so")
	schema := flag.String("schema", fmt.Sprintf("diverted_cluster_%d", os.Getpid()), "`name` of the schema")
	flag.Parse()
	ctx := context.Background()
	run := func() error { return story(ctx, *db, *schema) }
	if *name != "" {
		run = func() error { return dispatch(ctx, *db, *schema, *name) }
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "FAILED:", err)
		os.Exit(1)
	}
}

// open is what every process begins with.
func open(ctx context.Context, db, schema string) (*pgxpool.Pool, *postgres.Store, error) {
	pool, err := pgxpool.New(ctx, db)
	if err != nil {
		return nil, nil, err
	}
	store, err := postgres.Open(ctx, pool, postgres.Config{Schema: schema})
	if err != nil {
		pool.Close()
		return nil, nil, err
	}
	return pool, store, nil
}

// dispatch is one of the three. It ends when its input does, which is when the program ends.
func dispatch(ctx context.Context, db, schema, name string) error {
	pool, store, err := open(ctx, db, schema)
	if err != nil {
		return err
	}
	defer pool.Close()
	defer store.Close()
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{
		Timeout: timeout, UserAgent: name, AllowedNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	return dispatcher.Run(ctx)
}

// story is the program: it owns the receiver, starts the dispatchers, and judges.
func story(ctx context.Context, db, schema string) (err error) {
	pool, store, err := open(ctx, db, schema)
	if err != nil {
		return err
	}
	defer pool.Close()
	defer func() {
		_, dropped := pool.Exec(ctx, `DROP SCHEMA `+schema+` CASCADE`)
		err = errors.Join(err, dropped)
	}()
	defer store.Close()

	receiver := newReceiver()
	defer receiver.server.Close()
	tenant := uuid.New()
	for i := range webhooks {
		w := diverted.NewWebhook(tenant, "orders", fmt.Sprint(receiver.server.URL, "/", i), "*")
		w.FailureHandling = &diverted.FailureHandling{Divert: true, Retry: &diverted.RetryStrategy{Interval: time.Second, Type: diverted.Linear}}
		if _, err := store.CreateWebhook(ctx, w); err != nil {
			return err
		}
	}

	var dispatchers []*process
	for _, name := range []string{"anna", "bert", "cleo"} {
		p, err := start(db, schema, name)
		if err != nil {
			return err
		}
		defer p.end()
		dispatchers = append(dispatchers, p)
	}

	// This process only accepts. What it accepts is delivered by the others.
	fmt.Printf("publishing %d events to %d webhooks\n", events, webhooks)
	dispatcher, err := diverted.NewDispatcher(store, diverted.Config{})
	if err != nil {
		return err
	}
	published := make(chan error, 1)
	go func() { published <- publish(ctx, dispatcher, tenant) }()

	victim := dispatchers[1]
	for receiver.from(victim.name) < webhooks*events/10 {
		time.Sleep(time.Millisecond)
	}
	if err := victim.kill(); err != nil {
		return err
	}
	fmt.Printf("killed %s, after %d of %d deliveries\n", victim.name, receiver.total(), webhooks*events)
	if err := <-published; err != nil {
		return err
	}
	// What the victim had in its hands waits until its leases are over; then the others claim it.
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		n, err := left(ctx, store, tenant)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if time.Since(began) > time.Minute {
			return fmt.Errorf("%d of %d arrived, and some are left in the store", receiver.total(), webhooks*events)
		}
	}
	for _, p := range dispatchers {
		if p != victim {
			if err := p.end(); err != nil {
				return fmt.Errorf("%s: %w", p.name, err)
			}
		}
	}
	return judge(receiver, victim.name)
}

func publish(ctx context.Context, d *diverted.Dispatcher, tenant uuid.UUID) error {
	var group sync.WaitGroup
	errs := make(chan error, 16)
	for worker := range cap(errs) {
		group.Go(func() {
			for i := worker; i < events; i += cap(errs) {
				e, err := diverted.NewEvent("order.paid", map[string]any{"order": i, "amount": "12.50", "currency": "EUR"})
				if err == nil {
					_, err = d.Publish(ctx, tenant, e)
				}
				if err != nil {
					errs <- err
					return
				}
			}
		})
	}
	group.Wait()
	close(errs)
	return <-errs
}

// left says whether something is left in the store: the number is that of the first page of each list.
func left(ctx context.Context, store *postgres.Store, tenant uuid.UUID) (n int, err error) {
	page, err := store.ListWebhooks(ctx, diverted.WebhookQuery{Tenant: tenant})
	if err != nil {
		return 0, err
	}
	for _, w := range page.Webhooks {
		pending, err := store.ListPending(ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: 1})
		if err != nil {
			return 0, err
		}
		aside, err := store.ListDiverted(ctx, diverted.DivertedQuery{Webhook: w.Key(), Limit: 1})
		if err != nil {
			return 0, err
		}
		n += len(pending.Deliveries) + len(aside.Events)
	}
	return n, nil
}

// judge checks what arrived against what was published.
func judge(r *receiver, victim string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	by := map[string]int{}
	twice, unexplained := 0, 0
	for _, senders := range r.arrived {
		by[senders[0]]++
		if len(senders) > 1 {
			twice++
			if senders[0] != victim {
				unexplained++
			}
		}
	}
	fmt.Printf("delivered: %d by anna, %d by bert before it was killed, %d by cleo; %d again, which bert had not settled\n",
		by["anna"], by["bert"], by["cleo"], twice)
	if len(r.arrived) != webhooks*events {
		return fmt.Errorf("%d of %d arrived", len(r.arrived), webhooks*events)
	}
	if unexplained > 0 {
		return fmt.Errorf("%d arrived twice though nothing happened to their sender", unexplained)
	}
	fmt.Println("every event arrived, and nothing is left in the store")
	return nil
}

// receiver notes who delivered what.
type receiver struct {
	server *httptest.Server

	mu      sync.Mutex
	arrived map[string][]string // senders, by event and webhook
	senders map[string]int
}

func newReceiver() *receiver {
	r := &receiver{arrived: map[string][]string{}, senders: map[string]int{}}
	r.server = httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, request *http.Request) {
		r.note(request.Header.Get("webhook-id")+" "+request.URL.Path, request.UserAgent())
	}))
	return r
}

func (r *receiver) note(delivery, sender string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.arrived[delivery] = append(r.arrived[delivery], sender)
	r.senders[sender]++
}

func (r *receiver) total() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.arrived)
}

func (r *receiver) from(sender string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.senders[sender]
}

// process is a dispatcher.
type process struct {
	name    string
	command *exec.Cmd
	stdin   io.Closer
	stderr  strings.Builder
	ended   sync.Once
	err     error
}

func start(db, schema, name string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, command: exec.Command(self, "-db", db, "-schema", schema, "-dispatcher", name)}
	p.command.Stderr = &p.stderr
	if p.stdin, err = p.command.StdinPipe(); err != nil {
		return nil, err
	}
	return p, p.command.Start()
}

// kill ends it as a power cut does.
func (p *process) kill() error {
	defer p.end()
	return p.command.Process.Kill()
}

// end lets it finish what it has under way.
func (p *process) end() error {
	p.ended.Do(func() {
		p.stdin.Close()
		if p.err = p.command.Wait(); p.err != nil && p.stderr.Len() > 0 {
			p.err = fmt.Errorf("%w: %s", p.err, p.stderr.String())
		}
	})
	return p.err
}
