package console

import (
	"bytes"
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"strings"
)

// answer is what goes out: a page, bytes of another type, JSON for the console's own script, or the way to
// another page.
type answer struct {
	status int
	header http.Header
	body   []byte
	json   any
}

// contentSecurityPolicy has a page run and load nothing but the console's own files, send forms to the console alone, and be
// framed by nobody. It leaves no place for a style or a script in the page itself.
const contentSecurityPolicy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; " +
	"form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// write sends the answer with the headers that all answers have.
func (a answer) write(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	header.Set("Cache-Control", "no-store")
	header.Set("Content-Security-Policy", contentSecurityPolicy)
	header.Set("X-Content-Type-Options", "nosniff")
	// Not no-referrer: with it browsers send Origin: null along with the console's own forms, and over plain HTTP,
	// where there is no Sec-Fetch-Site, these would look like another site's. No other site learns anything by either.
	header.Set("Referrer-Policy", "same-origin")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("X-Frame-Options", "DENY") // for browsers that do not know frame-ancestors
	header.Set("Content-Type", "text/html; charset=utf-8")
	if a.json != nil {
		header.Set("Content-Type", "application/json")
		a.body, _ = json.Marshal(a.json) // the types of this package can always be encoded
	}
	maps.Copy(header, a.header)
	header.Set("Content-Length", strconv.Itoa(len(a.body)))
	w.WriteHeader(a.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(a.body) // the client has gone; there is nobody to tell
	}
}

// render makes a page. A fault of a template is one of this package's, and found by its tests.
func render(name string, view any) answer {
	var b bytes.Buffer
	if err := templates[name].ExecuteTemplate(&b, "layout", view); err != nil {
		panic(err)
	}
	return answer{status: http.StatusOK, body: b.Bytes()}
}

// seeOther leads to another page of the console after a POST, so that reloading it repeats nothing.
func seeOther(location string) answer {
	return answer{status: http.StatusSeeOther, header: http.Header{"Location": {location}}}
}

// wantsJSON says whether the console's own script asks.
func (c *call) wantsJSON() bool {
	return strings.HasPrefix(c.r.Header.Get("Accept"), "application/json")
}
