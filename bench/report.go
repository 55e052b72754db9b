package main

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
)

// spread is what became of a figure over the runs.
type spread struct {
	median, least, most float64
	none                bool // it was not measured
}

func spreadOf(values []float64) spread {
	v := slices.Sorted(slices.Values(values))
	if len(v) == 0 {
		return spread{none: true}
	}
	median := v[len(v)/2]
	if len(v)%2 == 0 {
		median = (median + v[len(v)/2-1]) / 2
	}
	return spread{median: median, least: v[0], most: v[len(v)-1]}
}

// verdict is what became of an aim, or of a reference.
type verdict struct {
	aim
	ours, other, ratio spread
	verdict            string // met, missed, failed, skipped; "" of a reference
}

// best returns the greatest of some figures, run by run.
func (r *run) best(figures []figure) []float64 {
	var all []float64
	for _, f := range figures {
		for i, v := range r.results[f] {
			if i == len(all) {
				all = append(all, v)
			}
			all[i] = max(all[i], v)
		}
	}
	return all
}

func (r *run) judge(a aim) verdict {
	ours, other := r.results[a.ours], r.best(a.against)
	v := verdict{aim: a, ours: spreadOf(ours), other: spreadOf(other)}
	judged := v.ours
	if a.against != nil {
		var ratios []float64
		for i := range min(len(ours), len(other)) {
			ratios = append(ratios, ours[i]/other[i])
		}
		v.ratio = spreadOf(ratios)
		judged = v.ratio
	}
	failed := len(ours) == 0 || a.against != nil && len(other) == 0
	skipped := r.failures[a.ours.probe] == errNoServer
	for _, f := range append(a.against, a.ours) {
		failed = failed || r.failures[f.probe] != nil
	}
	switch {
	case a.bound.kind == "":
	case skipped:
		v.verdict = "skipped"
	case failed:
		v.verdict = "failed"
	case a.bound.keeps(judged.median):
		v.verdict = "met"
	default:
		v.verdict = "missed"
	}
	return v
}

// report writes the tables to w, and, into the directory out if there is one, performance-table.md,
// performance.csv and performance.svg.
func (r *run) report(w io.Writer, out string) error {
	var verdicts, others []verdict
	for _, a := range r.aims {
		verdicts = append(verdicts, r.judge(a))
	}
	for _, ref := range r.references {
		others = append(others, r.judge(aim{row: ref.row, what: ref.what, unit: ref.unit, ours: ref.of}))
	}
	var text strings.Builder
	r.table(&text, verdicts, others)
	if _, err := io.WriteString(w, text.String()); err != nil || out == "" {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	var sheet strings.Builder
	if err := writeCSV(&sheet, append(verdicts, others...)); err != nil {
		return err
	}
	for name, content := range map[string]string{
		"performance-table.md": text.String(),
		"performance.csv":      sheet.String(),
		"performance.svg":      r.plot(),
	} {
		if err := os.WriteFile(filepath.Join(out, name), []byte(content), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// table writes Markdown.
func (r *run) table(w io.Writer, verdicts, others []verdict) {
	fmt.Fprintf(w, "%s\n\n", r.setting())
	fmt.Fprintln(w, "| # | what | ours | compared with | ratio | aim | |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|")
	for _, v := range verdicts {
		other, ratio := "", ""
		if v.against != nil {
			other = v.againstName + ": " + v.other.format(v.unit)
			if !v.ratio.none {
				ratio = rounded(v.ratio.median)
			}
		}
		fmt.Fprintf(w, "| %d | %s | %s | %s | %s | %s | %s |\n",
			v.row, v.what, v.ours.format(v.unit), other, ratio, v.aim.String(), v.verdict)
	}
	fmt.Fprintln(w, "\n| # | bare loops, peers, and what else was measured | |\n|---|---|---|")
	for _, v := range others {
		fmt.Fprintf(w, "| %d | %s | %s |\n", v.row, v.what, v.ours.format(v.unit))
	}
}

// setting tells on what, and how, the figures were measured.
func (r *run) setting() string {
	s := fmt.Sprintf("%s, %s with WAL and synchronous=FULL, %s%d-byte bodies, receiver in a process of its own. Medians of %d runs (least–most).",
		machine(), driver(), r.server(), bodyBytes, r.runs)
	if r.scale != 1 {
		s += fmt.Sprintf(" Counts scaled by %g: aims hold for 1.", r.scale)
	}
	return s
}

// server names the PostgreSQL server, "" if none was measured.
func (r *run) server() string {
	for f, values := range r.results {
		if f.name == "server" {
			v := int(values[0])
			return fmt.Sprintf("PostgreSQL %d.%d with synchronous_commit=on and a pool of %d, ", v/10000, v%10000, poolSize)
		}
	}
	return ""
}

// driver names the SQLite driver, which is everybody's.
func driver() string {
	const path = "modernc.org/sqlite"
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == path {
				return path + " " + m.Version
			}
		}
	}
	return path
}

// machine names the processor and what runs on it.
func machine() string {
	name := runtime.GOARCH
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
				name = strings.TrimSpace(value)
				break
			}
		}
	}
	return fmt.Sprintf("%d cores of %s, %s, %s", runtime.NumCPU(), name, runtime.GOOS, runtime.Version())
}

// String tells the bound.
func (a aim) String() string {
	unit := a.unit
	if a.against != nil {
		unit = "×"
	}
	if a.bound.kind == "" {
		return ""
	}
	return a.bound.kind + " " + rounded(a.bound.value) + " " + unit
}

func (s spread) format(unit string) string {
	if s.none {
		return "not measured"
	}
	text := rounded(s.median) + " " + unit
	if s.least != s.most {
		text += " (" + rounded(s.least) + "–" + rounded(s.most) + ")"
	}
	return strings.Replace(text, " /s", "/s", 1)
}

// rounded writes a number with three significant digits, and a comma between thousands.
func rounded(f float64) string {
	magnitude := max(f, -f)
	if magnitude < 999.5 {
		digits := 0
		switch {
		case magnitude < 10:
			digits = 2
		case magnitude < 100:
			digits = 1
		}
		s := strconv.FormatFloat(f, 'f', digits, 64)
		if strings.Contains(s, ".") {
			s = strings.TrimRight(strings.TrimRight(s, "0"), ".")
		}
		return s
	}
	unit := 1
	for magnitude >= 1000 {
		magnitude /= 10
		unit *= 10
	}
	s := strconv.Itoa(int(math.Round(f/float64(unit))) * unit)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// writeCSV writes the same as the table, unrounded.
func writeCSV(w io.Writer, verdicts []verdict) error {
	c := csv.NewWriter(w)
	c.Write([]string{"row", "what", "unit", "median", "least", "most",
		"against", "against_median", "against_least", "against_most", "ratio", "ratio_least", "ratio_most", "aim", "verdict"})
	number := func(f float64) string { return strconv.FormatFloat(f, 'g', 6, 64) }
	for _, v := range verdicts {
		record := []string{strconv.Itoa(v.row), v.what, v.unit, number(v.ours.median), number(v.ours.least), number(v.ours.most)}
		if v.against == nil {
			record = append(record, "", "", "", "", "", "", "")
		} else {
			record = append(record, v.againstName, number(v.other.median), number(v.other.least), number(v.other.most),
				number(v.ratio.median), number(v.ratio.least), number(v.ratio.most))
		}
		c.Write(append(record, v.aim.String(), v.verdict))
	}
	c.Flush()
	return c.Error()
}
