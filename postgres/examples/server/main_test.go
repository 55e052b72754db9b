package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/testenv"
)

// TestMain makes this binary the server itself when a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// serve starts a server in a process of its own, and returns its URL.
func serve(t *testing.T, db string) (url string, server *exec.Cmd) {
	t.Helper()
	server = exec.Command(os.Args[0], "-addr", "127.0.0.1:0", "-db", db, "-open")
	server.Env = append(os.Environ(), "RUN_SERVER=1")
	server.Stderr = t.Output()
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("the server said %q: %v", line, err)
	}
	return url, server
}

func TestTwoServersOnOneDatabaseAreOneService(t *testing.T) {
	is := is.New(t)
	admin := os.Getenv("DIVERTED_POSTGRES")
	if admin == "" {
		admin = "postgres://postgres@127.0.0.1:5432/postgres"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, admin)
	if err != nil {
		t.Skip("no PostgreSQL server")
	}
	defer conn.Close(context.Background())
	database := fmt.Sprintf("diverted_server_%d", os.Getpid())
	_, err = conn.Exec(ctx, "CREATE DATABASE "+database)
	is.NoErr(err)
	defer conn.Exec(context.Background(), "DROP DATABASE "+database+" WITH (FORCE)")
	c := conn.Config()
	db := fmt.Sprintf("postgres:///%s?host=%s&port=%d&user=%s", database, c.Host, c.Port, c.User)
	a, first := serve(t, db)
	b, second := serve(t, db)

	const tenant = "/event/7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"
	call := func(method, url, body string) string {
		t.Helper()
		request, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
		is.NoErr(err)
		request.Header.Set("Content-Type", "application/json")
		response, err := http.DefaultClient.Do(request)
		is.NoErr(err)
		defer response.Body.Close()
		answer, err := io.ReadAll(response.Body)
		is.NoErr(err)
		if response.StatusCode/100 != 2 {
			t.Fatalf("%s %s: %s: %s", method, url, response.Status, answer)
		}
		return string(answer)
	}
	webhook := call("POST", a+tenant+"/webhooks", `{"name":"orders","enabled":true,"eventTypes":["*"],
		"endpoint":{"url":"http://127.0.0.1:1/nobody"},"failureHandling":{"divert":true}}`)
	_, locator, _ := strings.Cut(webhook, `"locator":"`)
	locator = locator[:26]
	for _, url := range []string{a, b} {
		call("POST", url+tenant+"/events", `{"type":"order.paid","data":{"id":"o-1234"}}`)
	}
	// Whoever attempts them, both show them.
	for _, url := range []string{a, b} {
		testenv.Await(t, "both events are shown", func() bool {
			return strings.Count(call("GET", url+tenant+"/webhooks/"+locator+"/diverted", ""), `"eventLocator"`) == 2
		})
	}
	for _, server := range []*exec.Cmd{first, second} {
		is.NoErr(server.Process.Signal(syscall.SIGTERM))
		is.NoErr(server.Wait())
	}
}
