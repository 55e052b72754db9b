package diverted

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"runtime/debug"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/divertedevents/diverted/internal/guard"
)

// The bounds of an attempt that nobody needs to change.
const (
	connectTimeout   = 10 * time.Second // of the dial, DNS included, and of the TLS handshake, each
	idleTimeout      = 30 * time.Second // of a connection that nothing is sent over
	maxHeaderBytes   = 64 << 10         // of an answer, 1xx ones before it included
	writeBufferBytes = 16 << 10         // of a connection, so that most messages are written at once
	maxExcerptBytes  = 16 << 10         // of an answer's body that are read
	excerptTimeout   = time.Second      // of reading them
	messageBodyBytes = 256              // of an excerpt that are repeated in the message
)

// sender makes attempts. Its client is its own, and does as little as it can:
//
//   - Redirects are not followed, there are no cookies and no proxy: requests go to the transport itself,
//     and it is not the default one.
//   - Every address is judged after DNS, at the moment it is dialled, see package guard.
//   - HTTP/1.1 only. Over HTTP/2 all deliveries to a host would share a connection, so that one receiver
//     that stalls it would hold those of every webhook there, and a request that the receiver had seen
//     could be sent again unasked (RFC 9113, section 8.7). An idle connection costs less than either.
//   - Nothing is sent twice. The transport repeats a request by itself only if a connection that was
//     kept alive turns out to be closed before a single byte of the request was written to it; then the
//     receiver cannot have seen it, and the race costs the delivery nothing. (With the headers
//     Idempotency-Key or X-Idempotency-Key it would repeat after writing too: endpoints cannot have them.)
//     A connection that dies later fails the attempt, since the receiver may have acted on it.
type sender struct {
	verified, insecure http.RoundTripper
	timeout            time.Duration
	maxRetryAfter      time.Duration
	allowInsecure      bool
	logger             *slog.Logger

	// dialer is that of both transports, nil if the host gave its own.
	dialer *net.Dialer
	// contentType and userAgent are header values that all requests share.
	contentType, userAgent []string
	targets                targets
	// buffers are *[maxExcerptBytes]byte.
	buffers sync.Pool
}

// request is one attempt to make.
type request struct {
	endpoint *Endpoint
	// id is the header webhook-id.
	id   string
	body []byte
	// traceParent is the header of that name. Empty: none.
	traceParent string
}

// response is how an attempt ended.
type response struct {
	// failure is nil if it succeeded.
	failure *Failure
	// status is the answer's, 0 without one.
	status int
	// retryAfter is the wait that the receiver asked for.
	retryAfter time.Duration
	began      time.Time
	// duration is the time from began to the end of the header section, or to the failure before it.
	duration time.Duration
	// aborted: the caller's context ended first. Whether the receiver got the message is unknown; failure is
	// nil and means nothing.
	aborted bool
	// local is why the attempt never left this process: the endpoint or its address is not allowed or malformed,
	// or a transport of the host's failed. Nil: it did, or tried to.
	local error
}

// unanswered says that the request left this process, or tried to, and that no host responded.
func (r *response) unanswered() bool { return !r.aborted && r.local == nil && r.status == 0 }

// newSender returns a sender. c has its defaults.
func newSender(c Config) *sender {
	s := &sender{
		timeout:       c.Timeout,
		maxRetryAfter: max(c.MaxRetryAfter, 0),
		allowInsecure: c.AllowInsecureTLS,
		logger:        c.Logger,
		contentType:   []string{"application/json"},
		userAgent:     []string{c.UserAgent},
		buffers:       sync.Pool{New: func() any { return new([maxExcerptBytes]byte) }},
	}
	if c.Transport != nil {
		s.verified, s.insecure = c.Transport, c.Transport
		return s
	}
	s.dialer = &net.Dialer{
		Timeout:        min(connectTimeout, c.Timeout),
		ControlContext: guard.New(c.AllowedNetworks, c.DeniedNetworks).Control,
	}
	// Two transports, since connections are pooled by address alone: a message that asks for a verified
	// receiver must never go over a connection that nobody verified.
	s.verified = newTransport(c, s.dialer, &tls.Config{MinVersion: tls.VersionTLS12})
	s.insecure = newTransport(c, s.dialer, &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: true})
	return s
}

func newTransport(c Config, dialer *net.Dialer, config *tls.Config) *http.Transport {
	config.NextProtos = []string{"http/1.1"}
	t := &http.Transport{
		Proxy: nil, // whatever the environment says
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return &connection{Conn: conn}, nil
		},
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dialTLS(ctx, dialer, config, network, address)
			if err != nil {
				return nil, err
			}
			return &connection{Conn: conn}, nil
		},
		DisableCompression:     true, // a small answer must not become a large one
		WriteBufferSize:        writeBufferBytes,
		MaxIdleConns:           c.MaxInFlight,
		MaxIdleConnsPerHost:    c.MaxInFlight, // one host may receive for all webhooks
		IdleConnTimeout:        idleTimeout,
		MaxResponseHeaderBytes: maxHeaderBytes,
		Protocols:              new(http.Protocols),
	}
	t.Protocols.SetHTTP1(true)
	return t
}

// dialTLS does what the transport would, but tells a failed handshake by its type.
func dialTLS(ctx context.Context, dialer *net.Dialer, config *tls.Config, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	raw, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	config = config.Clone()
	config.ServerName = host
	ctx, cancel := context.WithTimeout(ctx, dialer.Timeout)
	defer cancel()
	conn := tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, &handshakeError{err}
	}
	return conn, nil
}

// handshakeError is a failed TLS handshake.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "TLS handshake: " + e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// close closes idle connections.
func (s *sender) close() {
	for _, rt := range []http.RoundTripper{s.verified, s.insecure} {
		if t, ok := rt.(*http.Transport); ok {
			t.CloseIdleConnections()
		}
	}
}

// errDeadline is why an attempt's context ends, if it takes too long.
var errDeadline = errors.New("attempt takes too long")

// send makes one attempt and returns when it is over: when the answer's header section is complete and
// the beginning of its body is read, or when that failed. It never panics.
func (s *sender) send(ctx context.Context, r request) response {
	began := time.Now()
	res := response{began: began}

	attempt, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	deadline := time.AfterFunc(s.timeout, func() { cancel(errDeadline) })
	defer deadline.Stop()

	p := payload{body: r.body}
	answer, err := s.roundTrip(attempt, r, &p, began)
	res.duration = time.Since(began)
	if err != nil {
		late := context.Cause(attempt) == errDeadline
		if ctx.Err() != nil && !late {
			res.aborted = true
			return res
		}
		res.local = localFault(err)
		message := r.endpoint.origin() + ": " + s.explain(err, late, &p)
		res.failure = &Failure{
			Trigger: TriggerTimeout, Message: oneLine(message, maxTextBytes), At: began.Add(res.duration), Duration: res.duration,
		}
		return res
	}
	res.status = answer.StatusCode

	// The status has decided. What follows is for the excerpt, and for using the connection again.
	trigger := StatusTrigger(res.status)
	var body []byte
	var whole bool
	switch {
	case answer.Body == nil, answer.Body == http.NoBody:
	case trigger == TriggerTimeout:
		answer.Body.Close() // after 101 it would be the bare connection, which no context bounds
	default:
		deadline.Reset(excerptTimeout)
		buffer := s.buffers.Get().(*[maxExcerptBytes]byte)
		defer s.buffers.Put(buffer)
		body, whole = readExcerpt(answer.Body, buffer)
	}
	if trigger == "" {
		return res
	}
	asked := retryAfter(res.status, answer.Header, time.Now(), math.MaxInt64)
	res.retryAfter = min(asked, s.maxRetryAfter)
	excerpt := scrub(string(body), r.endpoint.hidden(), !whole)
	res.failure = &Failure{
		Trigger: trigger,
		Message: oneLine(statusMessage(res.status, excerpt), maxTextBytes),
		Status:  res.status,
		Excerpt: oneLine(excerpt, maxTextBytes),
		At:      began.Add(res.duration),

		Duration:   res.duration,
		RetryAfter: asked,
	}
	return res
}

// roundTrip sends the request and returns the answer as soon as its header section is complete.
func (s *sender) roundTrip(ctx context.Context, r request, p *payload, began time.Time) (answer *http.Response, err error) {
	transport := s.verified
	if r.endpoint.InsecureTLS {
		if !s.allowInsecure {
			return nil, errInsecure
		}
		transport = s.insecure
	}
	u, err := s.targets.parse(r.endpoint.URL)
	if err != nil {
		return nil, err
	}
	header, err := s.header(r, began)
	if err != nil {
		return nil, err
	}
	var t trace
	if s.dialer != nil {
		ctx = t.follow(ctx)
	}
	req := (&http.Request{
		Method:        http.MethodPost,
		URL:           u,
		Host:          u.Host,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		ContentLength: int64(len(r.body)),
		GetBody:       p.open, // for when it is used see sender
	}).WithContext(ctx)
	req.Body, _ = p.open()

	// A transport of the host's own must not bring down the dispatcher.
	defer func() {
		if v := recover(); v != nil {
			s.logger.ErrorContext(ctx, "diverted: the transport panicked", "panic", fmt.Sprintf("%T", v), "stack", string(debug.Stack()))
			answer, err = nil, errTransport
		}
	}()
	answer, err = transport.RoundTrip(req)
	if err == nil && answer == nil {
		err = errTransport
	}
	if err == nil {
		t.answered(answer)
	}
	return answer, err
}

// targets are the URLs of endpoints, parsed once: it took a twentieth of the CPU time of a delivery.
type targets struct {
	parsed sync.Map // of *url.URL by text
	count  atomic.Int64
}

// maxTargets bounds the URLs that are remembered; beyond it all are forgotten.
const maxTargets = 4096

// parse returns a URL that the caller may change, but for User, or errURL.
func (t *targets) parse(text string) (*url.URL, error) {
	if known, ok := t.parsed.Load(text); ok {
		u := *known.(*url.URL)
		return &u, nil
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, errURL
	}
	if t.count.Add(1) > maxTargets {
		t.parsed.Clear()
		t.count.Store(1)
	}
	known := *u
	t.parsed.Store(text, &known)
	return u, nil
}

// header returns the headers of the request: the endpoint's own, and those of every message.
func (s *sender) header(r request, now time.Time) (http.Header, error) {
	h := make(http.Header, len(r.endpoint.Headers)+5)
	h["User-Agent"] = s.userAgent
	for name, values := range r.endpoint.Headers {
		// A store of somebody else's may not have validated them, and guarantees rest on the refused ones.
		if name = http.CanonicalHeaderKey(name); !refusedHeader(name) {
			h[name] = values
		}
	}
	own := []string{r.id, strconv.FormatInt(now.Unix(), 10), ""}
	h["Content-Type"] = s.contentType
	h[headerID] = own[0:1:1]
	h[headerTimestamp] = own[1:2:2]
	if r.traceParent != "" {
		h["Traceparent"] = []string{r.traceParent}
	}
	if r.endpoint.HMACEnabled {
		signature, err := sign(own[0], own[1], r.body, r.endpoint.signers(now))
		if err != nil {
			return nil, errSecret
		}
		own[2] = signature
		h[headerSignature] = own[2:3:3]
	}
	return h, nil
}

// payload is the body of a request. It is a [bytes.Reader], since only for those that it knows does the
// transport send headers and body together.
type payload struct {
	body   []byte
	reader *bytes.Reader
}

// open returns the body from its beginning. The transport calls it once, and again in the case that
// sender tells of.
func (p *payload) open() (io.ReadCloser, error) {
	if len(p.body) == 0 {
		return http.NoBody, nil
	}
	p.reader = bytes.NewReader(p.body)
	return io.NopCloser(p.reader), nil
}

// begun says whether a connection was made and the body begun to be written to it. It is to be asked
// after RoundTrip has returned an error, when the transport reads no more.
func (p *payload) begun() bool { return p.reader != nil && p.reader.Len() < len(p.body) }

// readExcerpt reads the beginning of the body into buffer, and closes it; whole says that it was all. A
// body that was read to its end leaves the connection fit for the next request.
func readExcerpt(body io.ReadCloser, buffer *[maxExcerptBytes]byte) (excerpt []byte, whole bool) {
	defer body.Close()
	n := 0
	for n < len(buffer) {
		m, err := body.Read(buffer[n:])
		n += m
		if err != nil {
			return buffer[:n], err == io.EOF || errors.Is(err, errClosed)
		}
	}
	return buffer[:n], false
}

// statusMessage tells a status that is a failure. excerpt is scrubbed.
func statusMessage(status int, excerpt string) string {
	text := strconv.Itoa(status)
	switch name := http.StatusText(status); {
	case StatusTrigger(status) == TriggerTimeout:
		text += " is no status of a final answer"
	case status < 400 && name != "":
		text += " " + name + " (redirects are not followed)"
	case name != "":
		text += " " + name
	}
	if excerpt != "" {
		text += ": " + oneLine(excerpt, messageBodyBytes)
	}
	return text
}

// The faults that an attempt can have before it begins, or of a transport of the host's.
var (
	errURL       = errors.New("the URL is malformed")
	errSecret    = errors.New("the endpoint's secret is missing or malformed, so the message cannot be signed")
	errInsecure  = errors.New("the endpoint asks for TLS without verification, which this dispatcher does not allow")
	errTransport = errors.New("the configured transport failed")
)

// localFault returns by what an attempt failed before anything of it left this process, nil if it did leave.
func localFault(err error) error {
	for _, fault := range []error{errURL, errSecret, errInsecure, errTransport, guard.ErrNotAllowed} {
		if errors.Is(err, fault) {
			return fault
		}
	}
	return nil
}

// explain tells why there is no answer, in words of its own: the texts of the errors may hold the URL,
// addresses, or what the receiver sent.
func (s *sender) explain(err error, late bool, p *payload) string {
	var (
		lookup    *net.DNSError
		handshake *handshakeError
		op        *net.OpError
		malformed textproto.ProtocolError
	)
	switch {
	case late && (s.dialer == nil || p.begun()): // of a host's own transport nothing more is known
		return "no answer within " + s.timeout.String()
	case late:
		return "no connection within " + s.timeout.String()
	case localFault(err) != nil:
		return localFault(err).Error()
	case errors.As(err, &lookup) && lookup.IsNotFound:
		return "no such host"
	case errors.As(err, &lookup):
		return "the name could not be resolved"
	case errors.As(err, &handshake):
		return "TLS: " + explainTLS(handshake)
	case errors.As(err, &op) && op.Op == opAlert: // TLS 1.3 can refuse after the handshake
		return "TLS: refused by the receiver"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return "host unreachable"
	case errors.As(err, &op) && op.Op == "dial" && op.Timeout():
		return "no connection in time"
	case errors.As(err, &op) && op.Op == "dial":
		return "no connection"
	case errors.Is(err, errClosed), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "connection closed before the answer was complete"
	case errors.As(err, &op):
		return "connection broken"
	case errors.As(err, &malformed):
		return "malformed answer"
	case s.dialer == nil:
		return errTransport.Error()
	default:
		return "no valid answer: it is malformed, or its headers exceed 64 KiB"
	}
}

// opAlert is the operation of a [net.OpError] that package tls returns for an alert of the other side.
const opAlert = "remote error"

func explainTLS(err error) string {
	var (
		authority x509.UnknownAuthorityError
		hostname  x509.HostnameError
		invalid   x509.CertificateInvalidError
		verify    *tls.CertificateVerificationError
		record    tls.RecordHeaderError
		op        *net.OpError
		timeout   net.Error
	)
	switch {
	case errors.As(err, &authority):
		return "the certificate is signed by an unknown authority"
	case errors.As(err, &hostname):
		return "the certificate is for another host"
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return "the certificate has expired or is not yet valid"
	case errors.As(err, &invalid), errors.As(err, &verify):
		return "the certificate is not valid"
	case errors.As(err, &op) && op.Op == opAlert:
		return "refused by the receiver"
	case errors.As(err, &record):
		return "the receiver does not speak TLS"
	case errors.As(err, &timeout) && timeout.Timeout():
		return "no handshake in time"
	default:
		return "the handshake failed"
	}
}
