package diverted

import (
	"container/heap"
	"iter"
	"slices"
	"sort"

	"github.com/oklog/ulid/v2"
)

// memoryIndex holds values in the order of their locators: a sorted list that is cut into chunks, so that
// adding to and removing from a million of them moves a chunk's worth of memory at most.
type memoryIndex[T interface{ locator() ulid.ULID }] struct {
	chunks [][]T // none is empty
	count  int
}

const memoryChunk = 512

func (x *memoryIndex[T]) len() int { return x.count }

// search returns the place of a locator: where it is, or where it would have to be added.
func (x *memoryIndex[T]) search(locator ulid.ULID) (chunk, at int, found bool) {
	chunk = sort.Search(len(x.chunks), func(i int) bool {
		c := x.chunks[i]
		return c[len(c)-1].locator().Compare(locator) >= 0
	})
	if chunk == len(x.chunks) {
		if chunk == 0 {
			return 0, 0, false
		}
		chunk--
		return chunk, len(x.chunks[chunk]), false
	}
	at, found = slices.BinarySearchFunc(x.chunks[chunk], locator, func(v T, l ulid.ULID) int { return v.locator().Compare(l) })
	return chunk, at, found
}

func (x *memoryIndex[T]) get(locator ulid.ULID) (v T, ok bool) {
	chunk, at, found := x.search(locator)
	if found {
		v = x.chunks[chunk][at]
	}
	return v, found
}

// put adds a value whose locator is not there yet.
func (x *memoryIndex[T]) put(v T) {
	x.count++
	if len(x.chunks) == 0 {
		x.chunks = [][]T{{v}}
		return
	}
	i, at, _ := x.search(v.locator())
	c := x.chunks[i]
	if len(c) == memoryChunk {
		// Locators mostly ascend, and then nothing is moved and every chunk is full.
		cut := at
		if at < memoryChunk {
			cut = memoryChunk / 2
		}
		x.chunks = slices.Insert(x.chunks, i+1, append(make([]T, 0, memoryChunk), c[cut:]...))
		clear(c[cut:])
		x.chunks[i] = c[:cut]
		if at >= cut {
			i, at = i+1, at-cut
		}
	}
	x.chunks[i] = slices.Insert(x.chunks[i], at, v)
}

// remove takes a locator away if it is there.
func (x *memoryIndex[T]) remove(locator ulid.ULID) {
	i, at, found := x.search(locator)
	if !found {
		return
	}
	x.count--
	if x.chunks[i] = slices.Delete(x.chunks[i], at, at+1); len(x.chunks[i]) == 0 {
		x.chunks = slices.Delete(x.chunks, i, i+1)
	}
}

// from yields, in order, the values whose locators are greater than after, without the first offset.
func (x *memoryIndex[T]) from(after ulid.ULID, offset int) iter.Seq[T] {
	return func(yield func(T) bool) {
		if len(x.chunks) == 0 {
			return
		}
		first, at, found := x.search(after)
		if found {
			at++
		}
		for _, c := range x.chunks[first:] {
			c, at = c[at:], 0
			if offset >= len(c) {
				offset -= len(c)
				continue
			}
			for _, v := range c[offset:] {
				if !yield(v) {
					return
				}
			}
			offset = 0
		}
	}
}

// memoryQueue is a heap of deliveries that each know their place in it.
type memoryQueue struct {
	items []*memoryDelivery
	less  func(a, b *memoryDelivery) bool
}

// first returns the first one in order, nil for none.
func (q *memoryQueue) first() *memoryDelivery {
	if len(q.items) == 0 {
		return nil
	}
	return q.items[0]
}

func (q *memoryQueue) add(d *memoryDelivery)    { heap.Push(q, d) }
func (q *memoryQueue) remove(d *memoryDelivery) { heap.Remove(q, d.at) }

// Len and the four methods below implement [heap.Interface].
func (q *memoryQueue) Len() int           { return len(q.items) }
func (q *memoryQueue) Less(i, j int) bool { return q.less(q.items[i], q.items[j]) }
func (q *memoryQueue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].at, q.items[j].at = i, j
}

func (q *memoryQueue) Push(x any) {
	d := x.(*memoryDelivery)
	d.queue, d.at = q, len(q.items)
	q.items = append(q.items, d)
}

func (q *memoryQueue) Pop() any {
	last := len(q.items) - 1
	d := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	d.queue = nil
	return d
}
