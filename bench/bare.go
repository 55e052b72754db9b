package main

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// The bare loops do what cannot be left out, and nothing else: they are the limit.

// inFlight is how many requests are under way at once where the number is not the library's own.
const inFlight = 64

// barePost posts from 64 goroutines over connections that are kept alive, and stores nothing.
func barePost(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	all, err := bodies(p.count(100_000))
	if err != nil {
		return err
	}
	client := newPoster(inFlight)
	return p.rate(len(all), func() error {
		return each(inFlight, len(all), func(i int) error { return client.post(p.ctx, r.url+pathOK, all[i]) })
	})
}

// poster posts as a careful programmer would: connections are kept alive, and answers are read to the end.
// The peers post with it too.
type poster struct{ client http.Client }

func newPoster(inFlight int) *poster {
	return &poster{http.Client{Transport: &http.Transport{
		MaxIdleConns: inFlight, MaxIdleConnsPerHost: inFlight, DisableCompression: true,
	}}}
}

func (p *poster) post(ctx context.Context, url string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := p.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the receiver answered %s", res.Status)
	}
	return nil
}

// each calls f for 0 to n-1 from a number of goroutines, until one fails.
func each(goroutines, n int, f func(i int) error) error {
	var (
		group sync.WaitGroup
		next  atomic.Int64
		mu    sync.Mutex
		fault error
	)
	for range goroutines {
		group.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := f(i); err != nil {
					mu.Lock()
					fault = errors.Join(fault, err)
					mu.Unlock()
					next.Store(int64(n))
					return
				}
			}
		})
	}
	group.Wait()
	return fault
}

// sqliteOptions are those that diverted.OpenSQLite opens its database with. All peers get them too.
const sqliteOptions = "?_txlock=immediate&_pragma=busy_timeout(5000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)"

// openDB opens a new database with a pool of this many connections.
func openDB(p *probe, name string, connections int, schema string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", "file:"+p.path(name)+sqliteOptions)
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	if _, err := db.ExecContext(p.ctx, schema); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

// untilNone returns when the query, which asks whether there is anything left to settle, answers no.
func untilNone(p *probe, db *sql.DB, query string) error {
	for {
		var left bool
		if err := db.QueryRowContext(p.ctx, query).Scan(&left); err != nil || !left {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// bareInsert32 inserts rows with the key and the index that a queue cannot do without, 32 a transaction.
func bareInsert32(p *probe) error {
	db, err := openDB(p, "bare.db", 1, `
		CREATE TABLE deliveries (id INTEGER PRIMARY KEY, webhook INTEGER, event BLOB, due INTEGER, body BLOB) STRICT;
		CREATE UNIQUE INDEX deliveries_key ON deliveries (webhook, event);
		CREATE INDEX deliveries_due ON deliveries (webhook, due);`)
	if err != nil {
		return err
	}
	defer db.Close()
	all := events(p.count(100_000))
	encoded := make([][]byte, len(all))
	for i := range all {
		if encoded[i], err = all[i].Encode(); err != nil {
			return err
		}
	}
	conn, err := db.Conn(p.ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	statements := map[string]*sql.Stmt{}
	exec := func(query string, args ...any) error {
		s, prepared := statements[query]
		if !prepared {
			if s, err = conn.PrepareContext(p.ctx, query); err != nil {
				return err
			}
			statements[query] = s
		}
		_, err := s.ExecContext(context.Background(), args...) // no goroutine that waits for the context's end
		return err
	}
	defer func() {
		for _, s := range statements {
			s.Close()
		}
	}()
	return p.rate(len(all), func() error {
		for i := 0; i < len(all); {
			if err := exec("BEGIN IMMEDIATE"); err != nil {
				return err
			}
			for range min(32, len(all)-i) {
				if err := exec("INSERT INTO deliveries (webhook, event, due, body) VALUES (?, ?, ?, ?)", 1, all[i].Locator[:], 0, encoded[i]); err != nil {
					return err
				}
				i++
			}
			if err := exec("COMMIT"); err != nil {
				return err
			}
		}
		return nil
	})
}
