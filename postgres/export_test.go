package postgres

import "context"

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
