package faultstore

import (
	"context"

	"github.com/divertedevents/diverted"
)

// The optional powers are those of the inner store. One that it has not is an ErrUnsupported.

var (
	_ diverted.BulkStore      = (*Store)(nil)
	_ diverted.StatsStore     = (*Store)(nil)
	_ diverted.RetentionStore = (*Store)(nil)
)

// power makes a call of an optional power of the inner store, or has it go wrong.
func power[P, T any](ctx context.Context, s *Store, method string, call func(inner P) (T, error)) (T, error) {
	return do(ctx, s, method, func() (T, error) {
		inner, ok := s.inner.(P)
		if !ok {
			var none T
			return none, diverted.ErrUnsupported
		}
		return call(inner)
	})
}

func (s *Store) ResendAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	return power(ctx, s, "ResendAll", func(inner diverted.BulkStore) (diverted.BulkResult, error) {
		return inner.ResendAll(ctx, request)
	})
}

func (s *Store) DeleteAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	return power(ctx, s, "DeleteAll", func(inner diverted.BulkStore) (diverted.BulkResult, error) {
		return inner.DeleteAll(ctx, request)
	})
}

func (s *Store) DivertAll(ctx context.Context, request diverted.BulkRequest) (diverted.BulkResult, error) {
	return power(ctx, s, "DivertAll", func(inner diverted.BulkStore) (diverted.BulkResult, error) {
		return inner.DivertAll(ctx, request)
	})
}

func (s *Store) Stats(ctx context.Context, query diverted.StatsQuery) (diverted.Stats, error) {
	return power(ctx, s, "Stats", func(inner diverted.StatsStore) (diverted.Stats, error) { return inner.Stats(ctx, query) })
}

func (s *Store) Purge(ctx context.Context, request diverted.PurgeRequest) (diverted.PurgeResult, error) {
	return power(ctx, s, "Purge", func(inner diverted.RetentionStore) (diverted.PurgeResult, error) {
		return inner.Purge(ctx, request)
	})
}

func (s *Store) Expunge(ctx context.Context, key diverted.Key) error {
	_, err := power(ctx, s, "Expunge", func(inner diverted.RetentionStore) (struct{}, error) {
		return struct{}{}, inner.Expunge(ctx, key)
	})
	return err
}
