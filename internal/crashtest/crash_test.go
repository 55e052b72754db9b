package crashtest_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/divertedevents/diverted"
	"github.com/divertedevents/diverted/internal/crashtest"
)

func openSQLite(ctx context.Context, path string) (diverted.Store, error) {
	return diverted.OpenSQLite(ctx, path)
}

func TestMain(m *testing.M) {
	crashtest.Service(openSQLite) // does not return in the process that is killed
	os.Exit(m.Run())
}

// The number of kills is CRASH_KILLS, or 20: see make crash.
func TestKillsLoseNothingOnSQLite(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	kills := 20
	if s := os.Getenv("CRASH_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	crashtest.Test(t, crashtest.Config{
		Open:  openSQLite,
		DSN:   filepath.Join(t.TempDir(), "webhooks.db"),
		Kills: kills,
		Seed:  uint64(os.Getpid()),
		Log:   os.Stderr,
	})
}
