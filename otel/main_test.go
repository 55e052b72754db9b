package otel_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine outlives what the tests started.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
