package crashtest_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/crashtest"
	"github.com/divertedevents/diverted/internal/testenv"
)

func openSQLite(ctx context.Context, path string) (diverted.Store, error) {
	return diverted.OpenSQLite(ctx, path)
}

func TestMain(m *testing.M) {
	crashtest.Service(openSQLite) // does not return in the process that is killed
	goleak.VerifyTestMain(m)
}

// The number of kills is CRASH_KILLS, or 20, and at least CRASH_ACKNOWLEDGED events are acknowledged: see make
// crash.
func TestKillsLoseNothingOnSQLite(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	crashtest.Test(t, crashtest.Config{
		Open:         openSQLite,
		DSN:          filepath.Join(t.TempDir(), "webhooks.db"),
		Kills:        testenv.Number(t, "CRASH_KILLS", 20),
		Acknowledged: testenv.Number(t, "CRASH_ACKNOWLEDGED", 0),
		Seed:         uint64(os.Getpid()),
		Log:          os.Stderr,
	})
}
