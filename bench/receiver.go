package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"time"
)

// The paths of the receiver.
const (
	pathOK       = "/ok"       // answers 200 at once
	pathRecord   = "/record"   // as /ok, and notes when each event arrived
	pathHang     = "/hang"     // never answers
	pathFail     = "/fail"     // answers 500
	pathRetry    = "/retry"    // holds the first n, for ?n, answers them 500 at one moment, and is /record then
	pathBear     = "/bear"     // is /record for bearable requests a second, and answers 429 beyond
	pathArrivals = "/arrivals" // returns the notes, and forgets them
)

// bearable is how many requests a second pathBear takes, at most bearableAtOnce of them at once.
const (
	bearable       = 500
	bearableAtOnce = 50
)

// patience is how long pathRetry waits for all that it holds.
const patience = 10 * time.Second

// arrival is the arrival of an event at the receiver, by the clock that all processes of a machine share.
type arrival struct {
	Number int
	At     int64 // nanoseconds since 1970
	Status int
}

func (a arrival) time() time.Time { return time.Unix(0, a.At) }

// mainReceiver serves until its standard input ends, which it does at the latest when the process that
// started it dies. It is a plain net/http server, as receivers are.
func mainReceiver() error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	server := &http.Server{Handler: &receiving{}}
	go server.Serve(listener)
	fmt.Printf("http://%s\n", listener.Addr())
	io.Copy(io.Discard, os.Stdin)
	return server.Close()
}

type receiving struct {
	mu       sync.Mutex
	arrivals []arrival
	held     int           // at pathRetry
	all      chan struct{} // closed when it holds all
	tokens   float64       // of pathBear
	tokensAt time.Time
}

func (s *receiving) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	var buffer [2 * bodyBytes]byte
	n, err := io.ReadFull(r.Body, buffer[:])
	if err != io.EOF && err != io.ErrUnexpectedEOF {
		http.Error(w, "the body must be shorter", http.StatusBadRequest)
		return
	}
	switch r.URL.Path {
	case pathOK:
	case pathRecord:
		s.record(buffer[:n], now, http.StatusOK)
	case pathHang:
		<-r.Context().Done()
	case pathFail:
		http.Error(w, "the database is down", http.StatusInternalServerError)
	case pathRetry:
		if s.hold(r) {
			http.Error(w, "the database is down", http.StatusInternalServerError)
			return
		}
		s.record(buffer[:n], now, http.StatusOK)
	case pathBear:
		if !s.bears(now) {
			s.record(buffer[:n], now, http.StatusTooManyRequests)
			http.Error(w, "slow down", http.StatusTooManyRequests)
			return
		}
		s.record(buffer[:n], now, http.StatusOK)
	case pathArrivals:
		s.mu.Lock()
		defer s.mu.Unlock()
		json.NewEncoder(w).Encode(s.arrivals)
		s.arrivals = nil
	default:
		http.NotFound(w, r)
	}
}

func (s *receiving) record(body []byte, now time.Time, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arrivals = append(s.arrivals, arrival{number(body), now.UnixNano(), status})
}

// hold says whether the request is one of the first n, and returns when they all are there.
func (s *receiving) hold(r *http.Request) bool {
	n, err := strconv.Atoi(r.URL.RawQuery)
	s.mu.Lock()
	if s.held++; err != nil || s.held > n {
		s.mu.Unlock()
		return false
	}
	if s.all == nil {
		s.all = make(chan struct{})
	}
	if s.held == n {
		close(s.all)
	}
	all := s.all
	s.mu.Unlock()
	select {
	case <-all:
	case <-time.After(patience):
	}
	return true
}

// bears says whether the receiver takes one more request now.
func (s *receiving) bears(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tokensAt.IsZero() {
		s.tokens, s.tokensAt = bearableAtOnce, now
	}
	s.tokens = min(s.tokens+bearable*now.Sub(s.tokensAt).Seconds(), bearableAtOnce)
	s.tokensAt = now
	if s.tokens < 1 {
		return false
	}
	s.tokens--
	return true
}

// receiver is the receiver's process, as a probe sees it.
type receiver struct {
	url   string
	stdin io.Closer
	cmd   *exec.Cmd
}

func startReceiver(ctx context.Context) (*receiver, error) {
	cmd, stdin, stdout, err := startRole(ctx, "receiver")
	if err != nil {
		return nil, err
	}
	r := &receiver{stdin: stdin, cmd: cmd}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("receiver: %w", err)
	}
	r.url = strings.TrimSpace(line)
	return r, nil
}

func (r *receiver) stop() {
	r.stdin.Close()
	r.cmd.Wait()
}

// arrivals returns what arrived since the last call, in the order of arrival.
func (r *receiver) arrivals() ([]arrival, error) {
	res, err := http.Post(r.url+pathArrivals, "", nil)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	var all []arrival
	if err := json.NewDecoder(res.Body).Decode(&all); err != nil {
		return nil, err
	}
	return all, nil
}

// arrived returns when each event arrived first, by number.
func (r *receiver) arrived() (map[int]time.Time, error) {
	all, err := r.arrivals()
	first := make(map[int]time.Time, len(all))
	for _, a := range all {
		if _, seen := first[a.Number]; !seen {
			first[a.Number] = a.time()
		}
	}
	return first, err
}

// since returns how long after its moment each event arrived. The moments are by the wall clock, which all
// processes of a machine share.
func (r *receiver) since(moments []time.Time) ([]time.Duration, error) {
	arrived, err := r.arrived()
	if err != nil {
		return nil, err
	}
	times := make([]time.Duration, len(moments))
	for i, at := range moments {
		arrival, ok := arrived[i]
		if !ok {
			return nil, fmt.Errorf("event %d did not arrive", i)
		}
		times[i] = arrival.Sub(at.Round(0))
	}
	return times, nil
}
