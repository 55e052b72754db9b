package main

import (
	"encoding/csv"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/matryer/is"
)

func TestBodiesHaveTheSizeThatTheTableNames(t *testing.T) {
	is := is.New(t)
	all, err := bodies(1001)
	is.NoErr(err)
	for i, body := range all {
		is.Equal(len(body), bodyBytes)
		is.Equal(number(body), i)
	}
}

func TestEveryFigureComesFromAProbe(t *testing.T) {
	as, rs, names := selected(nil)
	if len(as) != len(aims) || len(rs) != len(references) {
		t.Errorf("%d aims and %d references are selected, of %d and %d", len(as), len(rs), len(aims), len(references))
	}
	for _, name := range names {
		if probes[name] == nil {
			t.Errorf("there is no probe %q", name)
		}
	}
	rows := map[int]bool{}
	for _, a := range aims {
		rows[a.row] = true
		if a.bound.kind == "" {
			t.Errorf("row %d: %q has no bound", a.row, a.what)
		}
	}
	for row := 1; row <= 17; row++ {
		if !rows[row] {
			t.Errorf("row %d has no aim", row)
		}
	}
}

func TestAnAimIsJudgedByTheMedianOfTheRatiosOfTheRuns(t *testing.T) {
	ours, other, peer := figure{"drain", "rate"}, figure{"bare-post", "rate"}, figure{"river-work", "rate"}
	r := &run{results: map[figure][]float64{
		ours:  {50, 60, 90}, // the machine was faster in the third run
		other: {100, 100, 200},
		peer:  {10, 30, 20},
	}}
	for name, test := range map[string]struct {
		aim     aim
		verdict string
		ratio   float64
	}{
		"a ratio that is reached exactly":  {aim{ours: ours, against: []figure{other}, bound: atLeast(0.5)}, "met", 0.5},
		"a ratio that is missed":           {aim{ours: ours, against: []figure{other}, bound: atLeast(0.55)}, "missed", 0.5},
		"a ratio to the best of others":    {aim{ours: ours, against: []figure{other, peer}, bound: atMost(0.5)}, "met", 0.5},
		"a ratio within a factor, below":   {aim{ours: ours, against: []figure{other}, bound: within(1.9)}, "missed", 0.5},
		"a ratio within a factor":          {aim{ours: ours, against: []figure{other}, bound: within(2)}, "met", 0.5},
		"a figure by itself":               {aim{ours: ours, bound: atMost(60)}, "met", 0},
		"a figure that must stay below":    {aim{ours: ours, bound: below(60)}, "missed", 0},
		"a figure that was not measured":   {aim{ours: figure{"drain", "p50"}, bound: atMost(60)}, "failed", 0},
		"one against what is not measured": {aim{ours: ours, against: []figure{{"bare-post", "p50"}}, bound: atLeast(0)}, "failed", 0},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			v := r.judge(test.aim)
			is.Equal(v.verdict, test.verdict)
			is.Equal(v.ratio.median, test.ratio)
		})
	}
}

func TestAProbeThatFailedMeetsNoAim(t *testing.T) {
	is := is.New(t)
	r := &run{
		results:  map[figure][]float64{{"drain", "rate"}: {1000}},
		failures: map[string]error{"drain": errors.New("the second run failed")},
	}
	is.Equal(r.judge(aim{ours: figure{"drain", "rate"}, bound: atLeast(1)}).verdict, "failed")
}

func TestNumbersAreRoundedToThreeDigits(t *testing.T) {
	is := is.New(t)
	for _, test := range []struct {
		number float64
		text   string
	}{
		{0, "0"}, {0.2258, "0.23"}, {-1.5, "-1.5"}, {9.99, "9.99"}, {60, "60"}, {61.25, "61.2"}, {999.6, "1,000"}, {-20_432, "-20,400"}, {1000, "1,000"},
		{4805, "4,810"}, {20_432, "20,400"}, {1_234_567, "1,230,000"},
	} {
		is.Equal(rounded(test.number), test.text)
	}
}

func TestTheReportIsWellFormedWhateverWasMeasured(t *testing.T) {
	is := is.New(t)
	r := &run{aims: aims, references: references, runs: 3, results: map[figure][]float64{
		{"send-64", "rate"}: {40_000, 45_000, 41_000}, {"bare-insert32", "rate"}: {80_000, 81_000, 79_000},
	}}
	dir := t.TempDir()
	var text strings.Builder
	is.NoErr(r.report(&text, dir))
	is.True(strings.Contains(text.String(), "| 1 | `Send` from 64 goroutines | 41,000/s (40,000–45,000) | "+
		"bare INSERT with key and index, 32 rows a transaction: 80,000/s (79,000–81,000) | 0.52 | ≥ 0.6 × | missed |"))

	var verdicts []verdict
	for _, a := range aims {
		verdicts = append(verdicts, r.judge(a))
	}
	var sheet strings.Builder
	is.NoErr(writeCSV(&sheet, verdicts))
	records, err := csv.NewReader(strings.NewReader(sheet.String())).ReadAll() // all of one length
	is.NoErr(err)
	is.Equal(len(records), 1+len(aims))

	decoder := xml.NewDecoder(strings.NewReader(r.plot()))
	for {
		if _, err := decoder.Token(); err == io.EOF {
			break
		} else {
			is.NoErr(err)
		}
	}
}
