package watchers_test

import (
	"testing"

	"github.com/matryer/is"
	"go.uber.org/goleak"

	"github.com/divertedevents/diverted/internal/watchers"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestEachWatcherIsToldInOrderUntilItStops(t *testing.T) {
	is := is.New(t)
	var w watchers.Watchers[int]
	w.Tell(0) // nobody
	var one, two []int
	stop := w.Add(func(n int) { one = append(one, n) })
	w.Add(func(n int) { two = append(two, n) })
	w.Tell(1, 2)
	stop()
	stop() // again does nothing
	w.Tell(3)
	is.Equal(one, []int{1, 2})
	is.Equal(two, []int{1, 2, 3})
}
