package diverted

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

func TestMemoryIndexKeepsTheOrderOfLocators(t *testing.T) {
	is := is.New(t)
	const n = 5000
	rnd := rand.New(rand.NewPCG(1, 2))
	var x memoryIndex[*memoryDelivery]
	var want []ulid.ULID
	check := func() {
		t.Helper()
		is.Equal(x.len(), len(want))
		for _, offset := range []int{0, 1, memoryChunk, len(want) - 1, len(want) + 1} {
			after := ulid.ULID{}
			rest := want
			if len(want) > 10 {
				after, rest = want[9], want[10:]
			}
			var got []ulid.ULID
			for d := range x.from(after, max(offset, 0)) {
				got = append(got, d.event)
			}
			is.True(slices.Equal(got, rest[min(max(offset, 0), len(rest)):]))
		}
	}
	check()
	for i := range n {
		var l ulid.ULID
		l[0], l[1], l[2] = byte(i>>8), byte(i), byte(1) // ascending, as locators mostly are
		if i%3 == 0 {
			l[0] = byte(rnd.IntN(256)) // or anywhere
			l[3] = byte(i)
		}
		if _, found := x.get(l); found {
			continue
		}
		x.put(&memoryDelivery{event: l})
		at, _ := slices.BinarySearchFunc(want, l, ulid.ULID.Compare)
		want = slices.Insert(want, at, l)
	}
	check()
	for len(want) > 0 {
		i := rnd.IntN(len(want))
		x.remove(want[i])
		x.remove(want[i]) // again does nothing
		_, found := x.get(want[i])
		is.True(!found)
		want = slices.Delete(want, i, i+1)
		if len(want)%500 < 2 {
			check()
		}
	}
	is.Equal(len(x.chunks), 0)
}
