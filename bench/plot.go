package main

import (
	"fmt"
	"html"
	"slices"
	"strings"
)

// panel is a part of the plot: bars of one unit.
type panel struct {
	title string
	bars  []bar
}

type bar struct {
	label string
	kind  string // a class of the style below
	of    figure
}

var panels = []panel{
	{"Accept, many callers: events a second", []bar{
		{"bare INSERT, 32 rows a transaction", "bare", figure{"bare-insert32", "rate"}},
		{"diverted: Send, 64 goroutines", "ours", figure{"send-64", "rate"}},
		{"River: insert, 64 goroutines", "peer", figure{"river-insert-64", "rate"}},
		{"River: insert 100 a call", "peer", figure{"river-insert-100", "rate"}},
	}},
	{"Accept, one caller, one event a call: events a second", []bar{
		{"bare INSERT, one row a transaction", "bare", figure{"send-1", "bare"}},
		{"diverted: Send", "ours", figure{"send-1", "rate"}},
		{"River: insert", "peer", figure{"river-insert-1", "rate"}},
		{"goqite: send", "peer", figure{"goqite-send", "rate"}},
		{"backlite: add", "peer", figure{"backlite-add", "rate"}},
	}},
	{"Claim, post and settle: events a second", []bar{
		{"bare POST loop, stores nothing", "bare", figure{"bare-post", "rate"}},
		{"diverted", "ours", figure{"drain", "rate"}},
		{"River", "peer", figure{"river-work", "rate"}},
		{"goqite", "peer", figure{"goqite-work", "rate"}},
		{"backlite", "peer", figure{"backlite-work", "rate"}},
	}},
}

// The measures of the plot, in pixels.
const (
	plotWidth   = 860
	plotMargin  = 28
	labelWidth  = 260
	valueWidth  = 130
	barHeight   = 20
	barStep     = 29
	panelTitle  = 30
	panelGap    = 18
	titleHeight = 98
	footHeight  = 46
)

const plotStyle = `
	text { font-family: -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; fill: #1f2933; }
	.title { font-size: 20px; font-weight: 600; }
	.sub { font-size: 12.5px; font-weight: 400; fill: #5f6c7b; }
	.panel { font-size: 14px; font-weight: 600; }
	.label { font-size: 13px; text-anchor: end; }
	.value { font-size: 13px; font-variant-numeric: tabular-nums; }
	.strong { font-weight: 600; }
	.bare { fill: #c3ccd6; } .ours { fill: #1768ac; } .peer { fill: #e0a458; }
	.range { stroke: #4a5764; stroke-width: 1.2; fill: none; } .halo { stroke: #ffffff; stroke-width: 3.2; stroke-opacity: 0.75; fill: none; }
	.axis { stroke: #d8dee6; }
`

// plot draws accepting and delivering beside the bare loops and the peers, as SVG. What was not measured is
// left out.
func (r *run) plot() string {
	var body strings.Builder
	y := titleHeight
	for _, p := range panels {
		bars := slices.DeleteFunc(slices.Clone(p.bars), func(b bar) bool { return len(r.results[b.of]) == 0 })
		if len(bars) == 0 {
			continue
		}
		most := 0.0
		for _, b := range bars {
			most = max(most, spreadOf(r.results[b.of]).most)
		}
		left := plotMargin + labelWidth
		scale := float64(plotWidth-plotMargin-valueWidth-left) / most
		fmt.Fprintf(&body, `<text class="panel" x="%d" y="%d">%s</text>`+"\n", plotMargin, y+16, html.EscapeString(p.title))
		y += panelTitle
		fmt.Fprintf(&body, `<line class="axis" x1="%[1]d" y1="%[2]d" x2="%[1]d" y2="%[3]d"/>`+"\n", left, y-4, y+len(bars)*barStep-barStep+barHeight+4)
		for _, b := range bars {
			s := spreadOf(r.results[b.of])
			strong := ""
			if b.kind == "ours" {
				strong = " strong"
			}
			at := func(v float64) float64 { return float64(left) + v*scale }
			middle := y + barHeight/2
			fmt.Fprintf(&body, `<text class="label%s" x="%d" y="%d">%s</text>`+"\n", strong, left-10, middle+5, html.EscapeString(b.label))
			fmt.Fprintf(&body, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`+"\n", b.kind, left, y, max(s.median*scale, 1), barHeight)
			if at(s.most)-at(s.least) > 2 {
				path := fmt.Sprintf("M%.1[1]f %[2]d H%.1[3]f M%.1[1]f %[4]d v8 M%.1[3]f %[4]d v8", at(s.least), middle, at(s.most), middle-4)
				fmt.Fprintf(&body, `<path class="halo" d="%[1]s"/><path class="range" d="%[1]s"/>`+"\n", path)
			}
			value := rounded(s.median)
			if b.kind == "ours" && bars[0].kind == "bare" {
				ratio := r.judge(aim{ours: b.of, against: []figure{bars[0].of}}).ratio
				value += fmt.Sprintf(`<tspan class="sub" dx="6">%s × the bare loop</tspan>`, rounded(ratio.median))
			}
			fmt.Fprintf(&body, `<text class="value%s" x="%.1f" y="%d">%s</text>`+"\n", strong, at(s.most)+8, middle+5, value)
			y += barStep
		}
		y += panelGap
	}
	height := y - panelGap + footHeight
	x := plotMargin
	for _, entry := range []struct{ kind, text string }{
		{"ours", "this library"}, {"peer", "job queues on SQLite"}, {"bare", "bare loop, the limit"},
	} {
		fmt.Fprintf(&body, `<rect class="%s" x="%d" y="%d" width="12" height="12" rx="2"/><text class="sub" x="%d" y="%d">%s</text>`+"\n",
			entry.kind, x, height-28, x+18, height-17, entry.text)
		x += 34 + 7*len(entry.text)
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="Events accepted and delivered a second, beside bare loops and job queues">
<style>%[3]s</style>
<rect width="%[1]d" height="%[2]d" rx="8" fill="#ffffff"/>
<text class="title" x="%[4]d" y="36">Durable events a second, with an fsync before every answer</text>
<text class="sub" x="%[4]d" y="57">%[5]s</text>
<text class="sub" x="%[4]d" y="74">WAL and synchronous=FULL, %[6]d-byte bodies, receiver in a process of its own; median and range of %[7]d runs</text>
%[8]s</svg>
`, plotWidth, height, plotStyle, plotMargin, html.EscapeString(machine()+", "+driver()), bodyBytes, r.runs, body.String())
}
