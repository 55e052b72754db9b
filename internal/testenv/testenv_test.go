package testenv_test

import (
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/testenv"
)

// fatal is a test that remembers that it failed.
type fatal struct {
	testing.TB
	failed bool
}

func (f *fatal) Helper()               {}
func (f *fatal) Fatalf(string, ...any) { f.failed = true }

func TestNumber(t *testing.T) {
	for _, tt := range []struct {
		value  string
		want   int
		failed bool
	}{
		{"", 20, false},
		{"0", 0, false},
		{"1000000", 1_000_000, false},
		{"many", 0, true},
		{"1e6", 0, true},
	} {
		is := is.New(t)
		t.Setenv("TESTENV_NUMBER", tt.value)
		f := &fatal{TB: t}
		n := testenv.Number(f, "TESTENV_NUMBER", 20)
		is.Equal(f.failed, tt.failed)
		is.True(tt.failed || n == tt.want)
	}
}
