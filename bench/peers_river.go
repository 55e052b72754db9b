package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

// River is tuned: it fetches as often as it can be told to and has room for many jobs at once. Its driver for
// SQLite asks for a pool of one connection, and more make it slower.
var riverConfig = river.Config{
	FetchCooldown:     time.Millisecond,
	FetchPollInterval: 10 * time.Millisecond,
	Logger:            slog.New(slog.NewTextHandler(io.Discard, nil)),
}

const riverWorkers = 1000

// riverPost is a job: a message to post.
type riverPost struct {
	Body json.RawMessage `json:"body"`
}

func (riverPost) Kind() string { return "post" }

// riverWorker posts.
type riverWorker struct {
	river.WorkerDefaults[riverPost]
	work riverWork
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverPost]) error {
	return w.work(ctx, job)
}

type riverClient[Tx any] struct {
	*river.Client[Tx]
	db   *sql.DB
	pool *pgxpool.Pool // that db is made of; nil for SQLite
}

// aRiver opens a new database and a client on it, which does not run yet.
type aRiver[Tx any] func(p *probe, work riverWork, change func(*river.Config)) (*riverClient[Tx], error)

type riverWork func(ctx context.Context, job *river.Job[riverPost]) error

func riverOnSQLite(p *probe, work riverWork, change func(*river.Config)) (*riverClient[*sql.Tx], error) {
	db, err := openDB(p, "river.db", 1, "")
	if err != nil {
		return nil, err
	}
	return newRiver(p, riversqlite.New(db), db, work, change)
}

// riverOnPostgres has the pool of connections that our store gets.
func riverOnPostgres(p *probe, work riverWork, change func(*river.Config)) (*riverClient[pgx.Tx], error) {
	pool, err := openPool(p.ctx, p.postgres)
	if err != nil {
		return nil, err
	}
	c, err := newRiver(p, riverpgxv5.New(pool), stdlib.OpenDBFromPool(pool), work, change)
	if err != nil {
		pool.Close()
		return nil, err
	}
	c.pool = pool
	return c, nil
}

func newRiver[Tx any](p *probe, driver riverdriver.Driver[Tx], db *sql.DB, work riverWork, change func(*river.Config)) (*riverClient[Tx], error) {
	migrator, err := rivermigrate.New(driver, &rivermigrate.Config{Logger: riverConfig.Logger})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if _, err := migrator.Migrate(p.ctx, rivermigrate.DirectionUp, nil); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	config := riverConfig
	config.Workers = river.NewWorkers()
	river.AddWorker(config.Workers, &riverWorker{work: work})
	config.Queues = map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}}
	if change != nil {
		change(&config)
	}
	client, err := river.NewClient(driver, &config)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return &riverClient[Tx]{Client: client, db: db}, nil
}

// close stops the client, if it runs, and closes its database.
func (c *riverClient[Tx]) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	c.StopAndCancel(ctx)
	c.db.Close()
	if c.pool != nil {
		c.pool.Close()
	}
}

// fill inserts jobs in bulk.
func (c *riverClient[Tx]) fill(ctx context.Context, bodies [][]byte) error {
	const bulk = 1000
	for len(bodies) > 0 {
		n := min(bulk, len(bodies))
		params := make([]river.InsertManyParams, n)
		for i := range params {
			params[i].Args = riverPost{bodies[i]}
		}
		if _, err := c.InsertManyFast(ctx, params); err != nil {
			return err
		}
		bodies = bodies[n:]
	}
	return nil
}

// riverInsert inserts one job a call.
func riverInsert[Tx any](open aRiver[Tx], goroutines int) func(*probe) error {
	return func(p *probe) error {
		c, err := open(p, nil, nil)
		if err != nil {
			return err
		}
		defer c.close()
		all, err := bodies(p.count(10_000))
		if err != nil {
			return err
		}
		return p.rate(len(all), func() error {
			return each(goroutines, len(all), func(i int) error {
				_, err := c.Insert(p.ctx, riverPost{all[i]}, nil)
				return err
			})
		})
	}
}

// riverInsert100 inserts 100 jobs a call, from one goroutine, by the faster of its two ways.
func riverInsert100(p *probe) error {
	c, err := riverOnSQLite(p, nil, nil)
	if err != nil {
		return err
	}
	defer c.close()
	all, err := bodies(p.count(20_000) / 100 * 100)
	if err != nil {
		return err
	}
	return p.rate(len(all), func() error {
		for i := 0; i < len(all); i += 100 {
			params := make([]river.InsertManyParams, 100)
			for j := range params {
				params[j].Args = riverPost{all[i+j]}
			}
			if _, err := c.InsertManyFast(p.ctx, params); err != nil {
				return err
			}
		}
		return nil
	})
}

// riverPosts posts what was inserted before, until all jobs are completed.
func riverPosts[Tx any](open aRiver[Tx]) func(*probe) error {
	return func(p *probe) error {
		r, err := startReceiver(p.ctx)
		if err != nil {
			return err
		}
		defer r.stop()
		all, err := bodies(p.count(10_000))
		if err != nil {
			return err
		}
		posted := newCountdown(len(all))
		client := newPoster(riverWorkers)
		c, err := open(p, func(ctx context.Context, job *river.Job[riverPost]) error {
			err := client.post(ctx, r.url+pathOK, job.Args.Body)
			if err == nil {
				posted.count()
			}
			return err
		}, nil)
		if err != nil {
			return err
		}
		defer c.close()
		if err := c.fill(p.ctx, all); err != nil {
			return err
		}
		return p.rate(len(all), func() error {
			if err := c.Start(p.ctx); err != nil {
				return err
			}
			if err := posted.wait(p); err != nil {
				return err
			}
			return untilNone(p, c.db, "SELECT EXISTS (SELECT 1 FROM river_job WHERE state <> 'completed')")
		})
	}
}

// riverLate has jobs fail at one moment, and retry at one, two seconds later.
func riverLate(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	all, err := bodies(p.count(1_000))
	if err != nil {
		return err
	}
	url := r.url + pathRetry + "?" + strconv.Itoa(len(all))
	posted := newCountdown(len(all))
	client := newPoster(riverWorkers)
	var moment retryMoment
	c, err := riverOnSQLite(p, func(ctx context.Context, job *river.Job[riverPost]) error {
		err := client.post(ctx, url, job.Args.Body)
		if err == nil {
			posted.count()
		}
		return err
	}, func(config *river.Config) { config.RetryPolicy = &moment })
	if err != nil {
		return err
	}
	defer c.close()
	if err := c.fill(p.ctx, all); err != nil {
		return err
	}
	if _, err := p.timed(func() error {
		if err := c.Start(p.ctx); err != nil {
			return err
		}
		return posted.wait(p)
	}); err != nil {
		return err
	}
	moments := make([]time.Time, len(all))
	for i := range moments {
		moments[i] = moment.at
	}
	times, err := r.since(moments)
	if err != nil {
		return err
	}
	p.setTimes(times)
	return nil
}

// retryMoment is a retry policy: every retry is due two seconds after the first failure.
type retryMoment struct {
	once sync.Once
	at   time.Time
}

func (m *retryMoment) NextRetry(*rivertype.JobRow) time.Time {
	m.once.Do(func() { m.at = time.Now().Add(2 * time.Second) })
	return m.at
}
