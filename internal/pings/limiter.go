// Package pings bounds how often a webhook is pinged by those who ask over HTTP: a ping is a request that a
// stranger aims, so that it must not become a flood.
package pings

import (
	"sync"
	"time"

	"github.com/divertedevents/diverted"
)

// Interval is the least time between two pings of one webhook.
const Interval = 5 * time.Second

// Limiter lets one ping through per webhook and Interval. Its zero value is ready, and safe for concurrent use.
type Limiter struct {
	mu   sync.Mutex
	last map[diverted.WebhookKey]time.Time
}

// Take returns 0 if the webhook may be pinged now, else how long that has to wait.
func (l *Limiter) Take(key diverted.WebhookKey, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if last, ok := l.last[key]; ok && now.Sub(last) < Interval {
		return Interval - now.Sub(last)
	}
	for k, last := range l.last { // those that say nothing any more
		if now.Sub(last) >= Interval {
			delete(l.last, k)
		}
	}
	if l.last == nil {
		l.last = map[diverted.WebhookKey]time.Time{}
	}
	l.last[key] = now
	return 0
}
