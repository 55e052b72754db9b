package main

import (
	"context"
	"database/sql"
	_ "embed"
	"errors"
	"time"

	"maragu.dev/goqite"
	"maragu.dev/goqite/jobs"
)

//go:embed peers_goqite.sql
var goqiteSchema string

// goqite is tuned: its runner polls every millisecond and has room for as many jobs as the bare loop. It
// receives one message at a time, so that more room changes nothing; more connections make it slower.
const (
	goqitePoll  = time.Millisecond
	goqiteJob   = "post"
	goqiteConns = 1
)

func openGoqite(p *probe) (*sql.DB, *goqite.Queue, error) {
	db, err := openDB(p, "goqite.db", goqiteConns, goqiteSchema)
	if err != nil {
		return nil, nil, err
	}
	return db, goqite.New(goqite.NewOpts{DB: db, Name: "webhooks", Timeout: time.Minute}), nil
}

// goqiteSend sends one message a call, from one goroutine.
func goqiteSend(p *probe) error {
	db, queue, err := openGoqite(p)
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
			if err := queue.Send(p.ctx, goqite.Message{Body: body}); err != nil {
				return err
			}
		}
		return nil
	})
}

// goqiteWork posts what was sent before, by goqite's own runner of jobs, until all are deleted.
func goqiteWork(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	all, err := bodies(p.count(10_000))
	if err != nil {
		return err
	}
	return goqiteRun(p, r.url+pathOK, all, 0, func(work func() error) error { return p.rate(len(all), work) })
}

// goqiteLate posts messages that are due at one moment, since they were sent with a delay: goqite has no
// retries that wait. The moment is that of the last of them, in its favour.
func goqiteLate(p *probe) error {
	r, err := startReceiver(p.ctx)
	if err != nil {
		return err
	}
	defer r.stop()
	all, err := bodies(p.count(1_000))
	if err != nil {
		return err
	}
	const delay = 2 * time.Second
	moments := make([]time.Time, len(all))
	if err := goqiteRun(p, r.url+pathRecord, all, delay, func(work func() error) error {
		for i := range moments {
			moments[i] = time.Now().Add(delay)
		}
		_, err := p.timed(work)
		return err
	}); err != nil {
		return err
	}
	times, err := r.since(moments)
	if err != nil {
		return err
	}
	p.setTimes(times)
	return nil
}

// goqiteRun sends the messages in one transaction, and then has measure call work, which returns when all are
// posted.
func goqiteRun(p *probe, url string, all [][]byte, delay time.Duration, measure func(work func() error) error) error {
	db, queue, err := openGoqite(p)
	if err != nil {
		return err
	}
	defer db.Close()
	tx, err := db.BeginTx(p.ctx, nil)
	if err != nil {
		return err
	}
	for _, body := range all {
		if _, err := jobs.CreateTx(p.ctx, tx, queue, goqiteJob, goqite.Message{Body: body, Delay: delay}); err != nil {
			return errors.Join(err, tx.Rollback())
		}
	}
	if err := tx.Commit(); err != nil {
		return err
	}

	posted := newCountdown(len(all))
	client := newPoster(inFlight)
	runner := jobs.NewRunner(jobs.NewRunnerOpts{Limit: inFlight, PollInterval: goqitePoll, Queue: queue, Extend: time.Minute})
	runner.Register(goqiteJob, func(ctx context.Context, body []byte) error {
		err := client.post(ctx, url, body)
		if err == nil {
			posted.count()
		}
		return err
	})
	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan struct{})
	err = measure(func() error {
		go func() {
			defer close(ended)
			runner.Start(ctx)
		}()
		if err := posted.wait(p); err != nil {
			return err
		}
		return untilNone(p, db, "SELECT EXISTS (SELECT 1 FROM goqite)")
	})
	cancel()
	<-ended
	return err
}
