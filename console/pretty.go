package console

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// token is a piece of JSON as a page shows it.
type token struct {
	// Class is key, string, number, word (true, false, null) or empty (the rest).
	Class, Text string
}

// The limits of what a page shows of a body; the whole of it can be downloaded.
const (
	maxShown  = 128 << 10
	maxIndent = 32
)

// pretty takes JSON apart, with line breaks and indentation, until most bytes of it are shown; whole says whether that is
// all of it. Bytes that are no JSON are shown as they come.
func pretty(body []byte, most int) (tokens []token, whole bool) {
	p := printer{most: most}
	depth := 0
	for i := 0; i < len(body); {
		if p.written >= most {
			return p.tokens, false
		}
		switch b := body[i]; b {
		case ' ', '\t', '\n', '\r':
			i++
		case '{', '[':
			i++
			if j := skipSpace(body, i); j < len(body) && (body[j] == '}' || body[j] == ']') {
				p.write("", string(b)+string(body[j]))
				i = j + 1
				break
			}
			depth++
			p.write("", string(b)+newline(depth))
		case '}', ']':
			i++
			depth = max(depth-1, 0)
			p.write("", newline(depth)+string(b))
		case ',':
			i++
			p.write("", ","+newline(depth))
		case ':':
			i++
			p.write("", ": ")
		case '"':
			end := endOfString(body, i)
			class := "string"
			if j := skipSpace(body, end); j < len(body) && body[j] == ':' {
				class = "key"
			}
			p.write(class, visible(string(body[i:min(end, i+most)])))
			if end-i > most {
				return p.tokens, false
			}
			i = end
		default:
			end := i + 1
			for end < len(body) && !strings.ContainsRune(" \t\r\n{}[],:\"", rune(body[end])) {
				end++
			}
			class := "number"
			if b != '-' && (b < '0' || b > '9') {
				class = "word"
			}
			p.write(class, visible(string(body[i:min(end, i+most)])))
			if end-i > most {
				return p.tokens, false
			}
			i = end
		}
	}
	return p.tokens, true
}

// printer gathers tokens; those without a class that follow each other become one.
type printer struct {
	tokens        []token
	written, most int
}

func (p *printer) write(class, text string) {
	p.written += len(text)
	if n := len(p.tokens); class == "" && n > 0 && p.tokens[n-1].Class == "" {
		p.tokens[n-1].Text += text
		return
	}
	p.tokens = append(p.tokens, token{class, text})
}

// newline begins a line; deeper than maxIndent lines are indented no further.
func newline(depth int) string { return "\n" + strings.Repeat("  ", min(depth, maxIndent)) }

func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\t' || b[i] == '\n' || b[i] == '\r') {
		i++
	}
	return i
}

// endOfString is the index after the string that begins at i.
func endOfString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return len(b)
}

// visible writes what cannot be seen, or makes other text look different from what it is (control characters,
// direction overrides, zero-width spaces), as the escape that JSON has for it.
func visible(s string) string {
	if !strings.ContainsFunc(s, hidden) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case !hidden(r):
			b.WriteString(s[i : i+n])
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&b, `\u%04x\u%04x`, 0xd800+r>>10, 0xdc00+r&0x3ff)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
		i += n
	}
	return b.String()
}

func hidden(r rune) bool {
	return r == utf8.RuneError || r != ' ' && !unicode.IsGraphic(r) || unicode.Is(unicode.Bidi_Control, r) ||
		unicode.Is(unicode.Other_Default_Ignorable_Code_Point, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r)
}
