package diverted

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"
)

// The limits of an endpoint's headers.
const (
	// MaxHeaders is the number of headers that an endpoint may set, each value counted.
	MaxHeaders = 32
	// MaxHeaderBytes is the length of their names and values together, in bytes.
	MaxHeaderBytes = 8 << 10
)

// refusedHeaders are the names that an endpoint cannot set, beside those that begin content- or webhook-.
var refusedHeaders = map[string]bool{
	"Host": true, // of the URL, and of nothing else

	// What frames a message or belongs to a connection (RFC 9110, section 7.6.1) is the client's: set by a
	// stranger, it makes two parties disagree where a message ends.
	"Connection": true, "Http2-Settings": true, "Keep-Alive": true, "Proxy-Authenticate": true,
	"Proxy-Authorization": true, "Proxy-Connection": true, "Te": true, "Trailer": true,
	"Transfer-Encoding": true, "Upgrade": true, "Expect": true,

	"Cookie":          true, // no session is kept
	"Accept-Encoding": true, // a compressed answer would make an unreadable excerpt

	// With one of these Go's client sends a POST again that the receiver may have seen.
	"Idempotency-Key": true, "X-Idempotency-Key": true,
}

func refusedHeader(canonical string) bool {
	return refusedHeaders[canonical] || strings.HasPrefix(canonical, "Content-") || strings.HasPrefix(canonical, "Webhook-")
}

// checkHeaders adds the faults of headers, each below path by the name it is about. It never repeats a value.
func checkHeaders(f *faults, path string, headers http.Header) {
	count, size := 0, 0
	seen := make(map[string]bool, len(headers))
	for _, name := range slices.Sorted(maps.Keys(headers)) {
		canonical, values := http.CanonicalHeaderKey(name), headers[name]
		count += len(values)
		size += len(name) * len(values)
		at := path + "." + name
		if !validToken(name) || len(name) > 64 {
			at = path + "." + quote(name)
		}
		switch {
		case !validToken(name):
			f.add(at, "must be a valid name (RFC 9110)")
		case refusedHeader(canonical):
			f.add(at, "must not be set")
		case seen[canonical]:
			f.add(at, "must not be named twice, in whatever case")
		case len(values) == 0:
			f.add(at, "must have a value")
		}
		seen[canonical] = true
		for i, value := range values {
			size += len(value)
			switch {
			case value == Mask:
				f.add(fmt.Sprintf("%s[%d]", at, i), "must be the value itself, not the mask that answers show in its place")
			case !validFieldValue(value):
				f.add(fmt.Sprintf("%s[%d]", at, i), "must be without control characters or space around it (RFC 9110)")
			}
		}
	}
	if count > MaxHeaders {
		f.add(path, "must be at most %d values, was %d", MaxHeaders, count)
	}
	if size > MaxHeaderBytes {
		f.add(path, "must be at most %d bytes in all, was %d", MaxHeaderBytes, size)
	}
}

// validToken says whether s is a token (RFC 9110, section 5.6.2), as the name of a header must be.
func validToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}

// validFieldValue says whether s can be the value of a header (RFC 9110, section 5.5): CR, LF, NUL and
// the other control characters could begin a header of their own.
func validFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return utf8.ValidString(s) && strings.Trim(s, " \t") == s
}

// canonicalHeaders returns a copy of the headers with their names as HTTP/1.1 writes them.
func canonicalHeaders(headers http.Header) http.Header {
	out := make(http.Header, len(headers))
	for name, values := range headers {
		out[http.CanonicalHeaderKey(name)] = slices.Clone(values)
	}
	return out
}
