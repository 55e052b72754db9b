package console

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/divertedevents/diverted"
)

// chartHeight is the height of the plot, in pixels. Its width is whatever the page has, so that horizontal
// positions are shares of it.
const chartHeight = 160

// mostSeries is how many triggers a chart tells apart; the rest are one.
const mostSeries = 5

// otherTriggers is the name of the rest.
const otherTriggers diverted.Trigger = "other"

// chart shows how many events were diverted over time, by trigger.
type chart struct {
	// Words say it all in a sentence, for those who cannot see it.
	Words string
	// Total counts what was diverted.
	Total  int
	Height int
	Bars   []bar
	Series []series
	// Top and Half are what the upper and the middle line stand for.
	Top, Half int
	Labels    []chartLabel
	Ranges    []chartRange
}

// bar is the events of one span of time.
type bar struct {
	// X and Width are shares of the width.
	X, Width string
	From, To moment
	Total    int
	Segments []segment
}

// segment is the part of a bar that one trigger has.
type segment struct {
	Series, Name string
	Y, Height    string
	Count        int
}

// series is a trigger in the chart.
type series struct {
	// Class is what the style and the pattern of its bars go by.
	Class   string
	Trigger diverted.Trigger
	Count   int
	Share   string
	// Link filters the list by it; empty: it cannot.
	Link string
}

type chartLabel struct{ X, Text, Class string }

// chartRange is a choice of how far back the chart goes.
type chartRange struct {
	Name, Link string
	Current    bool
}

// chartRanges are the choices: how many hours, and how many of them a bar has.
var chartRanges = []struct {
	name        string
	hours, each int
}{{"24 hours", chartHours, 1}, {"7 days", 7 * 24, 6}, {"30 days", 30 * 24, 24}}

// newChart draws the last hours of statistics.
func (c *call) newChart(stats diverted.Stats, hours int) *chart {
	each := 1
	for _, r := range chartRanges {
		if hours >= r.hours {
			each = r.each
		}
	}
	ch := &chart{Height: chartHeight}
	for _, r := range chartRanges {
		query := webhookQuery(c.query.filter(&faults{}), r.hours)
		ch.Ranges = append(ch.Ranges, chartRange{r.name, withQuery(c.webhookLink(), query), r.hours == hours})
	}

	// The bars end with the current hour, or the current share of a day.
	step := time.Duration(each) * time.Hour
	last := c.now.UTC().Truncate(step)
	n := max(hours/each, 1)
	first := last.Add(-time.Duration(n-1) * step)
	counts := make([]map[diverted.Trigger]int, n)
	sums := map[diverted.Trigger]int{}
	for _, hour := range stats.Hours {
		i := int(hour.Hour.Sub(first) / step)
		if hour.Hour.Before(first) || i >= n {
			continue
		}
		if counts[i] == nil {
			counts[i] = map[diverted.Trigger]int{}
		}
		for trigger, k := range hour.Diverted {
			counts[i][trigger] += k
			sums[trigger] += k
			ch.Total += k
		}
	}

	order := byNumber(sums)
	known := order[:min(len(order), mostSeries)]
	if len(order) == mostSeries+1 {
		known = order // one more is as short as "other"
	}
	for i, trigger := range known {
		ch.Series = append(ch.Series, series{Class: "s" + strconv.Itoa(i), Trigger: trigger, Count: sums[trigger],
			Share: percent(sums[trigger], ch.Total), Link: c.listLink(webhookQuery(diverted.DivertedFilter{Trigger: trigger}, hours))})
	}
	if rest := order[len(known):]; len(rest) > 0 {
		sum := 0
		for _, trigger := range rest {
			sum += sums[trigger]
		}
		ch.Series = append(ch.Series, series{Class: "s" + strconv.Itoa(len(known)), Trigger: otherTriggers, Count: sum, Share: percent(sum, ch.Total)})
	}

	ch.scale(counts)
	for i, byTrigger := range counts {
		from := first.Add(time.Duration(i) * step)
		b := bar{X: share(i, n, 0.12), Width: share(1, n, -0.24), From: c.moment(from), To: c.moment(from.Add(step))}
		y := 0
		rest := maps.Clone(byTrigger)
		for _, s := range ch.Series {
			k := byTrigger[s.Trigger]
			if s.Trigger == otherTriggers {
				k = 0
				for _, more := range rest {
					k += more
				}
			}
			delete(rest, s.Trigger)
			if k == 0 {
				continue
			}
			b.Total += k
			top, bottom := ch.y(y+k), ch.y(y)
			b.Segments = append(b.Segments, segment{s.Class, string(s.Trigger), pixels(top), pixels(max(bottom-top, 1)), k})
			y += k
		}
		ch.Bars = append(ch.Bars, b)
		ch.label(i, n, from, each)
	}
	ch.Words = ch.words(rangeName(hours))
	return ch
}

// scale finds what the upper line stands for: the next of 2, 4, 10, 20, 40, … so that half of it is whole too.
func (ch *chart) scale(counts []map[diverted.Trigger]int) {
	most := 0
	for _, byTrigger := range counts {
		sum := 0
		for _, k := range byTrigger {
			sum += k
		}
		most = max(most, sum)
	}
	ch.Top = 4
	for factor := 1; ch.Top < most; factor *= 10 {
		for _, nice := range []int{4, 6, 8, 10, 20} {
			if ch.Top = nice * factor; ch.Top >= most {
				break
			}
		}
	}
	ch.Half = ch.Top / 2
}

// y is the height at which a bar of k events ends.
func (ch *chart) y(k int) float64 { return chartHeight * (1 - float64(k)/float64(ch.Top)) }

// label writes a time below some bars: every third hour or so, the midnights of a week, every fifth day.
func (ch *chart) label(i, n int, from time.Time, each int) {
	text, every := from.Format("15:04"), 3
	switch each {
	case 6:
		text, every = from.Format("Mon 2"), 4
		if from.Hour() != 0 {
			return
		}
	case 24:
		text, every = from.Format("2 Jan"), 5
		if (n-1-i)%every != 0 {
			return
		}
	default:
		if from.Hour()%every != 0 {
			return
		}
	}
	class := "odd"
	if len(ch.Labels)%2 == 0 {
		class = "even"
	}
	ch.Labels = append(ch.Labels, chartLabel{share(i, n, 0.5), text, class})
}

func rangeName(hours int) string {
	for _, r := range chartRanges {
		if r.hours == hours {
			return r.name
		}
	}
	return plural(hours, "hour", "hours")
}

func (ch *chart) words(span string) string {
	if ch.Total == 0 {
		return "Nothing was diverted in the last " + span + "."
	}
	words := fmt.Sprintf("%s diverted in the last %s", plural(ch.Total, "event", "events"), span)
	var parts []string
	for _, s := range ch.Series {
		parts = append(parts, count(s.Count)+" with "+string(s.Trigger))
	}
	return words + ": " + join(parts, " and ") + "."
}

// share is i of n in percent of the width, offset by a share of one.
func share(i, n int, offset float64) string {
	return strconv.FormatFloat(100*(float64(i)+offset)/float64(n), 'f', 2, 64) + "%"
}

func pixels(y float64) string { return strconv.FormatFloat(y, 'f', 1, 64) }

// byNumber are triggers, the most frequent first.
func byNumber(counts map[diverted.Trigger]int) []diverted.Trigger {
	return slices.SortedFunc(maps.Keys(counts), func(a, b diverted.Trigger) int {
		return cmp.Or(counts[b]-counts[a], cmp.Compare(a, b))
	})
}
