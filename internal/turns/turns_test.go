package turns_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/turns"
)

var (
	now  = time.Date(2026, 11, 23, 17, 58, 0, 0, time.UTC)
	anna = uuid.MustParse("018f0000-0000-7000-8000-00000000000a")
	bert = uuid.MustParse("018f0000-0000-7000-8000-00000000000b")
)

// round runs one round of at most most turns, where every webhook has work[k] deliveries due and takes
// share of them at a turn, and returns who had the turns.
func round(t *turns.Turns[string], now time.Time, work map[string]int, share, most int) string {
	var order []string
	taken := map[string]int{}
	t.Round(now, func(k string) turns.Answer {
		if len(order) == most {
			return turns.Stop
		}
		order = append(order, k)
		if taken[k] += share; taken[k] < work[k] {
			return turns.More
		}
		return turns.Idle
	})
	return strings.Join(order, " ")
}

func TestTenantsTakeTurnsAndWithinThemTheirWebhooks(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	for _, k := range []string{"a1", "a2", "a3"} {
		order.Ready(anna, k)
	}
	order.Ready(bert, "b1")
	work := map[string]int{"a1": 2, "a2": 2, "a3": 2, "b1": 4}

	is.Equal(round(&order, now, work, 1, 100), "a1 b1 a2 b1 a3 b1 a1 b1 a2 a3")
	is.Equal(order.Len(), 0)
	is.Equal(round(&order, now, work, 1, 100), "") // idle webhooks are forgotten
}

func TestTheNextRoundGoesOnWhereTheLastOneEnded(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	work := map[string]int{}
	for _, k := range []string{"a1", "a2", "a3"} {
		order.Ready(anna, k)
		work[k] = 100
	}
	is.Equal(round(&order, now, work, 8, 2), "a1 a2")
	is.Equal(round(&order, now, work, 8, 2), "a3 a1")
	is.Equal(round(&order, now, work, 8, 4), "a2 a3 a1 a2")
}

func TestAWebhookWithoutRoomIsAskedOncePerRoundAndStaysReady(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "full")
	order.Ready(anna, "free")
	for range 3 {
		asked, taken := 0, 0
		order.Round(now, func(k string) turns.Answer {
			if k == "full" {
				asked++
				order.Ready(anna, "full") // more of it arrives
				return turns.NoRoom
			}
			if taken++; taken == 5 {
				return turns.Stop
			}
			return turns.More
		})
		is.Equal(asked, 1)
		is.Equal(taken, 5)
		is.Equal(order.Len(), 2)
	}
}

func TestATenantWithoutRoomAtManyWebhooksTakesNoMoreThanItsTurns(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	for _, k := range []string{"a1", "a2", "a3", "a4"} {
		order.Ready(anna, k)
	}
	order.Ready(bert, "b1")
	var got []string
	order.Round(now, func(k string) turns.Answer {
		if len(got) == 4 {
			return turns.Stop
		}
		got = append(got, k)
		if k == "b1" {
			return turns.More
		}
		return turns.NoRoom // took its one place
	})
	is.Equal(got, []string{"a1", "b1", "a2", "b1"})
}

func TestAWebhookIsReadyWhenItsTimeComes(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.At(anna, "later", now.Add(time.Hour))
	order.At(anna, "soon", now.Add(time.Minute))
	order.At(anna, "later", now.Add(2*time.Hour)) // the earliest counts

	next, ok := order.NextDue(now)
	is.True(ok)
	is.Equal(next, now.Add(time.Minute))
	is.Equal(round(&order, now, nil, 1, 100), "")

	is.True(!order.IsReady(now, "soon"))
	is.True(order.IsReady(now.Add(time.Minute), "soon")) // whether or not a round has noticed it yet
	_, ok = order.NextDue(now.Add(time.Minute))
	is.True(ok)
	is.True(order.IsReady(now, "soon"))
	is.True(!order.IsReady(now, "never seen"))
	is.Equal(round(&order, now.Add(time.Minute), nil, 1, 100), "soon")
	is.True(!order.IsReady(now, "soon"))
	next, ok = order.NextDue(now.Add(time.Minute))
	is.True(ok)
	is.Equal(next, now.Add(time.Hour))

	order.At(anna, "later", now.Add(30*time.Minute))
	next, _ = order.NextDue(now)
	is.Equal(next, now.Add(30*time.Minute))

	_, ok = order.NextDue(now.Add(time.Hour)) // its time has come: it is ready, and no more waited for
	is.True(!ok)
	is.Equal(order.Len(), 1)
	is.Equal(round(&order, now.Add(time.Hour), nil, 1, 100), "later")
}

func TestATimeToldDuringATurnOutlivesAnIdleAnswer(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "a1")
	order.Round(now, func(k string) turns.Answer {
		order.At(anna, k, now.Add(time.Minute))
		return turns.Idle
	})
	is.Equal(order.Len(), 0)
	next, ok := order.NextDue(now)
	is.True(ok)
	is.Equal(next, now.Add(time.Minute))
}

func TestAWebhookThatRestsKeepsItsTime(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	order.At(anna, "a1", now.Add(time.Minute))
	order.Rest("a1")
	order.Rest("a1") // again does nothing
	order.Rest("never seen")
	is.Equal(order.Len(), 1)
	is.Equal(round(&order, now, nil, 1, 100), "a2")
	is.Equal(round(&order, now.Add(time.Minute), nil, 1, 100), "a1")

	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	order.Rest("a1")
	order.Ready(anna, "a1") // it has more: its turn comes after those of the others
	is.Equal(round(&order, now, nil, 1, 100), "a2 a1")
}

func TestADroppedWebhookHasNoTurn(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	order.At(anna, "a2", now.Add(time.Minute))
	order.At(bert, "b1", now.Add(time.Minute))
	order.Drop("a2")
	order.Drop("b1")
	order.Drop("never seen")
	order.At(bert, "b2", time.Time{}) // a time that is over
	order.Drop("b2")
	_, ok := order.NextDue(now)
	is.True(!ok)
	is.Equal(round(&order, now, nil, 1, 100), "a1")

	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	var got []string
	order.Round(now, func(k string) turns.Answer { // also one that drops itself, or the one after it
		got = append(got, k)
		order.Drop("a1")
		order.Drop("a2")
		return turns.More
	})
	is.Equal(got, []string{"a1"})
	is.Equal(order.Len(), 0)
}

func TestAWebhookThatIsDroppedAndReadyAgainWithinARoundIsNotLost(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	order.Round(now, func(k string) turns.Answer {
		if k == "a2" {
			order.Drop("a1") // set aside by then
			order.Ready(anna, "a1")
			return turns.Stop
		}
		return turns.NoRoom
	})
	is.Equal(order.Len(), 2)
	is.Equal(round(&order, now, nil, 1, 100), "a2 a1")
}

func TestAPanicDuringATurnLosesNoWebhook(t *testing.T) {
	is := is.New(t)
	var order turns.Turns[string]
	order.Ready(anna, "a1")
	order.Ready(anna, "a2")
	func() {
		defer func() { is.True(recover() != nil) }()
		order.Round(now, func(k string) turns.Answer {
			if k == "a2" {
				panic("the caller's")
			}
			return turns.NoRoom
		})
	}()
	got := strings.Fields(round(&order, now, nil, 1, 100))
	slices.Sort(got)
	is.Equal(got, []string{"a1", "a2"})
}

// BenchmarkRound claims one delivery while 10,000 webhooks wait for a retry in an hour.
func BenchmarkRound(b *testing.B) {
	var order turns.Turns[int]
	for k := range 10_000 {
		order.At(anna, k, now.Add(time.Hour))
	}
	for b.Loop() {
		order.Ready(bert, -1)
		order.Round(now, func(int) turns.Answer { return turns.Idle })
	}
}
