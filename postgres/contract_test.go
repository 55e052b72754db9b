package postgres_test

import (
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/postgres"
	"github.com/divertedevents/diverted/storetest"
)

func TestPostgresKeepsTheContract(t *testing.T) {
	pool := newPool(t)
	storetest.Run(t, storetest.Harness{
		RealTime: true,
		Parallel: true,
		Open:     func(t *testing.T) diverted.Store { return open(t, pool, newSchema()) },
		Reopen: func(t *testing.T, s diverted.Store) diverted.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, pool, s.(*postgres.Store).Schema())
		},
	})
}
