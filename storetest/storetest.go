// Package storetest is the contract of [diverted.Store] as a test suite, for those who write a store of
// their own:
//
//	func TestStore(t *testing.T) {
//		storetest.Run(t, storetest.Harness{
//			Open: func(t *testing.T) diverted.Store { return mystore.New() },
//		})
//	}
//
// Every test is a subtest, named by the rule it holds the store to. They need no network, and no particular
// order. The optional powers [diverted.BulkStore], [diverted.StatsStore] and [diverted.RetentionStore] are
// tested where the store has them.
package storetest

import (
	"testing"
	"testing/synctest"

	"github.com/divertedevents/diverted"
)

// Harness says how to get at the store under test.
type Harness struct {
	// Open returns an empty store, which no earlier test has used. The suite closes it; whatever else has
	// to be cleaned up belongs in t.Cleanup. Required.
	Open func(t *testing.T) diverted.Store

	// Reopen closes a store that Open returned and opens the same data again, as after a restart of the
	// process. Nil if the store keeps nothing, and then the tests of durability are skipped.
	Reopen func(t *testing.T, store diverted.Store) diverted.Store

	// RealTime is for a store whose clock is not this process's. By default each test runs in a bubble of
	// [synctest], where time passes at once; the store is opened and closed within it, so it must not share
	// goroutines with another. With RealTime the tests wait, some tenths of a second each, and those that
	// need an exact clock are skipped.
	RealTime bool

	// Parallel runs the tests side by side, as [testing.T.Parallel] has it, which saves much of the time that those in
	// real time wait. Open and Reopen must then be safe to call concurrently, and no store may notice another.
	Parallel bool
}

// Run tests the store, each rule in a subtest.
func Run(t *testing.T, h Harness) {
	t.Helper()
	if h.Open == nil {
		t.Fatal("storetest: Harness.Open is required")
	}
	for _, group := range []struct {
		name  string
		tests []test
	}{
		{"webhooks", webhookTests},
		{"suspension", suspensionTests},
		{"diverted", divertedTests},
		{"failures", failureTests},
		{"filter", filterTests},
		{"bulk", bulkTests},
		{"stats", statsTests},
		{"retention", retentionTests},
		{"accept", acceptTests},
		{"room", roomTests},
		{"claim", claimTests},
		{"lease", leaseTests},
		{"settle", settleTests},
		{"notices", noticeTests},
		{"tenants", tenantTests},
		{"concurrency", concurrencyTests},
		{"lifecycle", lifecycleTests},
		{"durability", durabilityTests},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, test := range group.tests {
				t.Run(test.rule, func(t *testing.T) { test.start(t, h) })
			}
		})
	}
}

// test is one rule of the contract.
type test struct {
	rule string
	run  func(k *kit)
	// needs is what the harness must offer.
	needs need
}

type need int

const (
	exactTime need = 1 << iota // the clock of the bubble
	restart                    // Harness.Reopen

	// Optional powers of the store.
	bulk
	stats
	retention
)

// missing names a power that the store should have for a test and has not, "" for none.
func (n need) missing(store diverted.Store) string {
	var has need
	if _, ok := store.(diverted.BulkStore); ok {
		has |= bulk
	}
	if _, ok := store.(diverted.StatsStore); ok {
		has |= stats
	}
	if _, ok := store.(diverted.RetentionStore); ok {
		has |= retention
	}
	for power, name := range map[need]string{bulk: "BulkStore", stats: "StatsStore", retention: "RetentionStore"} {
		if n&power != 0 && has&power == 0 {
			return name
		}
	}
	return ""
}

func (x test) start(t *testing.T, h Harness) {
	if h.Parallel {
		t.Parallel()
	}
	switch {
	case x.needs&exactTime != 0 && h.RealTime:
		t.Skip("needs an exact clock, and the store has its own")
	case x.needs&restart != 0 && h.Reopen == nil:
		t.Skip("needs a store that keeps its data: Harness.Reopen is not set")
	}
	run := func(t *testing.T) {
		k := newKit(t, h)
		// Not in a cleanup, which would run after those of Open: its database must outlive the store.
		defer func() { k.store.Close() }()
		if power := x.needs.missing(k.store); power != "" {
			t.Skip("needs a store that is a " + power)
		}
		if h.RealTime {
			k.pace()
		}
		x.run(k)
	}
	if h.RealTime {
		run(t)
	} else {
		synctest.Test(t, run)
	}
}
