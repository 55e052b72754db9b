package consoletest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/matryer/is"

	"github.com/divertedevents/diverted"
)

// hostile are texts that want to be more than text.
var hostile = []string{
	`<script>pwned=1</script>`,
	`</script><script>pwned=1</script>`,
	`</title></style></textarea></template><script>pwned=1</script>`,
	`<img src=x onerror=pwned=1>`,
	`"><svg/onload=pwned=1>`,
	`'><body onload='pwned=1'>`,
	`" onfocus="pwned=1" autofocus="`,
	`' style='animation-name:x' onanimationstart='pwned=1' x='`,
	`<iframe srcdoc="<script>parent.pwned=1</script>"></iframe>`,
	`<object data="javascript:pwned=1"></object>`,
	`<embed src="data:text/html,<script>pwned=1</script>">`,
	`<a href="javascript:pwned=1" autofocus>click</a>`,
	"<a href=\"java\tscript:pwned=1\">click</a>",
	`<form action="https://evil.example"><button>Resend</button></form>`,
	`<base href="https://evil.example/">`,
	`<meta http-equiv="refresh" content="0;url=https://evil.example/">`,
	`<link rel="stylesheet" href="https://evil.example/x.css">`,
	`<style>*{background:url("https://evil.example/x")}</style>`,
	`<details open ontoggle=pwned=1>`,
	`<math><mtext></mtext><mglyph><style><!--</style><img title="--><img src=1 onerror=pwned=1>"></math>`,
	`<noscript><p title="</noscript><img src=x onerror=pwned=1>"></noscript>`,
	`{{constructor.constructor("pwned=1")()}} ${pwned=1} <%= pwned=1 %> #{pwned=1}`,
	`{{template "layout" .}}{{.Tenant}}{{html "x"}}`,
	"\u202e>tpircs/<1=denwp>tpircs<\u202c",
	"pay\u200bload\u2066\u2069\ufeff with \u00ad what cannot be \u2028 seen \u2029",
	"\uff1cscript\uff1epwned=1\uff1c/script\uff1e \u02baonerror=pwned=1",
	"Z\u0351\u036b\u0343\u036a\u0302\u036ba\u0348\u034d\u0347l\u0331\u0353g\u0317o\u031c\u0348" + strings.Repeat("\u0301", 200),
	"]]>--></svg><!--<![CDATA[<script>pwned=1</script>",
	"\x00\x1b[31m\r\n\r\nHTTP/1.1 200 OK\r\n\r\n<script>pwned=1</script>",
	strings.Repeat("W", 20_000) + `<script>pwned=1</script>`,
}

func TestHostileTextIsText(t *testing.T) {
	is := is.New(t)
	is.Equal(len(hostile), 30)
	s, b := newService(t), newBrowser(t)
	target := s.webhook("target")
	var pages []string
	for i, text := range hostile {
		body, err := json.Marshal(map[string]any{text: []any{text, map[string]string{"<script>pwned=1</script>": text}}})
		is.NoErr(err)
		event := s.divert(target, i, func(e *diverted.DivertedEvent) {
			e.Body = body
			e.Failure.Message, e.Failure.Excerpt = text, text
		})
		address := s.webhookAddress(target) + "/diverted/" + event.Event.String()
		pages = append(pages, address, address+"/delete")

		// Names, tags, headers and addresses take less than a message does.
		named := diverted.NewWebhook(s.tenant, "x", s.receiver.URL+"/?q="+url.QueryEscape(text[:min(len(text), 500)])+"&"+url.QueryEscape(text[:min(len(text), 100)]), "*")
		label := []rune(text)
		named.Endpoint.Tag = string(label[:min(len(label), diverted.MaxNameLength)])
		if named.Validate() == nil {
			named.Name = named.Endpoint.Tag
		} else {
			named.Endpoint.Tag = ""
		}
		named.Endpoint.Headers = http.Header{"X-Key": {text}}
		if named.Validate() != nil {
			named.Endpoint.Headers = nil
		}
		escaped := named.Endpoint.URL
		named.Endpoint.URL = s.receiver.URL + "/" + text[:min(len(text), 500)] // as it is, if it can be an address
		if named.Validate() != nil {
			named.Endpoint.URL = escaped
		}
		named, err = s.store.CreateWebhook(t.Context(), named)
		is.NoErr(err)
		pages = append(pages, s.webhookAddress(named))
	}
	list := s.address + "tenants/" + s.tenant.String() + "/webhooks"
	pages = append(pages, s.webhookAddress(target), list, list+"?state=active&after="+target.Locator.String())

	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{Width: narrow, Height: 844, DeviceScaleFactor: 1})
	for _, address := range pages {
		b.open(address)
		b.harmless(address)
	}
	b.quiet()

	// What somebody sends somebody else as a link.
	for _, text := range hostile {
		for _, link := range []string{
			list + "?name=" + url.QueryEscape(text[:min(len(text), 100)]),
			list + "?notice=" + url.QueryEscape(text[:min(len(text), 100)]),
			s.webhookAddress(target) + "?trigger=" + url.QueryEscape(text[:min(len(text), 100)]),
		} {
			b.open(link)
			b.harmless(link)
		}
	}
	b.quiet("the server responded with a status of 400") // which is the answer to most of these links
}

// narrow is the width of a phone, in pixels.
const narrow = 390

// harmless fails the test if the page has anything but what the console put there.
func (b *browser) harmless(address string) {
	b.t.Helper()
	found := ask[struct {
		Pwned   bool     `json:"pwned"`
		Foreign []string `json:"foreign"`
		Unseen  []string `json:"unseen"`
		Width   int      `json:"width"`
	}](b, `({
		pwned: "pwned" in window,
		foreign: [...document.querySelectorAll("script, style, iframe, object, embed, base, img, link, meta, form, a, math")]
			.filter(e => !(e.matches("script[src*='/assets/console.js'], link[href*='/assets/']")
				|| e.matches("meta[charset], meta[name=viewport], meta[name=color-scheme]")
				|| (e.tagName === "FORM" && new URL(e.action).origin === location.origin)
				|| (e.tagName === "A" && new URL(e.href).origin === location.origin)))
			.concat([...document.querySelectorAll("*")].filter(e => [...e.attributes].some(a => /^on|^style$/i.test(a.name))))
			.map(e => e.outerHTML.slice(0, 200)),
		unseen: (document.title + document.body.textContent)
			.match(/[^\n]{0,20}[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g) || [],
		width: document.documentElement.scrollWidth,
	})`)
	if found.Pwned || len(found.Foreign)+len(found.Unseen) > 0 || found.Width > narrow {
		b.t.Errorf("%s: a script ran: %v; not the console's: %q; not to be seen: %q; %d px wide",
			address, found.Pwned, found.Foreign, found.Unseen, found.Width)
	}
}
