package diverted

import "time"

// What a call of Accept may add is bounded by what is there. Neither bound costs anything unless it is
// asked for.

// pendingCount is how many deliveries of a webhook are pending. The writer counts on with what it does
// itself; what others do it learns by counting anew.
type pendingCount struct {
	n    int
	seen int64     // sqliteWriter.dataSeen when it was counted
	at   time.Time // when
}

// recount is how long a count stands while other connections write.
const recount = time.Second

// full returns an ErrFull if a request has no room for one delivery more of a webhook.
func (tx *sqliteTx) full(row *sqliteWebhook, r *AcceptRequest) error {
	if r.MaxPending == 0 && r.MaxBytes == 0 {
		return nil
	}
	var pending int
	if r.MaxPending > 0 {
		pending = tx.pendingOf(row.id)
	}
	if r.MaxBytes > 0 && tx.size == 0 {
		var pages, free, size int64
		tx.query1("PRAGMA page_count", nil, &pages)
		tx.query1("PRAGMA freelist_count", nil, &free)
		tx.query1("PRAGMA page_size", nil, &size)
		tx.size = (pages - free) * size
	}
	return r.refuse(pending, tx.size+tx.grown)
}

const countPending = `SELECT count(*) FROM diverted_deliveries INDEXED BY diverted_deliveries_due WHERE webhook = ? AND due IS NOT NULL`

func (tx *sqliteTx) pendingOf(id int64) int {
	c := tx.pending[id]
	if c == nil || c.seen != tx.dataSeen && tx.now.Sub(c.at).Abs() >= recount {
		c = &pendingCount{seen: tx.dataSeen, at: tx.now}
		tx.query1(countPending, []any{id}, &c.n)
		tx.pending[id] = c
	}
	return c.n
}

// count notes how many more deliveries of a webhook are pending.
func (tx *sqliteTx) count(id int64, more int) {
	if c := tx.pending[id]; c != nil {
		c.n += more
	}
}
