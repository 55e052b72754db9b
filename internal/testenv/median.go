package testenv

import (
	"slices"
	"testing"
	"time"
)

// Median calls f as often as the benchmark wants, and reports the median of its times, in milliseconds, beside their
// mean. It ends at the first error.
func Median(b *testing.B, f func() error) {
	b.Helper()
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		err := f()
		took = append(took, time.Since(began))
		if err != nil {
			b.Fatal(err)
		}
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2])/1e6, "ms-median")
}
