package consoletest

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/matryer/is"
	"github.com/oklog/ulid/v2"
)

// Every page has its picture taken, and fits the width that it is given.
func TestPagesFitADeskAndAPhoneByDayAndByNight(t *testing.T) {
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	night := newNight(s)
	billing, healthy := night.billing, night.healthy
	dir := pictures(t)
	webhook := s.webhookAddress(billing)
	for _, p := range []struct{ name, address string }{
		{"home", s.address},
		{"webhooks", s.address + "tenants/" + s.tenant.String() + "/webhooks"},
		{"webhook", webhook},
		{"webhook-week", webhook + "?hours=168&trigger=5xx"},
		{"webhook-active", s.webhookAddress(healthy)},
		{"webhook-failing", s.webhookAddress(night.flaky)},
		{"webhook-notice", s.webhookAddress(night.flaky) + "?notice=resent"},
		{"pending", webhook + "/pending"},
		{"event", s.eventAddress(night.diverted)},
		{"event-held", s.eventAddress(night.held)},
		{"suspend", s.webhookAddress(healthy) + "/suspend"},
		{"delete", s.eventAddress(night.diverted) + "/delete"},
		{"bulk-plan", s.webhookAddress(healthy) + "/diverted/resend"},
		{"bulk-running", s.webhookAddress(healthy) + "/diverted/resend?state=running&counted=1217&done=800"},
		{"bulk-finished", s.webhookAddress(healthy) + "/diverted/resend?state=finished&counted=1217&done=1215&missed=2"},
		{"bulk-filtered", webhook + "/diverted/delete?trigger=5xx&eventType=invoice.issued&since=2026-01-01T00:00"},
		{"problem-filter", webhook + "?trigger=200&hour=3"},
		{"problem", s.address + "tenants/" + s.tenant.String() + "/webhooks/" + ulid.Make().String()},
	} {
		for _, screen := range []struct {
			name  string
			width int64
		}{{"desk", 1280}, {"phone", 390}} {
			for _, scheme := range []string{"light", "dark"} {
				b.screen(screen.width, screen.name == "phone", scheme)
				b.followTo(s.address, p.address)
				wide := ask[int64](b, `document.documentElement.scrollWidth`) > screen.width
				picture := call(b, page.CaptureScreenshot, page.CaptureScreenshotParams{CaptureBeyondViewport: new(true)}).Data
				name := fmt.Sprintf("%s-%s-%s.png", p.name, screen.name, scheme)
				if wide {
					t.Errorf("%s is wider than its screen", name)
				}
				is.NoErr(os.WriteFile(filepath.Join(dir, name), picture, 0o644))
			}
		}
	}
	b.quiet("the server responded with a status of 40") // the pages of problems
}

// The two pictures of the README are written into the directory that CONSOLE_README names, with the font Inter (Debian has it
// as fonts-inter).
func TestPicturesOfTheREADME(t *testing.T) {
	dir := os.Getenv("CONSOLE_README")
	if dir == "" {
		t.Skip("CONSOLE_README names no directory for the pictures")
	}
	is := is.New(t)
	s, b := newService(t), newBrowser(t)
	night := newNight(s)
	for _, p := range []struct{ name, address, below string }{
		{"console-webhook.png", s.webhookAddress(night.billing), `document.getElementById("diverted").getBoundingClientRect().top - 8`},
		{"console-event.png", s.eventAddress(night.diverted), `document.querySelector("main").getBoundingClientRect().bottom + 16`},
	} {
		b.screen(1280, false, "light")
		b.open(p.address)
		ask[chromedp.Void](b, `document.documentElement.style.setProperty("--sans", "Inter, system-ui, sans-serif")`)
		height := ask[float64](b, p.below)
		picture := call(b, page.CaptureScreenshot, page.CaptureScreenshotParams{
			Clip: &page.Viewport{Width: 1280, Height: math.Floor(height), Scale: 1}, CaptureBeyondViewport: new(true),
		}).Data
		small, err := fewColours(picture)
		is.NoErr(err)
		is.NoErr(os.WriteFile(filepath.Join(dir, p.name), small, 0o644))
	}
}

// fewColours makes a picture smaller: of 256 colours, so that each that it had has one close by, however little there was of it.
func fewColours(picture []byte) ([]byte, error) {
	full, err := png.Decode(bytes.NewReader(picture))
	if err != nil {
		return nil, err
	}
	bounds := full.Bounds()
	counts := map[color.Color]int{}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			counts[full.At(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(counts), func(a, b color.Color) int { return counts[b] - counts[a] })
	var kept color.Palette
	for apart := 2; len(kept) == 0 || len(kept) > 256; apart++ {
		kept = nil
		for _, c := range colours {
			if len(kept) == 0 || distance(c, kept.Convert(c)) >= apart {
				kept = append(kept, c)
			}
		}
	}
	few := image.NewPaletted(bounds, kept)
	draw.Draw(few, bounds, full, bounds.Min, draw.Src)
	var b bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	err = encoder.Encode(&b, few)
	return b.Bytes(), err
}

// distance is how far two colours are apart, of 255 at most.
func distance(a, b color.Color) int {
	ar, ag, ab, _ := a.RGBA()
	br, bg, bb, _ := b.RGBA()
	far := 0.0
	for _, d := range []float64{float64(ar) - float64(br), float64(ag) - float64(bg), float64(ab) - float64(bb)} {
		far = max(far, math.Abs(d)/257)
	}
	return int(far)
}

// screen has the browser show pages so.
func (b *browser) screen(width int64, phone bool, scheme string) {
	b.t.Helper()
	call(b, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: width, Height: 844, DeviceScaleFactor: 1, Mobile: phone,
	})
	call(b, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
}
