package main

import (
	"io"
	"os"
	"strings"
	"testing"

	"github.com/matryer/is"
)

// TestMain lets the test's binary play the roles that a run starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestARunMeasuresEveryFigureOfItsRows(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	is := is.New(t)
	r := &run{runs: 1, scale: 0.001, dir: t.TempDir()}
	var names []string
	r.aims, r.references, names = selected([]int{1, 2, 3, 5, 6, 9, 13, 15, 16})
	is.NoErr(r.measure(t.Context(), names))
	is.Equal(r.faults(), 0)
	is.NoErr(r.report(io.Discard, t.TempDir()))
	for _, a := range r.aims {
		if v := r.judge(a); v.verdict == "failed" {
			t.Errorf("row %d: %q has no verdict", a.row, a.what)
		}
	}
	for _, ref := range r.references {
		if len(r.results[ref.of]) != 1 && r.failures[ref.of.probe] != errNoServer {
			t.Errorf("row %d: %q has no figure", ref.row, ref.what)
		}
	}
}

func TestAProbeThatFailsIsNotMeasuredAgain(t *testing.T) {
	is := is.New(t)
	r := &run{runs: 2, scale: 0.001, dir: t.TempDir()}
	is.NoErr(r.measure(t.Context(), []string{"no such probe"}))
	is.Equal(len(r.failures), 1)
	is.Equal(len(r.results), 0)
}
