package diverted_test

import (
	_ "embed"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

//go:embed README.md
var readme string

//go:embed example_readme_test.go
var readmeCode string

//go:embed store_memory_test.go
var readmeContract string

func TestReadmeShowsCodeThatCompiles(t *testing.T) {
	showsCodeOf(t, "README.md", readme, readmeCode+readmeContract)
}

// showsCodeOf fails if a document shows Go code that is not a part of code.
func showsCodeOf(t *testing.T, name, document, code string) {
	is := is.New(t)
	flat := func(s string) string {
		var lines []string
		for line := range strings.Lines(s) {
			lines = append(lines, strings.TrimSpace(line))
		}
		return strings.Join(lines, "\n")
	}
	code = flat(code)
	blocks := strings.Split(document, "```go\n")[1:]
	is.True(len(blocks) >= 4)
	for _, block := range blocks {
		block, _, found := strings.Cut(block, "```")
		is.True(found)
		if !strings.Contains(code, flat(block)) {
			t.Errorf("this block of %s is in no test file:\n%s", name, block)
		}
	}
}

// The story of examples/server is run by a test of its own.
//
//go:embed examples/server/README.md
var story string

func TestReadmeShowsCurlThatRuns(t *testing.T) {
	is := is.New(t)
	_, block, found := strings.Cut(readme, "```sh\n")
	is.True(found)
	block, _, _ = strings.Cut(block, "```")
	lines := strings.Split(strings.TrimSpace(block), "\n")
	is.Equal(len(lines), 5)
	for _, line := range lines {
		command, _, _ := strings.Cut(line, "   ") // and what it is for
		if !strings.Contains(story, "\n"+command+"\n") {
			t.Errorf("examples/server/README.md does not run: %s", command)
		}
	}
}

func TestReadmeShowsAMessageThatVerifies(t *testing.T) {
	is := is.New(t)
	_, message, found := strings.Cut(readme, "    POST /hook HTTP/1.1\n")
	is.True(found)
	header := http.Header{}
	var body string
	for line := range strings.Lines(message) {
		line, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "    ")
		if name, value, isHeader := strings.Cut(line, ": "); ok && isHeader && body == "" && !strings.HasPrefix(line, "{") {
			header.Set(name, value)
		} else if strings.HasPrefix(line, "{") {
			body = line
			break
		}
	}
	seconds, err := strconv.ParseInt(header.Get("webhook-timestamp"), 10, 64)
	is.NoErr(err)
	signature, err := diverted.Sign(header.Get("webhook-id"), time.Unix(seconds, 0), []byte(body), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	is.NoErr(err)
	is.Equal(header.Get("webhook-signature"), signature)
	event, err := diverted.DecodeEvent([]byte(body))
	is.NoErr(err)
	is.Equal(event.Locator.String(), header.Get("webhook-id"))
	is.Equal(event.Timestamp.Unix(), seconds)
}
