package testenv

import (
	"testing"
	"time"
)

const (
	patience = 2 * time.Minute // of a busy machine
	look     = 10 * time.Millisecond
)

// Await asks again and again whether something holds that another process, or a server, brings about, and fails the
// test where it does not in two minutes. What only depends on this process is the business of testing/synctest. It is
// called by the test's own goroutine, and not in a cleanup, when the test's context has ended.
func Await(tb testing.TB, what string, holds func() bool) {
	tb.Helper()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			tb.Fatalf("%s: not in %v", what, patience)
		}
		select {
		case <-tick.C:
		case <-tb.Context().Done():
			tb.Fatalf("%s: not while the test went on", what)
		}
	}
}
