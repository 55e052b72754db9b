package diverted_test

import (
	"database/sql"
	"path/filepath"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/storetest"
)

func TestSQLiteKeepsTheContract(t *testing.T) {
	open := func(t *testing.T, path string) diverted.Store {
		s, err := diverted.OpenSQLite(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	paths := make(map[diverted.Store]string)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) diverted.Store {
			path := filepath.Join(t.TempDir(), "webhooks.db")
			s := open(t, path)
			paths[s] = path
			return s
		},
		Reopen: func(t *testing.T, s diverted.Store) diverted.Store {
			path := paths[s]
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open(t, path)
			paths[s] = path
			return s
		},
	})
}

func TestSQLiteInTheHostsDatabaseKeepsTheContract(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) diverted.Store {
			path := filepath.Join(t.TempDir(), "host.db")
			db, err := sql.Open("sqlite", "file:"+path+"?_pragma=journal_mode(WAL)&_pragma=busy_timeout(5000)&_txlock=immediate")
			if err != nil {
				t.Fatal(err)
			}
			s, err := diverted.NewSQLiteStore(t.Context(), db)
			if err != nil {
				t.Fatal(err)
			}
			return hostStore{s, db}
		},
	})
}

// hostStore closes the host's database after the store.
type hostStore struct {
	*diverted.SQLiteStore
	db *sql.DB
}

func (s hostStore) Close() error {
	if err := s.SQLiteStore.Close(); err != nil {
		return err
	}
	return s.db.Close()
}
