package testenv_test

import (
	"context"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/testenv"
)

// fatal is a test that remembers that it failed.
type fatal struct {
	testing.TB
	failed bool
}

func (f *fatal) Helper()               {}
func (f *fatal) Fatalf(string, ...any) { f.failed = true }

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		value  string
		want   int
		failed bool
	}{
		{"", 20, false},
		{"0", 0, false},
		{"1000000", 1_000_000, false},
		{"many", 0, true},
		{"1e6", 0, true},
	} {
		is := is.New(t)
		t.Setenv("TESTENV_NUMBER", tt.value)
		f := &fatal{TB: t}
		n := testenv.Number(f, "TESTENV_NUMBER", 20)
		is.Equal(f.failed, tt.failed)
		is.True(tt.failed || n == tt.want)
	}
}

// ended is a test of which Fatalf ends the goroutine, as testing's does, and which has a context of its own.
type ended struct {
	fatal
	ctx context.Context
}

func (e *ended) Context() context.Context { return e.ctx }

func (e *ended) Fatalf(format string, args ...any) {
	e.fatal.Fatalf(format, args...)
	runtime.Goexit()
}

func TestAwait(t *testing.T) {
	for _, tt := range []struct {
		name     string
		holds    time.Duration // after which it holds
		over     time.Duration // after which the test's context ends
		failed   bool
		from, to time.Duration
	}{
		{name: "at once"},
		{name: "later", holds: time.Second, from: time.Second, to: time.Second + 10*time.Millisecond},
		{name: "never", holds: time.Hour, failed: true, from: 2 * time.Minute, to: 2*time.Minute + 10*time.Millisecond},
		{name: "the test ends", holds: time.Hour, over: time.Second, failed: true, from: time.Second, to: time.Second},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				is := is.New(t)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if tt.over != 0 {
					defer time.AfterFunc(tt.over, cancel).Stop()
				}
				e := &ended{fatal: fatal{TB: t}, ctx: ctx}
				began := time.Now()
				done := make(chan struct{})
				go func() {
					defer close(done)
					testenv.Await(e, "it is time", func() bool { return time.Since(began) >= tt.holds })
				}()
				<-done
				took := time.Since(began)
				is.Equal(e.failed, tt.failed)
				is.True(took >= tt.from && took <= tt.to)
			})
		})
	}
}
