package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/divertedevents/diverted"
)

// Processes tell each other by NOTIFY which webhooks have something due. A note says who sends it, so that
// nobody hears himself, and lists the webhooks' row ids: "1234:17 42". It is a hint, which may get lost: a
// process looks at everything every second in any case.

const (
	// newsPause is the least time between two notes, and between two that the host's transactions carry:
	// PostgreSQL lets one transaction that notifies commit at a time, and wakes every process that listens.
	newsPause = 25 * time.Millisecond
	// newsIDs bounds a note, whose payload must be less than 8,000 bytes. More become a note of everything.
	newsIDs = 350
	// everything stands for the list of a note.
	everything = "*"
	// listenPing is how often a connection that hears nothing is asked whether it lives.
	listenPing = 30 * time.Second
	// lastBackoff bounds the wait before the next try to listen.
	lastBackoff = 5 * time.Second
)

// note sends a note. It need not survive a crash, so its commit does not wait for the disk.
const (
	noteAsync = `SELECT set_config('synchronous_commit', 'off', true)`
	note      = `SELECT pg_notify($1, $2)`
)

// news are the webhooks that others have to be told of.
type news struct {
	mu    sync.Mutex
	ids   map[int64]bool
	ready chan struct{} // has room for one
}

func (n *news) init() {
	n.ids = make(map[int64]bool)
	n.ready = make(chan struct{}, 1)
}

func (n *news) add(id int64) {
	n.mu.Lock()
	n.ids[id] = true
	n.mu.Unlock()
	select {
	case n.ready <- struct{}{}:
	default:
	}
}

// take returns the list of a note.
func (n *news) take() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	defer clear(n.ids)
	return noteList(n.ids)
}

func noteList(ids map[int64]bool) string {
	if len(ids) > newsIDs {
		return everything
	}
	var b strings.Builder
	for id := range ids {
		if b.Len() > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(strconv.FormatInt(id, 10))
	}
	return b.String()
}

// announce is a goroutine of the store: it tells other processes.
func (s *Store) announce() {
	pause := time.NewTicker(newsPause)
	defer pause.Stop()
	for {
		select {
		case <-s.background.Done():
			return
		case <-s.news.ready:
		}
		s.tell(s.instance, s.news.take())
		select {
		case <-s.background.Done():
			return
		case <-pause.C:
		}
	}
}

// tell sends a note. An error is met by whoever has something to lose; others find the news by themselves.
func (s *Store) tell(from int64, list string) {
	_ = s.batch(s.background, beginTx, func(b *pgx.Batch) {
		b.Queue(noteAsync)
		b.Queue(note, s.schema, fmt.Sprintf("%d:%s", from, list))
	})
}

// carries says whether one of the host's transactions carries a note itself. They would all commit one after the
// other if each did; so one does in newsPause, by a clock that nobody sets, and the others leave theirs in owed.
func (s *Store) carries() bool {
	now, last := int64(time.Since(s.opened)), s.carried.Load()
	return (last == 0 || now-last >= int64(newsPause)) && s.carried.CompareAndSwap(last, now)
}

// announceOwed is a goroutine of the store: it tells of what the host's transactions carried no note of, from nobody, a
// little later, when most of them have committed.
func (s *Store) announceOwed() {
	for {
		select {
		case <-s.background.Done():
			return
		case <-s.owed.ready:
		}
		list := s.owed.take()
		if !s.wait(newsPause) {
			return
		}
		if list != "" {
			s.tell(0, list)
		}
	}
}

// hear takes a note over.
func (s *Store) hear(payload string) {
	from, list, _ := strings.Cut(payload, ":")
	if from == strconv.FormatInt(s.instance, 10) {
		return
	}
	h := &s.hints
	h.mu.Lock()
	for word := range strings.FieldsSeq(list) {
		if id, err := strconv.ParseInt(word, 10, 64); err == nil {
			h.heard[id] = true
		} else {
			h.scan = true
		}
	}
	h.mu.Unlock()
	s.watchers.Tell(diverted.Change{Kind: diverted.ChangeDue})
}

// listen is a goroutine of the store: it hears what others tell, on a connection of its own.
func (s *Store) listen() {
	var backoff time.Duration
	told := false
	for again := false; ; again = true {
		began := time.Now()
		err := s.listenOnce(s.background, again)
		if s.background.Err() != nil {
			return
		}
		if time.Since(began) > lastBackoff {
			backoff, told = 0, false // it was good for a while
		}
		if !told {
			told = true
			s.log.Warn("diverted: the connection that listens is lost; work of other processes is found within a second until it is back", "error", wrap("listen", err))
		}
		backoff = min(max(2*backoff, 50*time.Millisecond), lastBackoff)
		if !s.wait(backoff) {
			return
		}
	}
}

// listenOnce listens until the connection breaks.
func (s *Store) listenOnce(ctx context.Context, again bool) error {
	conn, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		conn.Close(ctx)
	}()
	if _, err := conn.Exec(ctx, `LISTEN `+pgx.Identifier{s.schema}.Sanitize()); err != nil {
		return err
	}
	if again {
		s.hooks.forget()         // this may be a standby that took over, and never had the last changes that this process saw
		s.hear(":" + everything) // what was told meanwhile was not heard
	}
	for {
		waiting, cancel := context.WithTimeout(ctx, listenPing)
		n, err := conn.WaitForNotification(waiting)
		cancel()
		switch {
		case err == nil:
			s.hear(n.Payload)
		case ctx.Err() != nil:
			return ctx.Err()
		case waiting.Err() != nil && !conn.IsClosed():
			alive, cancel := context.WithTimeout(ctx, lastBackoff)
			err := conn.Ping(alive)
			cancel()
			if err != nil {
				return err
			}
		default:
			return err
		}
	}
}

// connect makes a connection as those of the pool.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	pool := s.pool.Config()
	config := pool.ConnConfig
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, config); err != nil {
			return nil, err
		}
	}
	return pgx.ConnectConfig(ctx, config)
}
