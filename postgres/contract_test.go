package postgres_test

import (
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/storetest"
)

func TestPostgresKeepsTheContract(t *testing.T) {
	pool := newPool(t)
	names := make(map[diverted.Store]string)
	storetest.Run(t, storetest.Harness{
		RealTime: true,
		Open: func(t *testing.T) diverted.Store {
			schema := newSchema()
			s := open(t, pool, schema)
			names[s] = schema
			return s
		},
		Reopen: func(t *testing.T, s diverted.Store) diverted.Store {
			schema := names[s]
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			again := open(t, pool, schema)
			names[again] = schema
			return again
		},
	})
}
