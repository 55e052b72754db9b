package main

import (
	"bufio"
	_ "embed"
	"errors"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/matryer/is"
	"go.uber.org/goleak"
)

//go:embed README.md
var readme string

// TestMain makes this binary the server itself when a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SERVER") != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// serve starts the server in a process of its own, in dir, and returns its URL.
func serve(t *testing.T, dir string, args ...string) (url string, server *exec.Cmd) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server = exec.Command(self, args...)
	server.Dir = dir
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

// blocks returns the code blocks of the README, each with its language in front.
func blocks() []string {
	var found []string
	for i, part := range strings.Split(readme, "```") {
		if i%2 == 1 {
			found = append(found, part)
		}
	}
	return found
}

// mask replaces what is another one each time.
func mask(s string) string {
	for pattern, name := range map[string]string{
		`\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b`: "LOCATOR",
		`whsec_[A-Za-z0-9+/]{32,}=*`:      "SECRET",
		`\d{4}-\d\d-\d\dT[\d:.]+Z`:        "TIME",
		`"durationMillis":\d+`:            `"durationMillis":N`,
		`"next":"[A-Za-z0-9_-]{44}"`:      `"next":"NEXT"`,
	} {
		s = regexp.MustCompile(pattern).ReplaceAllString(s, name)
	}
	// These two come a few seconds late.
	s = regexp.MustCompile(`"(lastSuccess|lastFailure)":null`).ReplaceAllString(s, `"$1":"TIME"`)
	return strings.TrimSpace(s)
}

// replaced returns s with the one place where it says old changed.
func replaced(t *testing.T, s, old, new string) string {
	t.Helper()
	if strings.Count(s, old) != 1 {
		t.Fatalf("the story says %s %d times", old, strings.Count(s, old))
	}
	return strings.Replace(s, old, new, 1)
}

func TestTheStoryOfTheReadmeRunsAsWritten(t *testing.T) {
	for _, tool := range []string{"bash", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("the story is told in %s, which is not here", tool)
		}
	}
	is := is.New(t)
	dir := t.TempDir()

	// The file, the command and the script are those of the README, but for the port.
	var args []string
	var script, want strings.Builder
	for _, block := range blocks() {
		language, text, _ := strings.Cut(block, "\n")
		switch command, isServer := strings.CutPrefix(strings.TrimSpace(text), "go run ./examples/server "); {
		case language == "json":
			is.NoErr(os.WriteFile(filepath.Join(dir, "tokens.json"), []byte(text), 0o600))
		case isServer:
			args = strings.Fields(strings.Replace(command, "127.0.0.1:8080", "127.0.0.1:0", 1))
		case language == "sh":
			script.WriteString(text)
		case language == "text":
			want.WriteString(text)
		}
	}
	url, server := serve(t, dir, args...)
	// A step of 1,000 resends both events. In steps of one the loop has to go on to the end.
	told := replaced(t, script.String(), `resend?all=true$A`, `resend?all=true&limit=1$A`)
	told = strings.ReplaceAll(told, "http://127.0.0.1:8080", url)
	expected := replaced(t, want.String(), `{"matched":2,"done":2}`, `{"matched":1,"done":1,"next":"NEXT"}{"matched":1,"done":1}`)
	story := exec.CommandContext(t.Context(), "bash", "-e", "-c", told)
	story.Dir = dir
	got, err := story.CombinedOutput()
	is.NoErr(err)
	lines := func(s string) string {
		return strings.ReplaceAll(strings.ReplaceAll(mask(s), url, "http://127.0.0.1:8080"), "\n", "")
	}
	is.Equal(lines(string(got)), lines(expected))

	is.NoErr(server.Process.Signal(syscall.SIGTERM))
	is.NoErr(server.Wait()) // drained, status 0
}

func TestTheFirstSignalDrainsAndTheSecondEndsTheServerAtOnce(t *testing.T) {
	is := is.New(t)
	url, server := serve(t, t.TempDir(), "-addr", "127.0.0.1:0", "-db", "memory", "-open", "-allow", "127.0.0.0/8", "-timeout", "1m")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	is.NoErr(err)
	defer silent.Close()
	api := url + "/event/7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"
	post := func(path, body string) {
		answer, err := http.Post(api+path, "application/json", strings.NewReader(body))
		is.NoErr(err)
		answer.Body.Close()
		is.True(answer.StatusCode < 300)
	}
	post("/webhooks", `{"name": "silent", "enabled": true, "eventTypes": ["*"], "endpoint": {"url": "http://`+silent.Addr().String()+`"}}`)
	post("/events", `{"type": "order.paid", "data": {"id": "o-1234"}}`)
	attempt, err := silent.Accept()
	is.NoErr(err)
	defer attempt.Close()

	is.NoErr(server.Process.Signal(syscall.SIGTERM))
	for { // it answers nothing new any more, but goes on with the attempt
		if _, err := net.Dial("tcp", strings.TrimPrefix(url, "http://")); err != nil {
			break
		}
	}
	is.NoErr(server.Process.Signal(syscall.SIGTERM))
	err = server.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	is.True(ok)
	is.Equal(exit.ExitCode(), 1)
}
