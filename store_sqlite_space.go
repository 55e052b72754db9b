package diverted

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

// Rows that are deleted leave free pages in the file, which new rows use first. A peak's worth of them is
// given back to the file system, in small steps while nobody calls: the writer looks after a number of deleted
// rows, and stops when no more than a quarter of the file, or 4 MiB, is free, which the next load can use.
const (
	shrinkAfter = 256  // deleted rows
	shrinkFree  = 1000 // pages of 4 KiB that may stay free
	shrinkShare = 4    // the part of all pages that may: one in this many
	shrinkStep  = 256  // pages that are given back in one transaction

	shrinkQuiet = 25 * time.Millisecond // without a call, before each step
)

// freedRows notes that rows were deleted. A host's database is the host's to shrink.
func (tx *sqliteTx) freedRows(n int64) {
	if tx.own {
		tx.freed += n
	}
}

// shrink gives some free pages back, or notes that there is nothing to do.
func (tx *sqliteTx) shrink() error {
	var free, pages, left int64
	tx.query1("PRAGMA freelist_count", nil, &free)
	tx.query1("PRAGMA page_count", nil, &pages)
	if free <= shrinkFree || free*shrinkShare <= pages {
		tx.freed = 0
		return nil
	}
	// It ends with its last row, not with its first.
	tx.queryAll(fmt.Sprintf("PRAGMA incremental_vacuum(%d)", shrinkStep), nil, func(*sql.Rows) error { return nil })
	tx.shrunk = true
	tx.query1("PRAGMA freelist_count", nil, &left)
	if left >= free {
		tx.freed = 0 // the file was not made with auto_vacuum
	}
	return nil
}

// checkpoint makes the file as short as the database is, which until then only the write-ahead log knows. If
// it fails, or a reader is in its way, one of SQLite's own does it after the next few MiB.
func (w *sqliteWriter) checkpoint() {
	_, _ = w.conn.ExecContext(context.Background(), "PRAGMA wal_checkpoint(PASSIVE)")
}
