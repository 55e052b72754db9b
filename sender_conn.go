package diverted

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
)

// connection is what a transport of the sender reads from. Two things of [http.Transport] are not to be had
// otherwise:
//
//   - What a receiver sends without having been asked, [http.Transport] prints to the global log, and it may
//     be anything, a credential that the receiver was sent too. So the transport never gets to see it: while
//     no request is under way, Read takes whatever comes for the connection's end. And since the transport
//     also prints what it has in its buffer behind an answer, Read hands out no byte behind an answer: at most
//     one line, where lines end both the header section and a chunked body, and of a body of known length at
//     most what is left of it. Such a connection is not used again either.
//   - Its end is an error of our own. For [io.EOF] the transport has one that nobody can tell from others, and
//     with it fails a request of which nothing was written, which could go over another connection.
//
// Whoever reads has the fields to himself, and that is one goroutine at a time, but for requests.
type connection struct {
	net.Conn
	// requests counts those that are being sent, and whose answers are not read yet. For a moment there can be
	// two: the next one may be before the transport tells that the connection was free.
	requests atomic.Int32
	// held was read and not yet handed out.
	held bytes.Buffer
	// body is what is left of a body of known length.
	body int64
	// spoiled: something stood behind an answer.
	spoiled bool
}

var errClosed = errors.New("connection closed by the receiver")

func (c *connection) Read(b []byte) (int, error) {
	have := c.held.Bytes()
	fresh := len(have) == 0
	if fresh {
		n, err := c.Conn.Read(b)
		if n == 0 { // an error beside something comes again
			if err == io.EOF {
				err = errClosed
			}
			return 0, err
		}
		have = b[:n]
	}
	if c.spoiled || c.requests.Load() == 0 {
		return 0, errClosed
	}
	n := min(len(have), len(b))
	if c.body > 0 {
		n = int(min(int64(n), c.body))
		c.body -= int64(n)
	} else if line := bytes.IndexByte(have[:n], '\n'); line >= 0 {
		n = line + 1
	}
	if fresh {
		c.held.Write(have[n:])
	} else {
		copy(b, c.held.Next(n))
	}
	return n, nil
}

// trace tells a connection what its transport does.
type trace struct{ conn *connection }

// follow returns a context for a request whose connection is to be told.
func (t *trace) follow(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { t.conn, _ = info.Conn.(*connection) },
		// They are in the transport's buffer, which has room for more than all of them, so nobody can answer yet. When it
		// has got the connection the transport does not expect an answer yet, and would print what comes.
		WroteHeaders: func() {
			if t.conn != nil {
				t.conn.requests.Add(1)
			}
		},
		// The answer was read to its end, by the goroutine that calls this.
		PutIdleConn: func(err error) {
			if t.conn != nil && err == nil {
				t.conn.spoiled = t.conn.held.Len() > 0
				t.conn.requests.Add(-1)
			}
		},
	})
}

// answered is told the header section. It is called before the body is read, by the goroutine that does.
func (t *trace) answered(r *http.Response) {
	if t.conn != nil && r.ContentLength > 0 {
		t.conn.body = r.ContentLength
	}
}
