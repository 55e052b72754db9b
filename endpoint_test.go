package diverted

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/matryer/is"
)

// detailOf returns the detail of the fault at path, "" if there is none.
func detailOf(err error, path string) string {
	var invalid *InvalidError
	if !errors.As(err, &invalid) {
		return ""
	}
	for _, f := range invalid.Fields {
		if f.Path == path {
			return f.Detail
		}
	}
	return ""
}

func TestAnEndpointsURL(t *testing.T) {
	for _, tt := range []struct{ url, want string }{
		{"https://example.com", ""},
		{"http://example.com/hooks?key=hush", ""},
		{"https://example.com:1", ""},
		{"https://example.com:65535/", ""},
		{"https://[2606:4700::1111]:8443/", ""},
		{"https://127.0.0.1/", ""}, // the guard's to refuse, at the dial
		{"HTTPS://example.com", ""},
		{"https://example.com/" + strings.Repeat("a", MaxURLBytes-20), ""},
		{"", "must not be empty"},
		{"https://example.com/" + strings.Repeat("a", MaxURLBytes-19), "must be at most 2048 bytes, was 2049"},
		{"https://exa mple.com", "must be a URL"},
		{"https://example.com/\x7f", "must be a URL"},
		{"https://example.com/\xff", "must be a URL"},
		{"https://example.com\r\nHost: x", "must be a URL"},
		{"://", "must be a URL"},
		{"example.com/hooks", "must begin with http:// or https://"},
		{"/hooks", "must begin with http:// or https://"},
		{"ftp://example.com", "must begin with http:// or https://"},
		{"file:///etc/passwd", "must begin with http:// or https://"},
		{"javascript:alert(1)", "must begin with http:// or https://"},
		{"https:example.com", "must have a host"},
		{"https:///hooks", "must have a host"},
		{"https://:443/", "must have a host"},
		{"https://user@example.com", "must not have userinfo"},
		{"https://user:hush@example.com", "must not have userinfo"},
		{"https://@example.com", "must not have userinfo"},
		{"https://example.com/#part", "must not have a fragment"},
		{"https://example.com/#", "must not have a fragment"},
		{"https://example.com/?shop=a b", "must not have a space in its query; write %20"},
		{"https://example.com:0", "must have a port of 1 to 65535, or none"},
		{"https://example.com:65536", "must have a port of 1 to 65535, or none"},
		{"https://example.com:", "must have a port of 1 to 65535, or none"},
	} {
		t.Run(tt.url[:min(len(tt.url), 40)], func(t *testing.T) {
			is := is.New(t)
			err := Endpoint{URL: tt.url}.Validate()
			is.Equal(detailOf(err, "url"), tt.want)
			if tt.want == "" {
				is.NoErr(err)
			}
		})
	}
}

func FuzzURL(f *testing.F) {
	for _, seed := range []string{
		"https://example.com/hooks?key=hush", "http://[::1%25lo]:80/", "https://ex%41mple.com", "https://example.com:080",
		"https://１２７.０.０.１/", "https://example.com:/", "https://a@b@c/", "https://h#", "http:\\\\example.com", "https://h\x00",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		if urlFault(raw) != "" {
			return
		}
		u, err := url.Parse(raw)
		if err != nil || u.Host == "" || u.User != nil || u.Fragment != "" || u.Scheme != "http" && u.Scheme != "https" {
			t.Fatalf("accepted %q", raw)
		}
		if _, err := http.NewRequest(http.MethodPost, raw, nil); err != nil {
			t.Fatalf("accepted %q, which cannot be sent to: %v", raw, err)
		}
		e := Endpoint{URL: raw}
		if origin := e.String(); u.RawQuery != "" && strings.Contains(origin, "?") {
			t.Fatalf("the origin of %q is %q", raw, origin)
		}
		if !sameOrigin(raw, raw) {
			t.Fatalf("%q has not its own origin", raw)
		}
	})
}

func TestAnEndpointsHeaders(t *testing.T) {
	many := func(n int) http.Header {
		h := http.Header{}
		for i := range n {
			h.Set(fmt.Sprintf("X-%d", i), "value")
		}
		return h
	}
	for _, tt := range []struct {
		name    string
		headers http.Header
		want    string
	}{
		{"none", nil, ""},
		{"usual ones", http.Header{"Authorization": {"Bearer t0ken"}, "x-tenant": {"7"}, "User-Agent": {"shop"}, "Accept": {"*/*"}}, ""},
		{"several values", http.Header{"X-Region": {"eu", "us"}}, ""},
		{"an empty value", http.Header{"X-Empty": {""}}, ""},
		{"a value in UTF-8, with a tab inside", http.Header{"X-City": {"Zürich\tCH"}}, ""},
		{"as many as may be", many(32), ""},
		{"as long as may be", http.Header{"X-Long": {strings.Repeat("v", 8192-6)}}, ""},
		{"an empty name", http.Header{"": {"v"}}, `headers."": must be a valid name (RFC 9110)`},
		{"a name with a space", http.Header{"X Tenant": {"v"}}, `headers."X Tenant": must be a valid name (RFC 9110)`},
		{"a name with a colon", http.Header{"X:": {"v"}}, `headers."X:": must be a valid name (RFC 9110)`},
		{"a name with a line break", http.Header{"X\r\nHost": {"v"}}, `headers."X\r\nHost": must be a valid name (RFC 9110)`},
		{"a name that is not ASCII", http.Header{"X-Ä": {"v"}}, `headers."X-\u00c4": must be a valid name (RFC 9110)`},
		{"a long name that is refused", http.Header{"Content-" + strings.Repeat("x", 100): {"v"}}, `headers."Content-` + strings.Repeat("x", 56) + `"…: must not be set`},
		{"a value with CR and LF", http.Header{"X": {"v\r\nHost: inside"}}, "headers.X[0]: must be without control characters or space around it (RFC 9110)"},
		{"a value with LF", http.Header{"X": {"v\nHost: inside"}}, "headers.X[0]: must be without control characters or space around it (RFC 9110)"},
		{"a value with NUL", http.Header{"X": {"v\x00"}}, "headers.X[0]: must be without control characters or space around it (RFC 9110)"},
		{"a value with DEL", http.Header{"X": {"v\x7f"}}, "headers.X[0]: must be without control characters or space around it (RFC 9110)"},
		{"a value that is not UTF-8", http.Header{"X": {"v\xff"}}, "headers.X[0]: must be without control characters or space around it (RFC 9110)"},
		{"a value with space around it", http.Header{"X": {"u", " v"}}, "headers.X[1]: must be without control characters or space around it (RFC 9110)"},
		{"no value", http.Header{"X": {}}, "headers.X: must have a value"},
		{"a mask that was sent back", http.Header{"Authorization": {Mask}}, "headers.Authorization[0]: must be the value itself, not the mask that answers show in its place"},
		{"a name in two cases", http.Header{"X-A": {"1"}, "x-a": {"2"}}, "headers.x-a: must not be named twice, in whatever case"},
		{"too many", many(33), "headers: must be at most 32 values, was 33"},
		{"too many values of one", http.Header{"X": make([]string, 33)}, "headers: must be at most 32 values, was 33"},
		{"too long", http.Header{"X-Long": {strings.Repeat("v", 8192-5)}}, "headers: must be at most 8192 bytes in all, was 8193"},
		{"all of it at once", http.Header{"Cookie": {"a\n", Mask}, "Host": {"h"}, "x y": nil, "X": {}, "Y": make([]string, 33)},
			"headers.Cookie: must not be set; headers.Cookie[0]: must be without control characters or space around it (RFC 9110); " +
				"headers.Cookie[1]: must be the value itself, not the mask that answers show in its place; headers.Host: must not be set; " +
				`headers.X: must have a value; headers."x y": must be a valid name (RFC 9110); headers: must be at most 32 values, was 36`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			e := Endpoint{URL: "https://example.com", Headers: tt.headers}
			_, update := Endpoint{URL: e.URL}.Apply(EndpointUpdate{AddHeaders: tt.headers})
			if tt.want == "" {
				is.NoErr(e.Validate())
				is.NoErr(update)
				return
			}
			is.Equal(e.Validate().Error(), "diverted: invalid: "+tt.want)
			is.Equal(strings.ReplaceAll(update.Error(), "addHeaders", "headers"), "diverted: invalid: "+tt.want)
		})
	}
}

func TestHeadersThatAnEndpointCannotSet(t *testing.T) {
	for _, name := range []string{
		"Host", "Content-Type", "Content-Length", "Content-Encoding", "Content-Digest", "Transfer-Encoding", "Connection", "Keep-Alive",
		"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Upgrade", "HTTP2-Settings", "Expect", "Cookie",
		"Accept-Encoding", "Idempotency-Key", "X-Idempotency-Key", "webhook-id", "webhook-timestamp", "webhook-signature", "webhook-future",
	} {
		for _, spelled := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
			t.Run(spelled, func(t *testing.T) {
				is := is.New(t)
				e := Endpoint{URL: "https://example.com"}
				e.Headers = http.Header{spelled: {"v"}}
				is.Equal(detailOf(e.Validate(), "headers."+spelled), "must not be set")

				_, err := Endpoint{URL: e.URL}.Apply(EndpointUpdate{AddHeaders: e.Headers})
				is.Equal(detailOf(err, "addHeaders."+spelled), "must not be set")
			})
		}
	}
}

func FuzzHeaders(f *testing.F) {
	f.Add("Authorization", "Bearer t0ken")
	f.Add("x-tenant", "Zürich")
	f.Add("webhook-id", "1")
	f.Add("X\r\nHost", "v")
	f.Add("X", "v\r\nHost: inside")
	f.Add("", "")
	f.Fuzz(func(t *testing.T, name, value string) {
		e := Endpoint{URL: "https://example.com", Headers: http.Header{name: {value}}}
		if e.Validate() != nil {
			return
		}
		var wire strings.Builder
		if err := e.Headers.Write(&wire); err != nil {
			t.Fatal(err)
		}
		if want := name + ": " + value + "\r\n"; wire.String() != want {
			t.Fatalf("accepted a header that is written %q", wire.String())
		}
		if refusedHeader(http.CanonicalHeaderKey(name)) {
			t.Fatalf("accepted %q", name)
		}
	})
}

func TestAnUpdateOfHeaders(t *testing.T) {
	stand := Endpoint{URL: "https://example.com/a", Headers: http.Header{"authorization": {"Bearer one"}, "X-Tenant": {"7"}}}
	to := func(url string, add http.Header, remove ...string) EndpointUpdate {
		u := EndpointUpdate{AddHeaders: add, RemoveHeaders: remove}
		if url != "" {
			u.URL = &url
		}
		return u
	}
	kept := http.Header{"Authorization": {"Bearer one"}, "X-Tenant": {"7"}}
	for _, tt := range []struct {
		name   string
		update EndpointUpdate
		want   http.Header
	}{
		{"nothing", to("", nil), kept},
		{"one is set, in another case", to("", http.Header{"AUTHORIZATION": {"Bearer two"}}), http.Header{"Authorization": {"Bearer two"}, "X-Tenant": {"7"}}},
		{"one is removed, in another case", to("", nil, "AUTHORIZATION"), http.Header{"X-Tenant": {"7"}}},
		{"one is removed that is not there", to("", nil, "X-Other"), kept},
		{"one is removed and set", to("", http.Header{"x-tenant": {"8"}}, "X-Tenant"), http.Header{"Authorization": {"Bearer one"}, "X-Tenant": {"8"}}},
		{"another path and query", to("https://example.com/b?c", nil), kept},
		{"the default port, said aloud", to("https://example.com:443/a", nil), kept},
		{"the host in another case", to("https://EXAMPLE.com/a", nil), kept},
		{"another scheme", to("http://example.com/a", nil), nil},
		{"another scheme on the same port", to("http://example.com:443/a", nil), nil},
		{"another host", to("https://example.org/a", nil), nil},
		{"a host below", to("https://a.example.com/a", nil), nil},
		{"another port", to("https://example.com:8443/a", nil), nil},
		{"another host, sent again", to("https://example.org/a", http.Header{"Authorization": {"Bearer one"}}), http.Header{"Authorization": {"Bearer one"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			got, err := stand.Apply(tt.update)
			is.NoErr(err)
			is.Equal(got.Headers, tt.want)
			is.Equal(stand.Headers, http.Header{"authorization": {"Bearer one"}, "X-Tenant": {"7"}}) // as it was
		})
	}
}

func TestAnUpdateRefusesAMaskThatIsSentBack(t *testing.T) {
	is := is.New(t)
	stand := Endpoint{URL: "https://example.com", Headers: http.Header{"Authorization": {"Bearer one"}}, Secret: GenerateSecret()}
	_, err := stand.Apply(EndpointUpdate{AddHeaders: http.Header{"Authorization": {Mask}}})
	is.True(detailOf(err, "addHeaders.Authorization[0]") != "")
	_, err = stand.Apply(EndpointUpdate{Secret: new(Secret(secretMask))})
	is.True(detailOf(err, "secret") != "")
	_, err = stand.Apply(EndpointUpdate{Secret: new(Secret(""))})
	is.True(detailOf(err, "secret") != "")
}

func TestAnEndpointThatSignsNeedsASecret(t *testing.T) {
	is := is.New(t)
	e := Endpoint{URL: "https://example.com", HMACEnabled: true}
	is.Equal(detailOf(e.Validate(), "secret"), "must not be empty; GenerateSecret makes one")
	e.Secret = "whsec_c2hvcnQ="
	is.Equal(detailOf(e.Validate(), "secret"), "must hold 24 to 64 bytes, was 5")
	e.HMACEnabled = false // a secret that is set is validated even if nothing is signed
	is.Equal(detailOf(e.Validate(), "secret"), "must hold 24 to 64 bytes, was 5")
	e.Secret = ""
	is.NoErr(e.Validate())
	_, err := e.Apply(EndpointUpdate{HMACEnabled: new(true)})
	is.True(detailOf(err, "secret") != "")
}

func TestAReplacedSecretSignsBesideItsSuccessorForADay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		is := is.New(t)
		a, b, c, d := GenerateSecret(), GenerateSecret(), GenerateSecret(), GenerateSecret()
		e := Endpoint{URL: "https://example.com", HMACEnabled: true, Secret: a}
		rotate := func(u EndpointUpdate) {
			t.Helper()
			next, err := e.Apply(u)
			is.NoErr(err)
			e = next
		}
		signers := func() []Secret { return e.signers(time.Now()) }

		rotate(EndpointUpdate{Secret: &b})
		is.Equal(signers(), []Secret{b, a})
		time.Sleep(SecretOverlap - time.Second)
		is.Equal(signers(), []Secret{b, a})
		time.Sleep(time.Second)
		is.Equal(signers(), []Secret{b}) // the day is over

		rotate(EndpointUpdate{Secret: &c})
		rotate(EndpointUpdate{Secret: &c}) // the same again changes nothing
		is.Equal(signers(), []Secret{c, b})
		rotate(EndpointUpdate{Secret: &d})
		rotate(EndpointUpdate{Secret: &a})
		is.Equal(signers(), []Secret{a, d, c}) // at most two old ones: the last two
		rotate(EndpointUpdate{Secret: &c})
		is.Equal(signers(), []Secret{c, a, d}) // never the same twice
		rotate(EndpointUpdate{RevokeOldSecrets: true})
		is.Equal(signers(), []Secret{c})

		rotate(EndpointUpdate{Secret: &d, SecretOverlap: time.Hour})
		time.Sleep(time.Hour)
		is.Equal(signers(), []Secret{d})
		rotate(EndpointUpdate{Secret: &a, SecretOverlap: -1})
		is.Equal(signers(), []Secret{a})
		rotate(EndpointUpdate{Secret: &b})
		rotate(EndpointUpdate{Secret: &c, RevokeOldSecrets: true}) // the one that was just replaced too
		is.Equal(signers(), []Secret{c})
	})
}

func TestAWebhookThatIsPutAgainKeepsItsOldSecretsAndSuspension(t *testing.T) {
	is := is.New(t)
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	a, b, c := GenerateSecret(), GenerateSecret(), GenerateSecret()
	stand := validWebhook()
	stand.Endpoint.Secret, stand.Endpoint.HMACEnabled = a, true
	stand.Endpoint.OldSecrets = []OldSecret{{b, now.Add(time.Hour)}, {c, now}}
	stand.SuspendedAt, stand.Version = now.Add(-time.Minute), 7
	alert := Endpoint{URL: "https://example.com/alerts", Secret: a}
	stand.FailureHandling = &FailureHandling{Alert: &alert}

	put := validWebhook()
	put.Endpoint.Secret = c
	put.Endpoint.OldSecrets = []OldSecret{{GenerateSecret(), now.Add(time.Hour)}} // a caller's are ignored
	put.FailureHandling = &FailureHandling{Alert: &Endpoint{URL: alert.URL, Secret: b}}
	got := put.Replacing(stand, now)

	is.Equal(got.SuspendedAt, stand.SuspendedAt)
	is.Equal(got.Version, int64(8))
	is.Equal(got.Endpoint.OldSecrets, []OldSecret{{a, now.Add(SecretOverlap)}, {b, now.Add(time.Hour)}})
	is.Equal(got.FailureHandling.Alert.OldSecrets, []OldSecret{{a, now.Add(SecretOverlap)}})
	is.Equal(put.FailureHandling.Alert.OldSecrets, nil) // as it was
}

func TestATag(t *testing.T) {
	is := is.New(t)
	e := Endpoint{URL: "https://example.com", Tag: strings.Repeat("ä", MaxNameLength)}
	is.NoErr(e.Validate())
	for _, tag := range []string{e.Tag + "x", "a\x00", "a\nb", "\u202etag", "\xff"} {
		_, err := e.Apply(EndpointUpdate{Tag: &tag})
		is.True(detailOf(err, "tag") != "")
	}
}
