package diverted

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// The ranges and defaults of a [RetryStrategy].
const (
	// MaxRetryAttempts is the most retries that a strategy can ask for.
	MaxRetryAttempts = 10
	// DefaultRetryAttempts is the number of retries where a strategy names none.
	DefaultRetryAttempts = 3
	// DefaultRetryInterval is the interval where a strategy names none.
	DefaultRetryInterval = 60 * time.Second
	// MaxRetryInterval is the longest interval, and the longest wait of any strategy.
	MaxRetryInterval = 24 * time.Hour
)

// RetryType says how the waits of a [RetryStrategy] grow.
type RetryType string

// The types of a retry strategy.
const (
	// Exponential doubles each wait: interval, 2·interval, 4·interval, … up to 24 h. It is the default.
	Exponential RetryType = "exponential"
	// Linear waits the same interval each time.
	Linear RetryType = "linear"
)

// RetryStrategy says how often and when a failed delivery is tried again. Its zero value has every
// default: 3 exponential retries from 60 s.
type RetryStrategy struct {
	// Attempts is the number of retries after the first attempt, 1 to 10. 0: 3.
	Attempts int
	// Interval is the wait that the type builds on: whole seconds from 1 s to 24 h. 0: 60 s.
	Interval time.Duration
	// Type is Exponential or Linear. Empty: Exponential.
	Type RetryType
}

// WithDefaults returns the strategy with its zero fields set to their defaults.
func (r RetryStrategy) WithDefaults() RetryStrategy {
	if r.Attempts == 0 {
		r.Attempts = DefaultRetryAttempts
	}
	if r.Interval == 0 {
		r.Interval = DefaultRetryInterval
	}
	if r.Type == "" {
		r.Type = Exponential
	}
	return r
}

// Validate returns nil, or an [InvalidError] that names every fault. Zero fields are valid.
func (r RetryStrategy) Validate() error {
	var f faults
	r = r.WithDefaults()
	if r.Attempts < 1 || r.Attempts > MaxRetryAttempts {
		f.add("attempts", "must be 1 to %d, was %d", MaxRetryAttempts, r.Attempts)
	}
	if r.Interval < time.Second || r.Interval > MaxRetryInterval || r.Interval%time.Second != 0 {
		f.add("interval", "must be whole seconds, 1 to %d, was %s", MaxRetryInterval/time.Second,
			strconv.FormatFloat(r.Interval.Seconds(), 'f', -1, 64))
	}
	if r.Type != Exponential && r.Type != Linear {
		f.add("type", "must be exponential or linear, was %s", quote(string(r.Type)))
	}
	return f.err()
}

// Wait returns the wait before retry n, counted from 1, without jitter; false if the budget has no such
// retry.
func (r RetryStrategy) Wait(n int) (time.Duration, bool) {
	r = r.WithDefaults()
	if n < 1 || n > r.Attempts {
		return 0, false
	}
	wait := r.Interval
	if r.Type != Linear {
		for i := 1; i < n && wait < MaxRetryInterval; i++ {
			wait *= 2
		}
	}
	return min(wait, MaxRetryInterval), true
}

// Schedule returns the wait before each retry, in order, each counted from the failure before it and
// without jitter: 1m0s, 2m0s, 4m0s for the default strategy.
func (r RetryStrategy) Schedule() []time.Duration {
	var waits []time.Duration
	for n := 1; ; n++ {
		wait, ok := r.Wait(n)
		if !ok {
			return waits
		}
		waits = append(waits, wait)
	}
}

// String returns the whole schedule, for a log or a page: "retries at +60 s, +120 s, +240 s", each counted
// from the failure before it.
func (r RetryStrategy) String() string {
	waits := r.Schedule()
	texts := make([]string, len(waits))
	for i, w := range waits {
		texts[i] = fmt.Sprintf("+%d s", w/time.Second)
	}
	return "retries at " + strings.Join(texts, ", ")
}

// RetryStrategyUpdate changes a [RetryStrategy]; fields that are nil change nothing.
type RetryStrategyUpdate struct {
	Attempts *int
	Interval *time.Duration
	Type     *RetryType
}

// Apply returns the strategy after the update, or an [InvalidError]; r stays as it is. An explicit zero
// is an error here, not a default.
func (r RetryStrategy) Apply(u RetryStrategyUpdate) (RetryStrategy, error) {
	var f faults
	r = r.WithDefaults()
	if u.Attempts != nil {
		if r.Attempts = *u.Attempts; r.Attempts == 0 {
			f.add("attempts", "must be 1 to %d, was 0", MaxRetryAttempts)
		}
	}
	if u.Interval != nil {
		if r.Interval = *u.Interval; r.Interval == 0 {
			f.add("interval", "must be whole seconds, 1 to %d, was 0", MaxRetryInterval/time.Second)
		}
	}
	if u.Type != nil {
		if r.Type = *u.Type; r.Type == "" {
			f.add("type", `must be exponential or linear, was ""`)
		}
	}
	f.merge("", r.Validate())
	if err := f.err(); err != nil {
		return RetryStrategy{}, err
	}
	return r, nil
}

// nextWait is the wait before retry n of r: spread by ±jitter (0.1 is 10 %) as rnd in [0,1) says, so
// that retries of many deliveries do not come all at once, and never shorter than retryAfter.
func nextWait(r RetryStrategy, n int, jitter, rnd float64, retryAfter time.Duration) (time.Duration, bool) {
	wait, ok := r.Wait(n)
	if !ok {
		return 0, false
	}
	wait = time.Duration(float64(wait) * (1 + jitter*(2*rnd-1)))
	return max(wait, retryAfter), true
}

// retryAfter reads the Retry-After of an answer with status 429 or 503: seconds, or an HTTP date
// (RFC 9110, section 10.2.3), counted from now and at most limit. It is 0 where there is none, where it
// is malformed or in the past, and for every other status.
func retryAfter(status int, header http.Header, now time.Time, limit time.Duration) time.Duration {
	if status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return 0
	}
	value := strings.TrimSpace(header.Get("Retry-After"))
	if value == "" {
		return 0
	}
	if strings.Trim(value, "0123456789") == "" {
		seconds, err := strconv.ParseInt(value, 10, 64)
		if err != nil || seconds > math.MaxInt64/int64(time.Second) {
			return limit // more than any clock holds
		}
		return min(time.Duration(seconds)*time.Second, limit)
	}
	at, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	return min(max(at.Sub(now), 0), limit)
}
