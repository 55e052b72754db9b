package diverted

import (
	"encoding/base64"
	"encoding/json"
	"html"
	"net/url"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxTextBytes is the length of a failure's message, and of its excerpt.
const maxTextBytes = 1 << 10

// Mask stands in place of what must not be shown, such as the value of an endpoint's header.
const Mask = "***"

// oneLine returns s as one line of printable, valid UTF-8 of at most limit bytes: other bytes are
// written \xff, control, format and line-breaking characters are escaped, and what is cut ends in an
// ellipsis.
func oneLine(s string, limit int) string {
	const ellipsis = "…"
	var b strings.Builder
	b.Grow(min(len(s), limit))
	cut := 0 // the longest length so far that leaves room for the ellipsis
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		piece := s[i : i+size]
		if r == utf8.RuneError && size == 1 || !printable(r) {
			piece = escapeRune(r, s[i], size)
		}
		if b.Len()+len(piece) > limit {
			return b.String()[:cut] + ellipsis
		}
		b.WriteString(piece)
		if b.Len() <= limit-len(ellipsis) {
			cut = b.Len()
		}
		i += size
	}
	return b.String()
}

// printable says whether r may stand in a line as it is: no control character, no line or paragraph
// separator, nothing invisible that reorders or hides text.
func printable(r rune) bool {
	return r == ' ' || unicode.IsGraphic(r) && !unicode.Is(unicode.Zl, r) && !unicode.Is(unicode.Zp, r)
}

func escapeRune(r rune, first byte, size int) string {
	const hex = "0123456789abcdef"
	switch {
	case r == '\n':
		return `\n`
	case r == '\r':
		return `\r`
	case r == '\t':
		return `\t`
	case size == 1:
		return string([]byte{'\\', 'x', hex[first>>4], hex[first&15]})
	case r > 0xffff:
		return string([]byte{'\\', 'U', '0', '0', hex[r>>20&15], hex[r>>16&15], hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15]})
	default:
		return string([]byte{'\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15]})
	}
}

// minHidden is the length below which a value is no credential: hiding "1" everywhere would tell it, and
// spoil the text.
const minHidden = 4

// hidden returns what a receiver was told in confidence and may echo: the values of the endpoint's
// headers, its secrets, and the path and query of its URL, in the spellings that an echo is likely to
// have; the longest first.
func (e *Endpoint) hidden() []string {
	var out []string
	add := func(s string) {
		if len(s) < minHidden {
			return
		}
		out = append(out, s, url.QueryEscape(s), url.PathEscape(s), html.EscapeString(s))
		if quoted, err := json.Marshal(s); err == nil {
			out = append(out, string(quoted[1:len(quoted)-1])) // with < > & escaped
		}
		out = append(out, strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s))
	}
	for _, values := range e.Headers {
		for _, value := range values {
			add(strings.TrimSpace(value))
			// An echo may show what follows the scheme of Authorization, or what Basic encodes.
			scheme, rest, ok := strings.Cut(strings.TrimSpace(value), " ")
			if !ok {
				continue
			}
			add(strings.TrimSpace(rest))
			if strings.EqualFold(scheme, "Basic") {
				if plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil {
					add(string(plain))
					_, password, _ := strings.Cut(string(plain), ":")
					add(password)
				}
			}
		}
	}
	add(string(e.Secret))
	add(strings.TrimPrefix(string(e.Secret), secretPrefix))
	for _, old := range e.OldSecrets {
		add(string(old.Secret))
		add(strings.TrimPrefix(string(old.Secret), secretPrefix))
	}
	if u, err := url.Parse(e.URL); err == nil {
		add(u.EscapedPath()) // which is the credential of many a receiver
		add(u.Path)
		add(u.RawQuery)
		for pair := range strings.SplitSeq(u.RawQuery, "&") {
			_, value, _ := strings.Cut(pair, "=")
			add(value)
			if plain, err := url.QueryUnescape(value); err == nil {
				add(plain)
			}
		}
	}
	slices.SortFunc(out, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return slices.Compact(out)
}

// scrub replaces every hidden text in s by a mask. If s was cut off somewhere, a beginning of one at its
// end goes too.
func scrub(s string, hidden []string, cut bool) string {
	for _, h := range hidden {
		s = strings.ReplaceAll(s, h, Mask)
	}
	if cut {
		for _, h := range hidden {
			for n := min(len(h)-1, len(s)); n >= minHidden; n-- {
				if strings.HasSuffix(s, h[:n]) {
					return s[:len(s)-n] + Mask
				}
			}
		}
	}
	return s
}
