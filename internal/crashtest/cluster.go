package crashtest

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/divertedevents/diverted"
)

// Cluster sets up a [RunCluster].
type Cluster struct {
	// Config is as for a [Run], but for Kills: services are killed until the deliveries are made.
	Config
	// Processes is how many services share the work.
	Processes int
	// Deliveries is how many deliveries are to be acknowledged.
	Deliveries int
	// Every is the time from one kill to the next, or more while nothing goes on. Each is of another service, and
	// another one is started.
	Every time.Duration
	// Restarts are called one after the other, evenly over the deliveries, while the kills go on. Each has the
	// store's server die, and returns when it answers again.
	Restarts []func(ctx context.Context) error
}

const (
	// modeShare: the service accepts events and delivers them, until its input says otherwise.
	modeShare = "share"
	// modeDeliver: it only delivers.
	modeDeliver = "deliver"

	// clusterTimeout bounds an attempt. A machine on which all of this runs at once may be slow, and a timeout
	// would explain a duplicate that nothing else explains.
	clusterTimeout = 5 * time.Second
	// comingBack is how long after its server answers again a dispatcher may wait before it settles.
	comingBack = 5 * time.Second
)

// RunCluster has several services share one store, kills one after the other and starts another in its place,
// has the store's server die meanwhile, and judges.
func RunCluster(ctx context.Context, c Cluster) (Report, error) {
	if c.Log == nil {
		c.Log = io.Discard
	}
	r := &cluster{Cluster: c, receiver: newReceiver(), ledger: newLedger()}
	defer r.receiver.server.Close()
	ctx, stop := context.WithCancelCause(ctx)
	var restarts sync.WaitGroup
	restarts.Go(func() {
		if err := r.restart(ctx); err != nil {
			stop(fmt.Errorf("the server: %w", err))
		}
	})
	defer func() {
		stop(nil) // which kills the services
		restarts.Wait()
		for _, ch := range r.children {
			<-ch.done
		}
	}()
	if err := r.work(ctx); err != nil {
		return Report{}, err
	}
	restarts.Wait()
	store, err := c.Open(ctx, c.DSN)
	if err != nil {
		return Report{}, err
	}
	defer store.Close()
	if err := drain(ctx, store); err != nil {
		return Report{}, err
	}
	for _, ch := range r.children {
		ch.stdin.Close()
		if err := <-ch.done; err != nil {
			return Report{}, fmt.Errorf("a service: %w", err)
		}
	}
	r.children = nil
	report, err := judge(ctx, store, r.receiver, r.ledger, r.kills)
	report.Restarts = len(c.Restarts)
	return report, err
}

// cluster is a run under way.
type cluster struct {
	Cluster
	receiver    *receiver
	ledger      *ledger
	children    []*child
	generations []int // of the children
	started     int
	kills       int
}

func (r *cluster) start(ctx context.Context, mode string) error {
	ch, err := start(ctx, r.Config, r.receiver, r.started, mode, r.ledger)
	if err != nil {
		return err
	}
	r.children, r.generations = append(r.children, ch), append(r.generations, r.started)
	r.started++
	return nil
}

// work kills the oldest service and starts another, until the deliveries are acknowledged and nearly all have
// been attempted; the last ones wait for the leases of the dead.
func (r *cluster) work(ctx context.Context) error {
	for range r.Processes {
		if err := r.start(ctx, modeShare); err != nil {
			return err
		}
	}
	mode := modeShare
	before, spared := 0, 0 // the progress at the last kill, and how often none followed for the lack of any
	for began, tick := time.Now(), time.Tick(r.Every); ; {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick:
		}
		acknowledged, attempted := r.ledger.size(), r.receiver.attempted()
		if acknowledged >= r.Deliveries && mode == modeShare {
			mode = modeDeliver
			for _, ch := range r.children {
				if _, err := io.WriteString(ch.stdin, "accept no more\n"); err != nil {
					return err
				}
			}
		}
		if mode == modeDeliver && attempted >= acknowledged*95/100 {
			return nil
		}
		// On a slow machine a service may need longer than this to begin.
		progress := acknowledged + attempted
		if progress == before && spared < 5 {
			spared++
			continue
		}
		before, spared = progress, 0
		oldest, generation := r.children[0], r.generations[0]
		select {
		case err := <-oldest.done:
			return fmt.Errorf("a service ended by itself: %w", err)
		default:
		}
		if err := oldest.kill(); err != nil {
			return err
		}
		r.ledger.killed(generation)
		r.kills++
		r.children, r.generations = r.children[1:], r.generations[1:]
		if err := r.start(ctx, mode); err != nil {
			return err
		}
		if r.kills%10 == 0 {
			fmt.Fprintf(r.Log, "%s: %d kills, %d acknowledged, %d attempted\n", time.Since(began).Round(time.Second), r.kills, acknowledged, attempted)
		}
	}
}

// restart has the server die, evenly over the deliveries.
func (r *cluster) restart(ctx context.Context) error {
	tick := time.Tick(10 * time.Millisecond)
	for i, die := range r.Restarts {
		for r.ledger.size() < (i+1)*r.Deliveries/(len(r.Restarts)+1) {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-tick:
			}
		}
		began := time.Now()
		if err := die(ctx); err != nil {
			return err
		}
		r.ledger.outage(began, time.Now().Add(comingBack))
		fmt.Fprintf(r.Log, "the server was gone for %s\n", time.Since(began).Round(time.Millisecond))
	}
	return nil
}

// attempted is how many events arrived at the receiver, whatever it answered.
func (r *receiver) attempted() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.attempts)
}

// serveCluster is one of the services. It ends when its input does, at the latest when the parent dies. A line
// of input says that it is to accept no more.
func serveCluster(open Open, mode string) error {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	accepting, enough := context.WithCancel(ctx)
	defer enough()
	go func() {
		defer stop()
		for line := make([]byte, 64); ; enough() {
			if _, err := os.Stdin.Read(line); err != nil {
				return
			}
		}
	}()
	store, err := openAtLast(ctx, open)
	if err != nil {
		return err
	}
	dispatcher, err := newDispatcher(store, clusterTimeout)
	if err != nil {
		return err
	}
	var group sync.WaitGroup
	switch mode {
	case modeDeliver:
		group.Go(func() {
			for ctx.Err() == nil && drain(ctx, store) != nil { // until the server dies
				pause(ctx, 50*time.Millisecond)
			}
		})
	case modeShare:
		seed, err := strconv.ParseUint(os.Getenv("CRASHTEST_SEED"), 10, 64)
		if err != nil {
			return err
		}
		for i := range senders {
			group.Go(func() { send(accepting, dispatcher, rand.New(rand.NewPCG(seed, uint64(i))), true) })
		}
		group.Go(func() {
			for accepting.Err() == nil {
				meddle(accepting, store, rand.New(rand.NewPCG(seed, senders))) // until the server dies
				pause(accepting, 50*time.Millisecond)
			}
		})
	}
	err = dispatcher.Run(ctx)
	group.Wait()
	if err != nil {
		return err
	}
	return store.Close()
}

// openAtLast opens the store, as soon as its server answers.
func openAtLast(ctx context.Context, open Open) (diverted.Store, error) {
	for {
		store, err := open(ctx, os.Getenv("CRASHTEST_DSN"))
		if err == nil {
			if err = putWebhooks(ctx, store, os.Getenv("CRASHTEST_RECEIVER")); err == nil {
				return store, nil
			}
			store.Close()
		}
		if ctx.Err() != nil {
			return nil, err
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// pause waits, at most until ctx ends.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// TestCluster runs a [RunCluster] as a test.
func TestCluster(t *testing.T, c Cluster) {
	t.Helper()
	ctx := t.Context()
	if deadline, ok := t.Deadline(); ok { // so that nothing is left running
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline.Add(-10*time.Second))
		defer cancel()
	}
	report, err := RunCluster(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	check(t, report)
	if report.Kills == 0 {
		t.Error("the run proves nothing: nobody was killed")
	}
}
