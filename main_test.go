package diverted

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

// No goroutine outlives what the tests started. The process that looks up hostile names is left out: package
// net lets lookups that nobody waits for any more end by themselves, which may take longer than the test.
func TestMain(m *testing.M) {
	if os.Getenv(resolverOf) != "" {
		os.Exit(m.Run())
	}
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net.(*Resolver).lookupIPAddr.func2"),
		goleak.IgnoreAnyFunction("internal/singleflight.(*Group).doCall"),
	)
}
