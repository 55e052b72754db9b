package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"time"

	"github.com/mikestefanello/backlite"
)

// backlite is tuned: its dispatcher looks for free workers every 100 ms while there are none, so that 64 of
// them are bound to 640 tasks a second. More than 1,000 are no faster, nor are more connections.
const (
	backliteWorkers = 1000
	backliteConns   = 1
)

// backlitePost is a task: a message to post.
type backlitePost struct {
	Body json.RawMessage `json:"body"`
}

func (backlitePost) Config() backlite.QueueConfig {
	return backlite.QueueConfig{Name: "post", MaxAttempts: 10, Timeout: 15 * time.Second, Backoff: time.Minute}
}

func openBacklite(p *probe, work func(ctx context.Context, task backlitePost) error) (*sql.DB, *backlite.Client, error) {
	db, err := openDB(p, "backlite.db", backliteConns, "")
	if err != nil {
		return nil, nil, err
	}
	client, err := backlite.NewClient(backlite.ClientConfig{DB: db, NumWorkers: backliteWorkers, ReleaseAfter: 10 * time.Minute})
	if err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	if err := client.Install(); err != nil {
		return nil, nil, errors.Join(err, db.Close())
	}
	client.Register(backlite.NewQueue(work))
	return db, client, nil
}

// backliteAdd adds one task a call, from one goroutine.
func backliteAdd(p *probe) error {
	db, client, err := openBacklite(p, func(context.Context, backlitePost) error { return nil })
	if err != nil {
		return err
	}
	defer db.Close()
	all, err := bodies(p.count(10_000))
	if err != nil {
		return err
	}
	return p.rate(len(all), func() error {
		for _, body := range all {
			if _, err := client.Add(backlitePost{body}).Ctx(p.ctx).Save(); err != nil {
				return err
			}
		}
		return nil
	})
}

// backliteWork posts what was added before, until all are deleted.
func backliteWork(p *probe) error {
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
	poster := newPoster(backliteWorkers)
	db, client, err := openBacklite(p, func(ctx context.Context, task backlitePost) error {
		err := poster.post(ctx, r.url+pathOK, task.Body)
		if err == nil {
			posted.count()
		}
		return err
	})
	if err != nil {
		return err
	}
	defer db.Close()
	tasks := make([]backlite.Task, len(all))
	for i := range all {
		tasks[i] = backlitePost{all[i]}
	}
	if _, err := client.Add(tasks...).Ctx(p.ctx).Save(); err != nil {
		return err
	}
	err = p.rate(len(all), func() error {
		client.Start(p.ctx)
		if err := posted.wait(p); err != nil {
			return err
		}
		return untilNone(p, db, "SELECT EXISTS (SELECT 1 FROM backlite_tasks)")
	})
	ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
	defer cancel()
	client.Stop(ctx)
	return err
}
