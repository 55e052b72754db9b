package diverted

import (
	"net/http"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/matryer/is"
)

func TestATextIsOneLineOfPrintableUTF8(t *testing.T) {
	for name, tt := range map[string]struct{ in, want string }{
		"plain":                     {"503 Service Unavailable", "503 Service Unavailable"},
		"other scripts":             {"Zürich 東京 👍", "Zürich 東京 👍"},
		"empty":                     {"", ""},
		"line breaks and tabs":      {"a\r\n\tb", `a\r\n\tb`},
		"control characters":        {"a\x00\x1b[31m\x7fb", `a\x00\x1b[31m\x7fb`},
		"bytes that are no UTF-8":   {"a\xff\xc3\x28\xed\xa0\x80", `a\xff\xc3(\xed\xa0\x80`},
		"the replacement character": {"a\ufffdb", "a\ufffdb"},
		"C1 control characters":     {"a\u0085\u009b", `a\u0085\u009b`},
		"line separators":           {"a\u2028\u2029", `a\u2028\u2029`},
		"bidi and zero width":       {"a\u202eb\u200bc\ufeff", `a\u202eb\u200bc\ufeff`},
		"beyond the basic plane":    {"a\U000e0001\U0010ffff", `a\U000e0001\U0010ffff`},
		"a backslash":               {`a\nb`, `a\nb`},
		"a space that is no space":  {"a\u00a0b", "a\u00a0b"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(oneLine(tt.in, maxTextBytes), tt.want)
		})
	}
}

func TestATextIsCutAtItsLimitBetweenCharacters(t *testing.T) {
	for name, tt := range map[string]struct {
		in    string
		limit int
		want  string
	}{
		"as long as may be":            {"abcdef", 6, "abcdef"},
		"one more":                     {"abcdefg", 6, "abc…"},
		"characters of several bytes":  {"äöüäöü", 8, "äö…"},
		"an escape is never cut":       {"abcd\x00", 7, "abcd…"},
		"an escape that fits at first": {"ab\n\n", 5, "ab…"},
		"no room at all":               {"abc", 2, "…"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(oneLine(tt.in, tt.limit), tt.want)
		})
	}
}

func FuzzOneLine(f *testing.F) {
	f.Add("503 Service Unavailable", 1024)
	f.Add("a\x00\xff\u2028\U000e0001", 20)
	f.Add(strings.Repeat("ä", 600), 1024)
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 3 || limit > 1<<16 {
			t.Skip()
		}
		got := oneLine(s, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Fatalf("%q of %d bytes is %q", s, limit, got)
		}
		for _, r := range got {
			if unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029' {
				t.Fatalf("%q is %q", s, got)
			}
		}
		if again := oneLine(got, limit); again != got {
			t.Fatalf("%q is %q, and that is %q", s, got, again)
		}
	})
}

func TestWhatAReceiverWasToldInConfidenceIsHiddenFromItsEcho(t *testing.T) {
	secret := GenerateSecret()
	old := GenerateSecret()
	e := &Endpoint{
		URL: "https://example.com/hooks?key=qu%20ery%2Fkey&id=7",
		Headers: http.Header{
			"Authorization": {"Bearer t0ken<&>\"quoted\""},
			"X-Basic":       {"Basic dXNlcjpwYXNzd29yZA=="}, // user:password
			"X-Key":         {"first-key", "second-key", "ab"},
		},
		Secret:     secret,
		OldSecrets: []OldSecret{{Secret: old}},
	}
	for name, tt := range map[string]struct{ in, want string }{
		"a header":                       {"got Bearer t0ken<&>\"quoted\"!", "got ***!"},
		"its credentials alone":          {`got t0ken<&>"quoted"!`, "got ***!"},
		"in JSON":                        {`{"a":"Bearer t0ken<&>\"quoted\""}`, `{"a":"***"}`},
		"in JSON, escaped for HTML":      {`{"a":"Bearer t0ken\u003c\u0026\u003e\"quoted\""}`, `{"a":"***"}`},
		"in HTML":                        {"<p>Bearer t0ken&lt;&amp;&gt;&#34;quoted&#34;</p>", "<p>***</p>"},
		"in a URL":                       {"a=Bearer+t0ken%3C%26%3E%22quoted%22", "a=***"},
		"several values":                 {"first-key, second-key", "***, ***"},
		"what Basic encodes":             {"user:password or password", "*** or ***"},
		"the query":                      {"POST /hooks?key=qu%20ery%2Fkey&id=7", "POST ***?***"},
		"a value of the query":           {"key qu%20ery%2Fkey", "key ***"},
		"a value of the query, unquoted": {"key qu ery/key", "key ***"},
		"the path":                       {"no route for /hooks", "no route for ***"},
		"secrets":                        {string(secret + " " + old[len(secretPrefix):]), "*** ***"},
		"what is too short to hide":      {"ab 7", "ab 7"},
		"nothing":                        {"out of service", "out of service"},
	} {
		t.Run(name, func(t *testing.T) {
			is := is.New(t)
			is.Equal(scrub(tt.in, e.hidden(), false), tt.want)
		})
	}
	t.Run("cut off in the middle", func(t *testing.T) {
		is := is.New(t)
		is.Equal(scrub("key second-k", e.hidden(), true), "key ***")
		is.Equal(scrub("key second-k", e.hidden(), false), "key second-k") // where the receiver itself ended
	})
}
