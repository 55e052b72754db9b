// Package crashtest tries to make a dispatcher lose events: it runs a service in a process of its own,
// under load, kills it with SIGKILL at random moments, starts it again, and at the end holds every event
// that was acknowledged against the receiver's own log and the store.
//
// [Run] is the parent, which owns the receiver and judges. [Service] is the child. [RunCluster] does the
// same with several services at once, on a server that dies too. A test of a store calls both:
//
//	func TestMain(m *testing.M) {
//		crashtest.Service(open) // does not return in a child
//		os.Exit(m.Run())
//	}
package crashtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	"github.com/divertedevents/diverted"
)

// Open opens the store under test, in any process.
type Open func(ctx context.Context, dsn string) (diverted.Store, error)

// Config sets up a [Run].
type Config struct {
	// Open opens the store at DSN.
	Open Open
	DSN  string
	// Kills is how often the service is killed.
	Kills int
	// Acknowledged is how many events are acknowledged in all, at least, spread over the lives of the service.
	Acknowledged int
	// Seed makes the moments of the kills, and what the service does, repeat as far as they can.
	Seed uint64
	// Log is told of the progress. It may be nil.
	Log io.Writer
}

// Report is what a [Run] found.
type Report struct {
	Kills        int
	Restarts     int // of the server
	Acknowledged int
	// What became of those that were acknowledged.
	Delivered, Diverted, Pending, Deleted, Lost int
	// Damaged counts bodies that arrived otherwise than they were accepted.
	Damaged int
	// Explained counts repetitions that a kill explains, TimedOut those after an attempt that the service gave up
	// as its timeout ended, Resent those of events that the service sent again because it was not told what became
	// of the first call, Unexplained all others.
	Explained, TimedOut, Resent, Unexplained int
	// Faults says, for the first few that are lost, damaged or unexplained, what happened.
	Faults []string
}

// String returns the report in one line.
func (r Report) String() string {
	text := fmt.Sprintf("kills %d, acknowledged %d, delivered %d, diverted %d, pending %d, deleted %d, lost %d, damaged %d, duplicates explained by kills %d, by timeouts %d, unexplained %d",
		r.Kills, r.Acknowledged, r.Delivered, r.Diverted, r.Pending, r.Deleted, r.Lost, r.Damaged, r.Explained, r.TimedOut, r.Unexplained)
	if r.Restarts > 0 {
		text += fmt.Sprintf(", sent again by the host %d, restarts of the server %d", r.Resent, r.Restarts)
	}
	return text
}

func (r *Report) fault(format string, args ...any) {
	if len(r.Faults) < 20 {
		r.Faults = append(r.Faults, fmt.Sprintf(format, args...))
	}
}

// The tenant, and the webhooks by the name of their receiver's behaviour.
var (
	tenant   = uuid.MustParse("5c0f1e0a-8c9e-4c0f-9f53-1e1f0b7d2a44")
	webhooks = map[string]ulid.ULID{
		"good":    ulid.MustParse("01JQ00000000000000000G00D0"),
		"slow":    ulid.MustParse("01JQ00000000000000000S00W0"),
		"flaky":   ulid.MustParse("01JQ00000000000000000F1AKY"),
		"failing": ulid.MustParse("01JQ00000000000000000FA110"),
		"suspend": ulid.MustParse("01JQ00000000000000000SPND0"),
	}
)

// attemptTimeout is short, so that the leases of a dead process are over soon.
const attemptTimeout = time.Second

// Run kills the service as often as the configuration says, and judges. Its error is one of the harness;
// what became of the events is in the report.
func Run(ctx context.Context, c Config) (Report, error) {
	if c.Log == nil {
		c.Log = io.Discard
	}
	random := rand.New(rand.NewPCG(c.Seed, 1))
	receiver := newReceiver()
	defer receiver.server.Close()
	ledger := newLedger()

	for kill := range c.Kills {
		child, err := start(ctx, c, receiver, kill, "work", ledger)
		if err != nil {
			return Report{}, err
		}
		if err := child.live(ledger, c.Acknowledged*(kill+1)/c.Kills, random); err != nil {
			return Report{}, err
		}
		if err := child.kill(); err != nil {
			return Report{}, err
		}
		ledger.killed(kill)
		if (kill+1)%10 == 0 {
			fmt.Fprintf(c.Log, "%d kills, %d acknowledged\n", kill+1, ledger.size())
		}
	}

	// A last one, which accepts nothing, delivers all that is left, and is let go.
	child, err := start(ctx, c, receiver, c.Kills, "drain", ledger)
	if err != nil {
		return Report{}, err
	}
	select {
	case err := <-child.done:
		if err != nil {
			return Report{}, fmt.Errorf("the draining service: %w", err)
		}
	case <-ctx.Done():
		child.kill()
		return Report{}, ctx.Err()
	}
	store, err := c.Open(ctx, c.DSN)
	if err != nil {
		return Report{}, err
	}
	defer store.Close()
	return judge(ctx, store, receiver, ledger, c.Kills)
}

// child is a running service.
type child struct {
	command *exec.Cmd
	stdin   io.WriteCloser
	done    chan error // the end of its output and of the process
}

func start(ctx context.Context, c Config, r *receiver, generation int, mode string, l *ledger) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(ctx, self)
	command.Env = append(os.Environ(),
		"CRASHTEST_MODE="+mode, "CRASHTEST_DSN="+c.DSN, "CRASHTEST_RECEIVER="+r.server.URL,
		fmt.Sprintf("CRASHTEST_GENERATION=%d", generation), fmt.Sprintf("CRASHTEST_SEED=%d", c.Seed+uint64(generation)))
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stdin, err := command.StdinPipe()
	if err != nil {
		return nil, err
	}
	if err := command.Start(); err != nil {
		return nil, err
	}
	ch := &child{command: command, stdin: stdin, done: make(chan error, 1)}
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			l.note(lines.Text())
		}
		err := command.Wait()
		if err != nil && stderr.Len() > 0 {
			err = fmt.Errorf("%w: %s", err, stderr.String())
		}
		ch.done <- err
		close(ch.done)
	}()
	return ch, nil
}

// live waits until that many events were acknowledged in all, and then for a random moment.
func (c *child) live(l *ledger, acknowledged int, random *rand.Rand) error {
	moment := func() <-chan time.Time {
		return time.After(200*time.Millisecond + time.Duration(random.Int64N(int64(800*time.Millisecond))))
	}
	end := moment()
	for {
		select {
		case <-end:
		case err := <-c.done:
			return fmt.Errorf("the service ended by itself: %w", err)
		}
		if l.size() >= acknowledged {
			return nil
		}
		end = moment()
	}
}

// kill kills the process and waits until all that it had written is read.
func (c *child) kill() error {
	if err := c.command.Process.Signal(syscall.SIGKILL); err != nil {
		return err
	}
	err := <-c.done
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return nil
	}
	return fmt.Errorf("the service was not killed, it ended: %w", err)
}

// Test runs a [Run] as a test.
func Test(t *testing.T, c Config) {
	t.Helper()
	// On a slow machine a service may need longer to begin than it is given to live.
	c.Acknowledged = max(c.Acknowledged, 100*c.Kills)
	report, err := Run(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	check(t, report)
}

func check(t *testing.T, report Report) {
	t.Helper()
	t.Log(report)
	for _, fault := range report.Faults {
		t.Error(fault)
	}
	if report.Acknowledged == 0 || report.Delivered == 0 || report.Diverted == 0 || report.Deleted == 0 {
		t.Error("the run proves nothing: some kind of end never came about")
	}
	if report.Lost > 0 || report.Damaged > 0 || report.Unexplained > 0 {
		t.Error("events were lost, damaged or repeated")
	}
}
