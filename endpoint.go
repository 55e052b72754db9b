package diverted

import (
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxURLBytes is the longest URL of an endpoint, in bytes.
const MaxURLBytes = 2048

// Endpoint is where messages go: a webhook's events, or the notices of its failures.
type Endpoint struct {
	// URL is http or https, with a host, without userinfo, fragment or a space in its query, at most 2,048 bytes.
	// Required.
	URL string
	// Headers are sent with every message: at most [MaxHeaders], [MaxHeaderBytes] in all. Refused: Host,
	// Content-*, Webhook-*, Cookie, Expect, Accept-Encoding, Idempotency-Key, X-Idempotency-Key, and what
	// belongs to a connection, such as Transfer-Encoding. Values are treated as credentials: never shown or
	// logged, and masked in what is kept of an answer that echoes them.
	Headers http.Header
	// InsecureTLS leaves the receiver's certificate unverified. On the wire it is secureSsl: false.
	InsecureTLS bool
	// HMACEnabled signs every message with Secret, as Standard Webhooks defines it.
	HMACEnabled bool
	// Secret signs messages: whsec_ and the base64 of 24 to 64 bytes. Required if HMACEnabled;
	// GenerateSecret makes one.
	Secret Secret
	// OldSecrets go on signing beside Secret until their time, while receivers change over: at most two.
	OldSecrets []OldSecret
	// Tag is a label of the caller's, at most 200 characters without control or bidi characters.
	Tag string
}

// Validate returns nil, or an [InvalidError] that names every fault.
func (e Endpoint) Validate() error {
	var f faults
	if detail := urlFault(e.URL); detail != "" {
		f.add("url", "%s", detail)
	}
	checkHeaders(&f, "headers", e.Headers)
	if e.HMACEnabled || e.Secret != "" {
		f.merge("secret", e.Secret.Validate())
	}
	for i, old := range e.OldSecrets {
		f.merge(fmt.Sprintf("oldSecrets[%d]", i), old.Secret.Validate())
	}
	if n := len(e.OldSecrets); n > maxOldSecrets {
		f.add("oldSecrets", "must be at most %d, was %d", maxOldSecrets, n)
	}
	if !validLabel(e.Tag) {
		f.add("tag", "must be at most %d characters without control or bidi characters", MaxNameLength)
	}
	return f.err()
}

// urlFault says which rule the URL of an endpoint breaks, "" if none. It never repeats the URL, since
// its query may hold a credential.
func urlFault(raw string) string {
	switch {
	case raw == "":
		return "must not be empty"
	case len(raw) > MaxURLBytes:
		return fmt.Sprintf("must be at most %d bytes, was %d", MaxURLBytes, len(raw))
	}
	u, err := url.Parse(raw)
	switch {
	case err != nil || !utf8.ValidString(raw):
		return "must be a URL"
	case u.Scheme != "http" && u.Scheme != "https":
		return "must begin with http:// or https://"
	case u.Opaque != "" || u.Hostname() == "":
		return "must have a host"
	case u.User != nil:
		return "must not have userinfo"
	case u.Fragment != "" || strings.Contains(raw, "#"):
		return "must not have a fragment"
	case strings.Contains(u.RawQuery, " "): // which is sent as it is, and ends the request's target
		return "must not have a space in its query; write %20"
	}
	if port := u.Port(); port != "" || strings.HasSuffix(u.Host, ":") {
		if _, err := netip.ParseAddrPort("[::]:" + port); err != nil || port == "0" {
			return "must have a port of 1 to 65535, or none"
		}
	}
	return ""
}

// clone returns an endpoint that shares no memory with e.
func (e Endpoint) clone() Endpoint {
	e.Headers = e.Headers.Clone()
	e.OldSecrets = slices.Clone(e.OldSecrets)
	return e
}

// origin is the scheme, host and port of the endpoint: all that a text may tell of its URL.
func (e Endpoint) origin() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return "(malformed URL)"
	}
	return u.Scheme + "://" + u.Host
}

// host is the name or address of the receiver's machine, in lower case.
func (e Endpoint) host() string {
	u, err := url.Parse(e.URL)
	if err != nil {
		return ""
	}
	return strings.ToLower(u.Hostname())
}

// sameOrigin says whether two URLs have the same scheme, host and port.
func sameOrigin(a, b string) bool {
	u, err := url.Parse(a)
	v, err2 := url.Parse(b)
	if err != nil || err2 != nil {
		return false
	}
	port := func(u *url.URL) string {
		switch {
		case u.Port() != "":
			return u.Port()
		case u.Scheme == "https":
			return "443"
		}
		return "80"
	}
	return u.Scheme == v.Scheme && strings.EqualFold(u.Hostname(), v.Hostname()) && port(u) == port(v)
}

// String returns the scheme, host and port of the endpoint, and nothing else of it.
func (e Endpoint) String() string { return e.origin() }

// GoString returns what String does, so that %#v tells no more.
func (e Endpoint) GoString() string { return e.origin() }

// LogValue returns what String does.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.origin()) }

// MarshalText returns what String does, so that JSON tells no more. [EncodeWebhook] writes all of it.
func (e Endpoint) MarshalText() ([]byte, error) { return []byte(e.origin()), nil }

// EndpointUpdate changes an [Endpoint]; fields that are nil or empty change nothing.
type EndpointUpdate struct {
	// URL replaces the URL. If scheme, host or port change it also drops the headers, which are credentials
	// for the old receiver: give them again in AddHeaders.
	URL *string
	// RemoveHeaders takes these names away, then AddHeaders sets these headers; both regardless of case.
	AddHeaders    http.Header
	RemoveHeaders []string
	InsecureTLS   *bool
	HMACEnabled   *bool
	// Secret replaces the secret. The old one goes on signing beside it for SecretOverlap.
	Secret *Secret
	// SecretOverlap is counted from now. 0: the constant [SecretOverlap]. Negative: none.
	SecretOverlap time.Duration
	// RevokeOldSecrets ends the signing by replaced secrets at once, also by the one that Secret replaces.
	RevokeOldSecrets bool
	Tag              *string
}

// Apply returns the endpoint after the update, or an [InvalidError]; e stays as it is.
func (e Endpoint) Apply(u EndpointUpdate) (Endpoint, error) {
	var f faults
	stand := e
	e = e.clone()
	if u.URL != nil {
		e.URL = *u.URL
	}
	e.Headers = updateHeaders(&f, stand, e.URL, u)
	if u.InsecureTLS != nil {
		e.InsecureTLS = *u.InsecureTLS
	}
	if u.HMACEnabled != nil {
		e.HMACEnabled = *u.HMACEnabled
	}
	if u.Secret != nil {
		if e.Secret = *u.Secret; e.Secret == "" && !e.HMACEnabled { // which Validate would let pass
			f.merge("secret", e.Secret.Validate())
		}
		overlap := u.SecretOverlap
		if overlap == 0 {
			overlap = SecretOverlap
		}
		e = e.rotate(stand, time.Now().UTC().Round(0), overlap)
	}
	if u.RevokeOldSecrets {
		e.OldSecrets = nil
	}
	if u.Tag != nil {
		e.Tag = *u.Tag
	}
	f.merge("", e.Validate())
	if err := f.err(); err != nil {
		return Endpoint{}, err
	}
	return e, nil
}

// updateHeaders returns the headers of an endpoint after an update that gives it this URL.
func updateHeaders(f *faults, stand Endpoint, url string, u EndpointUpdate) http.Header {
	headers := http.Header{}
	if sameOrigin(stand.URL, url) {
		headers = canonicalHeaders(stand.Headers)
	}
	for _, name := range u.RemoveHeaders {
		headers.Del(name)
	}
	known := len(f.fields)
	if checkHeaders(f, "addHeaders", u.AddHeaders); len(f.fields) > known {
		return nil
	}
	maps.Copy(headers, canonicalHeaders(u.AddHeaders))
	if len(headers) == 0 {
		return nil
	}
	return headers
}

// The methods of an update tell nothing of what it sets, wherever it is printed, logged or encoded.

// String returns a mask.
func (u EndpointUpdate) String() string { return Mask }

// GoString returns a mask.
func (u EndpointUpdate) GoString() string { return Mask }

// LogValue returns a mask.
func (u EndpointUpdate) LogValue() slog.Value { return slog.StringValue(Mask) }

// MarshalText returns a mask.
func (u EndpointUpdate) MarshalText() ([]byte, error) { return []byte(Mask), nil }
