package console

import (
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// chartOf draws hours, each as many hours before now as its key says.
func chartOf(hours int, byHour map[int]map[diverted.Trigger]int) *chart {
	now := time.Date(2026, 11, 23, 3, 20, 0, 0, time.UTC)
	c := &call{r: httptest.NewRequest("GET", "/", nil), now: now, root: "./", tenant: uuid.New(), webhook: ulid.Make()}
	var stats diverted.Stats
	for ago := diverted.MaxStatsHours; ago >= 0; ago-- {
		if by := byHour[ago]; by != nil {
			stats.Hours = append(stats.Hours, diverted.HourStats{Hour: now.Truncate(time.Hour).Add(-time.Duration(ago) * time.Hour), Diverted: by})
		}
	}
	return c.newChart(stats, hours)
}

func TestChartPutsEachEventIntoItsBar(t *testing.T) {
	for _, c := range []struct {
		hours, bars int
		ago         map[int]int // the bar, counted from the last, of what was that many hours ago
	}{
		{24, 24, map[int]int{0: 0, 1: 1, 23: 23}},
		{7 * 24, 28, map[int]int{0: 0, 3: 0, 4: 1, 9: 1, 10: 2}}, // bars of six hours; the last began at midnight
		{30 * 24, 30, map[int]int{0: 0, 3: 0, 4: 1, 27: 1, 28: 2}},
	} {
		is := is.New(t)
		for ago, bar := range c.ago {
			ch := chartOf(c.hours, map[int]map[diverted.Trigger]int{ago: {"503": 7}})
			is.Equal(len(ch.Bars), c.bars)
			is.Equal(ch.Total, 7)
			is.Equal(ch.Bars[c.bars-1-bar].Total, 7)
		}
		is.Equal(chartOf(c.hours, map[int]map[diverted.Trigger]int{c.hours + 24: {"503": 7}}).Total, 0) // too long ago
	}
}

func TestChartTellsTriggersApart(t *testing.T) {
	is := is.New(t)
	ch := chartOf(24, map[int]map[diverted.Trigger]int{
		0: {"503": 50, "timeout": 9, "404": 8, "429": 7, "500": 6, "502": 5, "410": 4},
		1: {"503": 100},
	})
	var names []string
	for _, s := range ch.Series {
		names = append(names, string(s.Trigger)+" "+strconv.Itoa(s.Count))
	}
	is.Equal(names, []string{"503 150", "timeout 9", "404 8", "429 7", "500 6", "other 9"})
	is.Equal(ch.Words, "189 events diverted in the last 24 hours: 150 with 503, 9 with timeout, 8 with 404, 7 with 429, 6 with 500 and 9 with other.")
	is.True(strings.HasSuffix(ch.Series[0].Link, "?trigger=503#diverted"))
	is.Equal(ch.Series[5].Link, "")

	last := ch.Bars[23]
	is.Equal(last.Total, 89)
	is.Equal(len(last.Segments), 6)
	sum := 0
	for _, s := range last.Segments {
		sum += s.Count
		y, err := strconv.ParseFloat(s.Y, 64)
		is.NoErr(err)
		is.True(y >= 0 && y <= chartHeight)
	}
	is.Equal(sum, 89)
	is.Equal(len(chartOf(24, map[int]map[diverted.Trigger]int{0: {"503": 1, "500": 1, "404": 1, "429": 1, "410": 1, "502": 1}}).Series), 6) // none is "other"
}

func TestChartsScaleHoldsItsHighestBar(t *testing.T) {
	is := is.New(t)
	for most, top := range map[int]int{0: 4, 1: 4, 4: 4, 5: 6, 7: 8, 11: 20, 21: 40, 99: 100, 101: 200, 999_999: 1_000_000} {
		ch := chartOf(24, map[int]map[diverted.Trigger]int{0: {"503": most}})
		is.Equal(ch.Top, top)
		is.Equal(ch.Half*2, ch.Top)
	}
}

func TestScheduleDrawsEveryAttempt(t *testing.T) {
	is := is.New(t)
	s := newSchedule(diverted.RetryStrategy{})
	is.Equal(s.Words, "When deliveries are attempted: attempt 1 at once, 2 after 1 min, 3 after 3 min and 4 after 7 min")
	var attempts, waits []string
	for _, a := range s.Attempts {
		attempts = append(attempts, a.Name+" "+a.At)
	}
	for _, w := range s.Waits {
		waits = append(waits, w.Text)
	}
	is.Equal(attempts, []string{"1 at once", "2 1 min", "3 3 min", "4 7 min"})
	is.Equal(waits, []string{"+1 min", "+2 min", "+4 min"})
	is.Equal(s.Waits[2].Height, pixels(longestWait))
	for retries, want := range map[int]string{1: "1 2", 3: "1 2 3 4", 5: "1 3 5 6", 6: "1 3 5 7", 8: "1 4 9", 10: "1 4 7 11"} { // on a phone
		var named []string
		for _, a := range newSchedule(diverted.RetryStrategy{Attempts: retries}).Attempts {
			if a.Class != "wide" {
				named = append(named, a.Name)
			}
		}
		is.Equal(strings.Join(named, " "), want)
	}
	s = newSchedule(diverted.RetryStrategy{Attempts: 7})
	is.Equal(s.Attempts[7].At, "2 h 7 min") // not 2 h
	is.Equal(s.Waits[6].Text, "+1 h 4 min")
	is.Equal(len(newSchedule(diverted.RetryStrategy{Attempts: 10, Interval: diverted.MaxRetryInterval}).Attempts), 11)
}
