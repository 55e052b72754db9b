// Package testenv reads how long a test or a benchmark is to go on, for those that go on as long as one likes, tells
// what a benchmark found, and waits for what another process does.
package testenv

import (
	"os"
	"strconv"
	"testing"
)

// Number returns the number in a variable of the environment, and otherwise where it is not set or empty. It fails
// the test where it is no number.
func Number(tb testing.TB, name string, otherwise int) int {
	tb.Helper()
	s := os.Getenv(name)
	if s == "" {
		return otherwise
	}
	n, err := strconv.Atoi(s)
	if err != nil {
		tb.Fatalf("%s: %v", name, err)
	}
	return n
}
