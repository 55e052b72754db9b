package console

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/matryer/is"

	"github.com/divertedevents/diverted/internal/testdata"
)

func text(tokens []token) string {
	var b strings.Builder
	for _, t := range tokens {
		b.WriteString(t.Text)
	}
	return b.String()
}

func TestPrettyIsTheSameJSON(t *testing.T) {
	is := is.New(t)
	for _, payload := range testdata.Payloads() {
		tokens, whole := pretty(payload.Data, len(payload.Data)*8)
		is.True(whole)
		var compact, again bytes.Buffer
		is.NoErr(json.Compact(&compact, payload.Data))
		is.NoErr(json.Compact(&again, []byte(text(tokens))))
		var a, b any // what cannot be seen is escaped, which means the same
		is.NoErr(json.Unmarshal(compact.Bytes(), &a))
		is.NoErr(json.Unmarshal(again.Bytes(), &b))
		is.Equal(a, b)
	}
}

func TestPrettyShowsStructure(t *testing.T) {
	is := is.New(t)
	tokens, whole := pretty([]byte(`{"a":[1,-2.5e3,"x\"y"],"b":{},"c":[ ],"d":null}`), 1000)
	is.True(whole)
	is.Equal(text(tokens), `{
  "a": [
    1,
    -2.5e3,
    "x\"y"
  ],
  "b": {},
  "c": [],
  "d": null
}`)
	classes := map[string]string{}
	for _, t := range tokens {
		classes[t.Text] = t.Class
	}
	is.Equal(classes[`"a"`], "key")
	is.Equal(classes[`"x\"y"`], "string")
	is.Equal(classes["-2.5e3"], "number")
	is.Equal(classes["null"], "word")
}

func TestPrettyEndsInTimeWhateverItIsGiven(t *testing.T) {
	is := is.New(t)
	for _, body := range []string{
		strings.Repeat("1", 20_000),
		"", "{", `"`, `"\`, "]]]}}}", "\x00\xff\xfe", `{"a"`, "nonsense without quotes",
		strings.Repeat("[", 1<<20), strings.Repeat("[1,", 1<<18), `"` + strings.Repeat("x", 1<<20) + `"`, `{"` + strings.Repeat("y", 1<<20),
	} {
		tokens, whole := pretty([]byte(body), 10_000)
		is.True(len(text(tokens)) < 80_000)
		is.True(whole == (len(body) < 1000))
	}
}

func TestWhatCannotBeSeenIsWrittenOut(t *testing.T) {
	is := is.New(t)
	is.Equal(visible("plain ünïcode 日本語 🎉"), "plain ünïcode 日本語 🎉")
	is.Equal(visible("a\u202eb\u200bc\u2028d\x00e\nf\xffg\U000e0041"), `a\u202eb\u200bc\u2028d\u0000e\nf\xffg\udb40\udc41`)
}
