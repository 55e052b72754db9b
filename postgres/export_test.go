package postgres

import (
	"context"
	"time"

	"github.com/divertedevents/diverted"
)

// Schema is the store's schema, for the tests.
func (s *Store) Schema() string { return s.schema }

// RememberAtMost has the store remember no more webhooks than that, but for those of one call.
func (s *Store) RememberAtMost(n int) {
	s.hooks.mu.Lock()
	defer s.hooks.mu.Unlock()
	s.hooks.most = n
}

// PurgeDeleted is one look of the goroutine that purges deleted webhooks.
func (s *Store) PurgeDeleted(ctx context.Context) error { return s.purgeAll(ctx) }

// NewsPause is the least time between two notes, for the tests.
const NewsPause = newsPause

// ScanAtOnce has the next refresh, and the claims after it, look at everything, however long the last look took: on a busy
// machine that is seldom done again so soon.
func (s *Store) ScanAtOnce() {
	s.hints.mu.Lock()
	defer s.hints.mu.Unlock()
	s.hints.scanCost, s.hints.floors.of = 0, nil
}

// BeginAtFloor has claims of a webhook begin at its floor for a time, as after a look that took long.
func (s *Store) BeginAtFloor(key diverted.WebhookKey, d time.Duration) {
	id := s.hooks.find(key).id
	s.hints.mu.Lock()
	defer s.hints.mu.Unlock()
	s.hints.floors.of = map[int64]floor{id: {id: 1, next: time.Now().Add(d)}}
}

// HasFloor says whether the last look at everything of a webhook took long.
func (s *Store) HasFloor(key diverted.WebhookKey) bool {
	id := s.hooks.find(key).id
	s.hints.mu.Lock()
	defer s.hints.mu.Unlock()
	_, has := s.hints.floors.of[id]
	return has
}
