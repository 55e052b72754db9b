package diverted

import (
	"net/http"
	"testing"
	"time"

	"github.com/matryer/is"
)

func TestScheduleTellsEveryWait(t *testing.T) {
	tests := []struct {
		name     string
		strategy RetryStrategy
		want     string
		total    time.Duration
	}{
		{"default", RetryStrategy{}, "retries at +60 s, +120 s, +240 s", 7 * time.Minute},
		{"linear", RetryStrategy{Attempts: 2, Interval: 5 * time.Second, Type: Linear}, "retries at +5 s, +5 s", 10 * time.Second},
		{"one", RetryStrategy{Attempts: 1, Interval: time.Second}, "retries at +1 s", time.Second},
		{"no wait above 24 h", RetryStrategy{Attempts: 3, Interval: 20 * time.Hour}, "retries at +72000 s, +86400 s, +86400 s", 68 * time.Hour},
		{"safe default, 17 h in all", *DefaultFailureHandling().Retry,
			"retries at +60 s, +120 s, +240 s, +480 s, +960 s, +1920 s, +3840 s, +7680 s, +15360 s, +30720 s", 61380 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(tt.strategy.String(), tt.want)
			var total time.Duration
			for _, w := range tt.strategy.Schedule() {
				total += w
			}
			is.Equal(total, tt.total)
		})
	}
}

func TestWaitHasNoRetryBeyondTheBudget(t *testing.T) {
	is := is.New(t)
	r := RetryStrategy{Attempts: 2, Interval: time.Second}
	for n, want := range map[int]bool{-1: false, 0: false, 1: true, 2: true, 3: false} {
		_, ok := r.Wait(n)
		is.Equal(ok, want)
	}
}

func TestNextWait(t *testing.T) {
	minutely := RetryStrategy{Attempts: 3, Interval: time.Minute, Type: Linear}
	for _, tt := range []struct {
		name       string
		n          int
		jitter     float64
		rnd        float64
		retryAfter time.Duration
		want       time.Duration
		ok         bool
	}{
		{"without jitter", 1, 0, 0.7, 0, time.Minute, true},
		{"jitter at its least", 1, 0.1, 0, 0, 54 * time.Second, true},
		{"jitter at its middle", 1, 0.1, 0.5, 0, time.Minute, true},
		{"jitter near its most", 1, 0.1, 0.75, 0, 63 * time.Second, true},
		{"Retry-After lengthens the wait", 1, 0.1, 0, 2 * time.Minute, 2 * time.Minute, true},
		{"Retry-After never shortens it", 1, 0.1, 0.5, time.Second, time.Minute, true},
		{"jitter never undercuts Retry-After", 1, 0.1, 0, time.Minute, time.Minute, true},
		{"the last retry", 3, 0, 0, 0, time.Minute, true},
		{"beyond the budget, whatever Retry-After asks", 4, 0, 0, time.Hour, 0, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			got, ok := nextWait(minutely, tt.n, tt.jitter, tt.rnd, tt.retryAfter)
			is.Equal(got, tt.want)
			is.Equal(ok, tt.ok)
		})
	}
}

func FuzzNextWait(f *testing.F) {
	f.Add(1, 60, 3, false, 0.1, 0.5, int64(0))
	f.Add(10, 86400, 10, false, 0.5, 0.999, int64(time.Hour))
	f.Add(2, 1, 1, true, 0.0, 0.0, int64(-1))
	f.Fuzz(func(t *testing.T, n, interval, attempts int, linear bool, jitter, rnd float64, after int64) {
		r := RetryStrategy{Attempts: attempts, Interval: time.Duration(interval) * time.Second}
		if linear {
			r.Type = Linear
		}
		if r.Validate() != nil || !(jitter >= 0 && jitter <= 0.5) || !(rnd >= 0 && rnd < 1) {
			t.Skip()
		}
		wait, ok := nextWait(r, n, jitter, rnd, time.Duration(after))
		if inBudget := n >= 1 && n <= r.WithDefaults().Attempts; ok != inBudget {
			t.Fatalf("retry %d of %v: %v", n, r, ok)
		}
		if !ok {
			return
		}
		if least := time.Second / 2; wait < least || wait < time.Duration(after) {
			t.Fatalf("waits %v", wait)
		}
		if most := MaxRetryInterval * 3 / 2; wait > most && wait != time.Duration(after) {
			t.Fatalf("waits %v", wait)
		}
	})
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 23, 18, 0, 0, 0, time.UTC)
	const limit = time.Hour
	for _, tt := range []struct {
		name   string
		status int
		value  string
		want   time.Duration
	}{
		{"seconds on 503", 503, "120", 2 * time.Minute},
		{"seconds on 429", 429, "120", 2 * time.Minute},
		{"seconds, with space around them", 503, " 7 ", 7 * time.Second},
		{"not on another status", 500, "120", 0},
		{"not on a redirect", 301, "120", 0},
		{"none", 503, "", 0},
		{"zero", 503, "0", 0},
		{"capped", 503, "3601", limit},
		{"more than 64 bits", 503, "99999999999999999999", limit},
		{"more than a duration holds", 503, "9223372036854775807", limit},
		{"negative", 503, "-1", 0},
		{"with a sign", 503, "+1", 0},
		{"a fraction", 503, "1.5", 0},
		{"words", 503, "soon", 0},
		{"a date", 503, "Mon, 23 Nov 2026 18:02:00 GMT", 2 * time.Minute},
		{"a date of RFC 850", 429, "Monday, 23-Nov-26 18:02:00 GMT", 2 * time.Minute},
		{"a date of asctime", 429, "Mon Nov 23 18:02:00 2026", 2 * time.Minute},
		{"a date in the past", 503, "Mon, 23 Nov 2026 17:00:00 GMT", 0},
		{"a date beyond the cap", 503, "Tue, 24 Nov 2026 18:00:00 GMT", limit},
		{"a date beyond every duration", 503, "Fri, 31 Dec 9999 23:59:59 GMT", limit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(retryAfter(tt.status, http.Header{"Retry-After": {tt.value}}, now, limit), tt.want)
		})
	}
	is := is.New(t)
	is.Equal(retryAfter(503, http.Header{"Retry-After": {"120"}}, now, 0), time.Duration(0)) // a limit of 0 ignores it
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120", int64(1763920800))
	f.Add("Mon, 23 Nov 2026 18:02:00 GMT", int64(1763920800))
	f.Add("99999999999999999999", int64(0))
	f.Add("Fri, 31 Dec 9999 23:59:59 GMT", int64(-1<<40))
	f.Fuzz(func(t *testing.T, value string, now int64) {
		const limit = time.Hour
		got := retryAfter(503, http.Header{"Retry-After": {value}}, time.Unix(now, 0), limit)
		if got < 0 || got > limit {
			t.Fatalf("%q asks for %v", value, got)
		}
	})
}

func TestRetryStrategyValidate(t *testing.T) {
	for _, tt := range []struct {
		name         string
		strategy     RetryStrategy
		path, detail string // "": valid
	}{
		{"the zero value", RetryStrategy{}, "", ""},
		{"the most", RetryStrategy{Attempts: 10, Interval: 24 * time.Hour, Type: Linear}, "", ""},
		{"the least", RetryStrategy{Attempts: 1, Interval: time.Second, Type: Exponential}, "", ""},
		{"too many attempts", RetryStrategy{Attempts: 11}, "attempts", "must be 1 to 10, was 11"},
		{"negative attempts", RetryStrategy{Attempts: -1}, "attempts", "must be 1 to 10, was -1"},
		{"too long an interval", RetryStrategy{Interval: 24*time.Hour + time.Second}, "interval", "must be whole seconds, 1 to 86400, was 86401"},
		{"a negative interval", RetryStrategy{Interval: -time.Second}, "interval", "must be whole seconds, 1 to 86400, was -1"},
		{"half a second", RetryStrategy{Interval: time.Second / 2}, "interval", "must be whole seconds, 1 to 86400, was 0.5"},
		{"a second and a half", RetryStrategy{Interval: 3 * time.Second / 2}, "interval", "must be whole seconds, 1 to 86400, was 1.5"},
		{"an unknown type", RetryStrategy{Type: "Linear"}, "type", `must be exponential or linear, was "Linear"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			err := tt.strategy.Validate()
			is.Equal(err == nil, tt.detail == "")
			is.Equal(detailOf(err, tt.path), tt.detail)
		})
	}
}

func TestRetryStrategyApply(t *testing.T) {
	is := is.New(t)
	stand := RetryStrategy{Attempts: 5, Interval: time.Minute, Type: Linear}
	got, err := stand.Apply(RetryStrategyUpdate{})
	is.NoErr(err)
	is.Equal(got, stand)
	got, err = stand.Apply(RetryStrategyUpdate{Attempts: new(7), Interval: new(time.Hour), Type: new(Exponential)})
	is.NoErr(err)
	is.Equal(got, RetryStrategy{7, time.Hour, Exponential})
	got, err = RetryStrategy{}.Apply(RetryStrategyUpdate{Attempts: new(1)}) // one that begins has the defaults
	is.NoErr(err)
	is.Equal(got, RetryStrategy{1, DefaultRetryInterval, Exponential})

	// An explicit zero is a fault, not a default; every fault is told.
	_, err = stand.Apply(RetryStrategyUpdate{Attempts: new(0), Interval: new(time.Duration(0)), Type: new(RetryType(""))})
	is.Equal(detailOf(err, "attempts"), "must be 1 to 10, was 0")
	is.Equal(detailOf(err, "interval"), "must be whole seconds, 1 to 86400, was 0")
	is.Equal(detailOf(err, "type"), `must be exponential or linear, was ""`)
	_, err = stand.Apply(RetryStrategyUpdate{Attempts: new(11)})
	is.Equal(detailOf(err, "attempts"), "must be 1 to 10, was 11")
	is.Equal(stand, RetryStrategy{Attempts: 5, Interval: time.Minute, Type: Linear}) // as it was
}
