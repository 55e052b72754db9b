// Package powertest cuts the power of an SQLite database, as far as a test can: [Record] has SQLite write down
// what it does to its files, in order and with the data, and [Recording.Cut] makes the files that a cut at any
// moment of it could have left: what was synced by then, and by chance some of what was not, in pieces.
//
// What it does not model: the entries of a directory, which appear and vanish at once; disks that say that they
// have synced and have not; damage to what was not being written. The shared memory file (-shm) is left out,
// since a machine that starts again has none.
package powertest

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
)

// Recording is what SQLite did to the files of a directory, and notes of what happened meanwhile, in one order.
type Recording struct {
	dir string

	mu      sync.Mutex
	entries []entry
}

// entry is one thing that happened to a file; or, without a file, a note.
type entry struct {
	file   string
	change change
	offset int64  // of the data; of a truncation, the new size
	data   []byte // owned
	before int    // a sync is of all entries before this one
	note   any
}

type change int

const (
	written change = iota + 1
	truncated
	synced
	removed
)

// Note adds a note.
func (r *Recording) Note(note any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entry{note: note})
}

// Len returns the number of entries so far.
func (r *Recording) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.entries)
}

// Notes returns the notes among the first n entries.
func (r *Recording) Notes(n int) []any {
	r.mu.Lock()
	defer r.mu.Unlock()
	var notes []any
	for _, e := range r.entries[:n] {
		if e.note != nil {
			notes = append(notes, e.note)
		}
	}
	return notes
}

// perform makes a change and records it, as one step.
func (r *Recording) perform(e entry, change func() bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if change() {
		r.entries = append(r.entries, e)
	}
}

// sync syncs a file and records it. What is written meanwhile may not be part of it.
func (r *Recording) sync(file string, sync func() bool) {
	before := r.Len()
	if !sync() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.entries = append(r.entries, entry{file: file, change: synced, before: before})
}

// Cut is a power cut.
type Cut struct {
	// At is how many entries of the recording there are before it.
	At int
	// Piece is in how many bytes at once the disk writes, Keep which part of the pieces that were not synced it
	// has written all the same.
	Piece int
	Keep  float64
	// Unsynced has no sync done what it said, to show that this would be found.
	Unsynced bool
	Random   *rand.Rand
}

// Cut writes the files that are left into dir.
func (r *Recording) Cut(c Cut, dir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := make(map[string]int) // by file, the entries that are synced
	for _, e := range r.entries[:c.At] {
		if e.change == synced && !c.Unsynced {
			before[e.file] = max(before[e.file], e.before)
		}
	}
	files := make(map[string][]byte)
	for i, e := range r.entries[:c.At] {
		sure := i < before[e.file]
		switch content := files[e.file]; e.change {
		case written:
			files[e.file] = c.write(content, e, sure)
		case truncated:
			if sure || c.Random.Float64() < c.Keep {
				files[e.file] = resize(content, int(e.offset))
			}
		case removed:
			delete(files, e.file)
		}
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// write returns the content with the data in it, or with the pieces of it that the disk has.
func (c Cut) write(content []byte, e entry, sure bool) []byte {
	for at, end := int(e.offset), int(e.offset)+len(e.data); at < end; {
		next := min(end, at-at%c.Piece+c.Piece)
		if sure || c.Random.Float64() < c.Keep {
			if len(content) < next {
				content = resize(content, next)
			}
			copy(content[at:next], e.data[at-int(e.offset):])
		}
		at = next
	}
	return content
}

func resize(content []byte, size int) []byte {
	if size <= len(content) {
		return content[:size:size]
	}
	return append(content, make([]byte, size-len(content))...)
}

// name returns the name of a file that is recorded.
func (r *Recording) name(path string) (name string, ok bool) {
	name, ok = strings.CutPrefix(path, r.dir+string(filepath.Separator))
	return name, ok && !strings.HasSuffix(name, "-shm")
}
