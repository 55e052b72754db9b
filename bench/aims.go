package main

import "slices"

// figure is a figure of a probe.
type figure struct{ probe, name string }

// aim is one line of the table: a figure of ours, what it is compared with, and what it has to reach.
type aim struct {
	row  int
	what string
	unit string
	ours figure
	// against is what ours is divided by; of several the greatest. Without it ours is held against the bound
	// itself.
	against     []figure
	againstName string
	bound       bound
}

// bound is what the figure, or its ratio to another, has to keep.
type bound struct {
	kind  string // one of the following
	value float64
}

func atLeast(v float64) bound { return bound{"≥", v} }
func atMost(v float64) bound  { return bound{"≤", v} }
func below(v float64) bound   { return bound{"<", v} }

// within bounds a ratio in both directions: neither is more than v times the other.
func within(v float64) bound { return bound{"within", v} }

func (b bound) keeps(v float64) bool {
	switch b.kind {
	case "≥":
		return v >= b.value
	case "≤":
		return v <= b.value
	case "<":
		return v < b.value
	default:
		return v <= b.value && v >= 1/b.value
	}
}

// aims are what this library wants to reach.
var aims = []aim{
	{1, "`Send` from 64 goroutines", "/s", figure{"send-64", "rate"},
		[]figure{{"bare-insert32", "rate"}}, "bare INSERT with key and index, 32 rows a transaction", atLeast(0.6)},
	{1, "`Send` from 64 goroutines", "/s", figure{"send-64", "rate"},
		[]figure{{"river-insert-64", "rate"}}, "River: insert one, 64 goroutines", atLeast(10)},
	{2, "`Send` from one goroutine", "/s", figure{"send-1", "rate"},
		[]figure{{"send-1", "bare"}}, "bare INSERT, one row a transaction", atLeast(0.8)},
	{3, "drain of 100,000 over 10 webhooks, until all is settled", "/s", figure{"drain", "rate"},
		[]figure{{"bare-post", "rate"}}, "bare POST loop, 64 in flight", atLeast(0.5)},
	{3, "drain of 100,000 over 10 webhooks, until all is settled", "/s", figure{"drain", "rate"},
		[]figure{{"river-work", "rate"}, {"goqite-work", "rate"}, {"backlite-work", "rate"}}, "the best peer's work by POST", atLeast(4)},
	{4, "accept and deliver at once, half of the maximum: `Send` to arrival, median", "ms", figure{"send-and-deliver", "p50"}, nil, "", atMost(5)},
	{4, "the same, 99th percentile", "ms", figure{"send-and-deliver", "p99"}, nil, "", atMost(25)},
	{5, "lateness of 1,000 retries due at one moment, 99th percentile", "ms", figure{"retries", "p99"}, nil, "", atMost(75)},
	{5, "the earliest of them, after its moment", "ms", figure{"retries", "earliest"}, nil, "", atLeast(0)},
	{6, "one event, idle dispatcher: `Send` returning to arrival, median", "ms", figure{"one", "p50"}, nil, "", atMost(2)},
	{7, "drain with 1,000,000 pending", "/s", figure{"drain-1000000", "rate"},
		[]figure{{"drain-10000", "rate"}}, "with 10,000 pending", atLeast(0.8)},
	{7, "drain beside 900,000 held, future and diverted", "/s", figure{"drain-beside", "rate"},
		[]figure{{"drain-10000", "rate"}}, "beside none", atLeast(0.8)},
	{8, "resident memory, idle: 1,000,000 pending over none", "MiB", figure{"memory", "over"}, nil, "", atMost(6)},
	{8, "CPU, idle, 1,000,000 pending", "% of a core", figure{"memory", "cpu"}, nil, "", below(0.1)},
	{9, "list of 100 at depth 999,900, median", "ms", figure{"lists", "deep"},
		[]figure{{"lists", "top"}}, "at depth 0", within(1.2)},
	{9, "fetch of one through `httpapi`, 32 clients", "/s", figure{"lists", "fetch"},
		[]figure{{"lists", "bare"}}, "bare handler, same bytes", atLeast(0.5)},
	{10, "50 of 100 webhooks hang: the others, first 10 s", "/s", figure{"hang-50", "rate"},
		[]figure{{"alone-50", "rate"}}, "the others alone", atLeast(0.8)},
	{10, "95 of 100 webhooks hang: the others, first 10 s", "/s", figure{"hang-95", "rate"},
		[]figure{{"alone-5", "rate"}}, "the others alone", atLeast(0.8)},
	{11, "one webhook has 1,000,000 due: `Send` to arrival at 99 others, 99th percentile", "ms", figure{"flooded", "p99"}, nil, "", atMost(50)},
	{12, "drain over 10,000 webhooks, Zipf", "/s", figure{"drain-zipf", "rate"},
		[]figure{{"drain", "rate"}}, "over 10 webhooks", atLeast(0.7)},
	{13, "divert of 100,000 that fail", "/s", figure{"divert", "divert"},
		[]figure{{"drain", "rate"}}, "drain of 100,000", atLeast(0.6)},
	{13, "resend of 100,000 by the route, 32 clients", "/s", figure{"divert", "resend"}, nil, "", atLeast(15_000)},
	{14, "unsuspend of 100,000 at a receiver that takes 500 a second: most that it sees in a second", "requests", figure{"unsuspend", "most"}, nil, "", atMost(1000)},
	{14, "budgets that are spent on its 429s", "deliveries", figure{"unsuspend", "given-up"}, nil, "", atMost(0)},
	{14, "time until it takes 450 a second", "s", figure{"unsuspend", "reached"}, nil, "", atMost(10)},
	{15, "PostgreSQL: `Send` from 64 goroutines", "/s", figure{"pg-send-64", "rate"},
		[]figure{{"pg-river-insert-64", "rate"}}, "River: insert one, 64 goroutines", atLeast(3)},
	{16, "PostgreSQL: drain of 100,000 over 10 webhooks, one process", "/s", figure{"pg-drain", "rate"},
		[]figure{{"pg-river-work", "rate"}}, "River: work by POST", atLeast(1.5)},
	{17, "PostgreSQL: drain with 1,000,000 pending", "/s", figure{"pg-drain-1000000", "rate"},
		[]figure{{"pg-drain-10000", "rate"}}, "with 10,000 pending", atLeast(0.8)},
}

// reference is a figure that is no aim: a peer's, or of a bare loop, measured with the aims of a row.
type reference struct {
	row  int
	what string
	unit string
	of   figure
}

var references = []reference{
	{1, "bare INSERT with key and index, 32 rows a transaction", "/s", figure{"bare-insert32", "rate"}},
	{1, "River: insert one, one goroutine", "/s", figure{"river-insert-1", "rate"}},
	{1, "River: insert one, 64 goroutines", "/s", figure{"river-insert-64", "rate"}},
	{1, "River: insert 100 at once, one goroutine", "/s", figure{"river-insert-100", "rate"}},
	{1, "goqite: send one, one goroutine", "/s", figure{"goqite-send", "rate"}},
	{1, "backlite: add one, one goroutine", "/s", figure{"backlite-add", "rate"}},
	{2, "bare INSERT, one row a transaction", "/s", figure{"send-1", "bare"}},
	{3, "bare POST loop, 64 in flight", "/s", figure{"bare-post", "rate"}},
	{3, "River: work by POST", "/s", figure{"river-work", "rate"}},
	{3, "goqite: work by POST", "/s", figure{"goqite-work", "rate"}},
	{3, "backlite: work by POST", "/s", figure{"backlite-work", "rate"}},
	{4, "accept and deliver at once, the maximum", "/s", figure{"send-and-deliver", "rate"}},
	{5, "River: lateness of 1,000 retries due at one moment, 99th percentile", "ms", figure{"river-late", "p99"}},
	{5, "goqite: lateness of 1,000 delayed messages due at one moment, 99th percentile", "ms", figure{"goqite-late", "p99"}},
	{8, "resident memory, idle, 1,000,000 pending", "MiB", figure{"memory", "full"}},
	{14, "what the receiver takes of it, on average of 20 s", "/s", figure{"unsuspend", "taken"}},
	{15, "PostgreSQL, River: insert one, 64 goroutines", "/s", figure{"pg-river-insert-64", "rate"}},
	{16, "PostgreSQL, River: work by POST", "/s", figure{"pg-river-work", "rate"}},
	{16, "PostgreSQL: the same drain, two processes", "/s", figure{"pg-drain-2", "rate"}},
	{16, "PostgreSQL: the same drain, four processes", "/s", figure{"pg-drain-4", "rate"}},
}

// selected returns the aims and references of the rows, all of them if there are none, and the probes that
// they need: those that are compared with each other one after the other.
func selected(rows []int) (as []aim, rs []reference, probes []string) {
	is := func(row int) bool { return len(rows) == 0 || slices.Contains(rows, row) }
	need := func(f figure) {
		if !slices.Contains(probes, f.probe) {
			probes = append(probes, f.probe)
		}
	}
	for _, a := range aims {
		if is(a.row) {
			as = append(as, a)
			for _, f := range a.against {
				need(f)
			}
			need(a.ours)
		}
	}
	for _, r := range references {
		if is(r.row) {
			rs = append(rs, r)
			need(r.of)
		}
	}
	return as, rs, probes
}
