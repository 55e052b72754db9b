package main

import (
	"context"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestMain makes this binary the program itself when a test asks for it, and when the program starts itself.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_CLUSTER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

func TestTheOthersFinishTheWorkOfADispatcherThatIsKilled(t *testing.T) {
	if testing.Short() {
		t.Skip("it waits for the end of leases")
	}
	db := os.Getenv("DIVERTED_POSTGRES")
	if db == "" {
		db = "postgres://postgres@127.0.0.1:5432/postgres"
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Skip("no PostgreSQL server")
	}
	conn.Close(ctx)
	command := exec.Command(os.Args[0], "-db", db)
	command.Env = append(os.Environ(), "RUN_CLUSTER=1")
	out, err := command.CombinedOutput()
	t.Logf("%s", out)
	if err != nil {
		t.Fatal(err)
	}
}
