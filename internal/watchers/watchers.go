// Package watchers holds the functions that want to be told of a store's changes. Stores share it.
package watchers

import "sync"

// Watchers are functions that are told of changes, each of which is a C. The zero value has none, and is safe for
// concurrent use.
type Watchers[C any] struct {
	mu    sync.Mutex
	funcs map[int]func(C)
	next  int
}

// Add adds a function. After stop has returned it is not called.
func (w *Watchers[C]) Add(f func(C)) (stop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.funcs == nil {
		w.funcs = make(map[int]func(C))
	}
	id := w.next
	w.next++
	w.funcs[id] = f
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.funcs, id)
	}
}

// Tell calls every function with each change, in turn.
func (w *Watchers[C]) Tell(changes ...C) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, f := range w.funcs {
		for _, c := range changes {
			f(c)
		}
	}
}
