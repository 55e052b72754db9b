package consoletest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds everything that waits for the browser.
const patience = 5 * time.Minute

// browser is a tab of a browser that remembers all that its pages complained of.
type browser struct {
	t   *testing.T
	is  *is.I
	ctx context.Context

	mu         sync.Mutex
	complaints []string
}

// findChromium returns the path of a browser; the test is skipped if there is none.
func findChromium(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("there is no Chromium; on Debian: apt-get install chromium")
	return ""
}

// newBrowser starts a browser that has no past, and ends it with the test.
func newBrowser(t *testing.T) *browser {
	t.Helper()
	path := findChromium(t)
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
	)
	b := &browser{t: t, is: is.New(t)}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	tab, closeTab := chromedp.NewContext(allocator, chromedp.WithListener(b.hear))
	t.Cleanup(func() {
		_ = chromedp.Cancel(tab) // waits until the process has ended
		closeTab()
		stop()
	})
	b.is.NoErr(chromedp.Do(tab)) // the browser lives as long as this context
	ctx, cancel := context.WithTimeout(tab, patience)
	t.Cleanup(cancel)
	b.ctx = ctx
	call(b, log.Enable, cdp.Empty{})
	call(b, runtime.AddBinding, runtime.AddBindingParams{Name: "policyViolated"})
	call(b, page.AddScriptToEvaluateOnNewDocument, page.AddScriptToEvaluateOnNewDocumentParams{
		Source: `addEventListener("securitypolicyviolation", e => policyViolated(e.violatedDirective + " " + e.blockedURI + " " + e.sample))`,
	})
	return b
}

// call has the browser do something that is no action of chromedp's.
func call[P, R any](b *browser, command cdp.Command[P, R], params P) R {
	b.t.Helper()
	result, err := chromedp.Call(b.ctx, command, params)
	if err != nil {
		b.t.Fatalf("the browser: %s: %v", command.Method, err)
	}
	return result
}

// hear remembers what pages complain of: messages on the console, exceptions, dialogs, violations of the policy.
func (b *browser) hear(event any) {
	var complaint string
	switch e := event.(type) {
	case *runtime.EventBindingCalled:
		complaint = "policy violated: " + e.Payload
	case *runtime.EventConsoleAPICalled:
		complaint = "console." + string(e.Type)
		for _, arg := range e.Args {
			complaint += " " + string(arg.Value)
		}
	case *runtime.EventExceptionThrown:
		complaint = fmt.Sprintf("exception: %s at %s:%d", e.ExceptionDetails.Text, e.ExceptionDetails.URL, e.ExceptionDetails.LineNumber)
	case *log.EventEntryAdded:
		complaint = fmt.Sprintf("log: %s %s", e.Entry.Text, e.Entry.URL)
	case *page.EventJavascriptDialogOpening:
		complaint = "dialog: " + e.Message
	default:
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.complaints = append(b.complaints, complaint)
}

// quiet fails the test if a page complained of anything, but of those that expected it.
func (b *browser) quiet(but ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, complaint := range b.complaints {
		if !slices.ContainsFunc(but, func(s string) bool { return strings.Contains(complaint, s) }) {
			b.t.Errorf("the browser complains: %s", complaint)
		}
	}
	b.complaints = nil
}

// do has the browser do something.
func (b *browser) do(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	if err := chromedp.Do(b.ctx, actions...); err != nil {
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string](`location.href + "\n" + document.body.innerText`))
		b.t.Fatalf("the browser: %v; the page is\n%s", err, text)
	}
}

// ask evaluates JavaScript on the page.
func ask[T any](b *browser, script string) T {
	b.t.Helper()
	answer, err := chromedp.Run(b.ctx, chromedp.Evaluate[T](script))
	if err != nil {
		b.t.Fatalf("the browser: %v", err)
	}
	return answer
}

// open goes to an address.
func (b *browser) open(address string) { b.t.Helper(); b.do(chromedp.Navigate(address)) }

// follow presses the link or button that has this text, and waits until the next page is there.
func (b *browser) follow(text string) {
	b.t.Helper()
	follow(b, chromedp.Search(fmt.Sprintf(`(//a|//button)[contains(normalize-space(.), %q)]`, text)))
}

// follow does so with what a selector finds.
func follow[S chromedp.Selectable](b *browser, selector S) {
	b.t.Helper()
	b.next(func() { b.do(chromedp.Click(selector, chromedp.NodeVisible)) })
}

// followTo goes from one address to another as if there were a link.
func (b *browser) followTo(from, address string) {
	b.t.Helper()
	b.open(from)
	b.next(func() { ask[chromedp.Void](b, fmt.Sprintf(`location.href = %q`, address)) })
}

// next does what leads to another page, and waits until that is there.
func (b *browser) next(leave func()) {
	b.t.Helper()
	before := ask[string](b, pageID)
	leave()
	b.until(func() bool {
		// While one page makes room for the next there is nobody to answer.
		now, err := chromedp.Run(b.ctx, chromedp.Evaluate[string](pageID))
		return err == nil && now != "" && now != before
	})
}

// pageID tells one page from the next, and is empty until it is complete.
const pageID = `document.readyState === "complete" ? performance.timeOrigin + "" : ""`

// until waits for what happens beside the test.
func (b *browser) until(done func() bool) {
	b.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ticker.C:
		case <-b.ctx.Done():
			b.t.Fatal("it does not come to be")
		}
	}
}

// text is what a reader sees of the page.
func (b *browser) text() string { b.t.Helper(); return ask[string](b, `document.body.innerText`) }

// sees fails the test unless the page shows each text, or comes to.
func (b *browser) sees(texts ...string) {
	b.t.Helper()
	shown := b.text()
	for _, text := range texts {
		if !strings.Contains(shown, text) {
			b.t.Fatalf("%q is not on the page:\n%s", text, shown)
		}
	}
}

// reloadUntil loads the page again until it shows the text.
func (b *browser) reloadUntil(text string) {
	b.t.Helper()
	b.until(func() bool {
		if strings.Contains(b.text(), text) {
			return true
		}
		b.do(chromedp.Reload())
		return false
	})
}

// pictures is the directory for screenshots.
func pictures(t *testing.T) string {
	if dir := os.Getenv("CONSOLE_SCREENSHOTS"); dir != "" {
		return dir
	}
	return t.TempDir()
}
