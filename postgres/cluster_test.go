package postgres_test

import (
	"context"
	"os"
	"syscall"
	"testing"
	"time"

	"github.com/divertedevents/diverted/internal/crashtest"
	"github.com/divertedevents/diverted/internal/testenv"
)

// Three dispatchers share a database. One is killed and another started again and again, and the server itself
// is restarted three times: in haste, without a checkpoint, and killed. The number of deliveries is
// CLUSTER_DELIVERIES, and then the kills are two seconds apart, or 2,000: see make cluster.
func TestDispatchersAndAServerThatDieLoseNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the end of leases")
	}
	deliveries, every := 2000, 500*time.Millisecond
	if n := testenv.Number(t, "CLUSTER_DELIVERIES", 0); n > 0 {
		deliveries, every = n, 2*time.Second
	}
	server := newMortal(t)
	again := func(die func() error) func(context.Context) error {
		return func(ctx context.Context) error {
			if err := die(); err != nil {
				return err
			}
			return server.start(ctx)
		}
	}
	crashtest.TestCluster(t, crashtest.Cluster{
		Config:    crashtest.Config{Open: openURL, DSN: server.url("postgres") + "#" + newSchema(), Seed: uint64(os.Getpid()), Log: os.Stderr},
		Processes: 3, Deliveries: deliveries, Every: every,
		Restarts: []func(context.Context) error{
			again(func() error { return server.stop(syscall.SIGINT) }),
			again(func() error { return server.stop(syscall.SIGQUIT) }),
			again(func() error { server.kill(); return nil }),
		},
	})
}
