package postgres

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgtype"
	"github.com/matryer/is"
)

func TestAFloor(t *testing.T) {
	const webhook, other = 7, 8
	at := func(after time.Duration) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(after) }
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var f floors
		look := func() (floor, bool) { return f.whole(webhook) }

		// A look that takes no time leaves no floor.
		f.looked(webhook, floor{id: 40}, false, at(0), true, dearLook)
		low, whole := look()
		is.True(whole)
		is.Equal(low, floor{})

		// After one that took its time the next begin where it found something, for ten times as long.
		f.looked(webhook, floor{id: 40}, false, at(0), true, dearLook+time.Second)
		low, whole = look()
		is.True(!whole)
		is.Equal(low.id, int64(40))
		is.Equal(low.due, at(0)) // it had come to what waits for no time, so no wait was over
		_, whole = f.whole(other)
		is.True(whole)

		// They rise, however long they take, and wait no longer for that.
		f.looked(webhook, floor{id: 90}, false, at(time.Second), false, time.Hour)
		low, _ = look()
		is.Equal(low.id, int64(90))
		is.Equal(low.due, at(time.Second))
		f.looked(webhook, floor{due: at(-time.Minute)}, false, at(2*time.Second), false, 0)
		low, _ = look()
		is.Equal(low.id, int64(90)) // waits were found, more than was asked for: nobody came to the others
		is.Equal(low.due, at(-time.Minute))
		time.Sleep(lookEvery*time.Second - 1)
		_, whole = look()
		is.True(!whole)
		time.Sleep(time.Nanosecond)
		_, whole = look()
		is.True(whole)

		// Where nothing is left, it is above what was seen long enough ago that all below it is committed.
		f.saw(200)
		time.Sleep(oldID - 1)
		f.saw(300)
		time.Sleep(time.Nanosecond)
		f.saw(400) // 300 was seen just before
		f.looked(webhook, floor{}, true, at(time.Minute), true, time.Second)
		low, _ = look()
		is.Equal(low.id, int64(90))
		time.Sleep(oldID)
		f.saw(500)
		f.looked(webhook, floor{}, true, at(time.Minute), false, time.Second)
		low, _ = look()
		is.Equal(low.id, int64(300))
		is.Equal(low.due, at(time.Minute))

		// It is half a minute at most.
		f.looked(webhook, floor{}, true, at(time.Minute), true, time.Hour)
		time.Sleep(lookPause - 1)
		_, whole = look()
		is.True(!whole)
		time.Sleep(time.Nanosecond)
		_, whole = look()
		is.True(whole)
		f.looked(webhook, floor{id: 500}, false, at(time.Hour), true, time.Millisecond)
		is.Equal(len(f.of), 0)
	})
}

func TestWhatIsAcceptedIsLookedForThoughNothingWasSeenBefore(t *testing.T) {
	is := is.New(t)
	const webhook = 7
	var f floors
	f.looked(webhook, floor{}, true, time.Now(), true, time.Minute)
	low, whole := f.whole(webhook)
	is.True(!whole)
	is.Equal(low.id, int64(0)) // nobody knows from where on
	f.came(webhook, 41)
	f.came(webhook, 40)
	low, whole = f.whole(webhook)
	is.True(!whole)
	is.Equal(low.from(), int64(40))
	f.planned(webhook, false)
	low, _ = f.whole(webhook)
	is.Equal(low.id, int64(0))
	f.lookBelow(webhook)
	_, whole = f.whole(webhook)
	is.True(whole)
	f.planned(webhook, true)
	f.forget(webhook)
	is.Equal(len(f.of)+len(f.late)+len(f.below), 0)
}

func TestWaitsAreClaimedThoughNobodyCameToWhatIsDueAtOnce(t *testing.T) {
	const webhook = 7
	at := func(after time.Duration) time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC).Add(after) }
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		var f floors
		f.saw(40)
		time.Sleep(oldID)
		f.saw(40)
		time.Sleep(oldID)
		f.saw(40)
		f.looked(webhook, floor{due: at(-time.Hour)}, false, at(0), true, time.Minute)
		low, whole := f.whole(webhook)
		is.True(!whole)
		is.True(low.waits)
		is.Equal(low.since().Time, at(-time.Hour))
		is.Equal(low.from(), int64(math.MaxInt64)) // which is none's
		f.looked(webhook, floor{due: at(-time.Minute)}, false, at(0), false, 0)
		low, whole = f.whole(webhook)
		is.True(!whole)
		is.True(low.waits)
		f.looked(webhook, floor{}, true, at(0), false, 0) // none is left
		_, whole = f.whole(webhook)
		is.True(whole)
		f.looked(webhook, floor{}, true, at(0), true, time.Minute)
		low, whole = f.whole(webhook)
		is.True(!whole)
		is.Equal(low.from(), int64(40))
	})
}

func TestWhatALookFoundFirst(t *testing.T) {
	is := is.New(t)
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	never := pgtype.Timestamptz{InfinityModifier: pgtype.NegativeInfinity, Valid: true}
	var low floor
	is.Equal(low.since(), never)
	low.found(never, 9)
	low.found(never, 7)
	low.found(never, 8)
	is.Equal(low, floor{id: 7})
	for _, d := range []time.Duration{3, 1, 2} {
		low.found(pgtype.Timestamptz{Time: at.Add(d), Valid: true}, 1) // the id of what waited is in no order
	}
	is.Equal(low, floor{id: 7, due: at.Add(1)})
	is.Equal(low.since(), pgtype.Timestamptz{Time: at.Add(1), Valid: true})
}
