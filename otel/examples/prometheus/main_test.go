package main

import (
	"bufio"
	_ "embed"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/template"
	"github.com/prometheus/prometheus/util/annotations"
)

// TestMain makes this binary the server itself when a test asks for it.
func TestMain(m *testing.M) {
	if os.Getenv("RUN_SERVER") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// serve starts the server in a process of its own, and returns its URL, and that of its metrics.
func serve(t *testing.T, args ...string) (url, metrics string) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	server := exec.Command(self, args...)
	server.Dir = t.TempDir()
	server.Env = append(os.Environ(), "RUN_SERVER=1")
	server.Stderr = t.Output()
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		server.Process.Kill()
		server.Wait()
	})
	lines := bufio.NewReader(out)
	says := func(what string) string {
		line, err := lines.ReadString('\n')
		address, ok := strings.CutPrefix(strings.TrimSpace(line), what+" on ")
		if err != nil || !ok {
			t.Fatalf("the server said %q: %v", line, err)
		}
		return address
	}
	metrics = says("metrics")
	return says("listening"), metrics
}

// scrape reads /metrics as Prometheus does.
func scrape(t *testing.T, metrics string) map[string]*dto.MetricFamily {
	t.Helper()
	answer, err := http.Get(metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	p := expfmt.NewTextParser(model.LegacyValidation) // no name needs quotes
	families, err := p.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return families
}

// scraped runs the service until something was delivered and something diverted, and returns what it tells.
func scraped(t *testing.T, db string) map[string]*dto.MetricFamily {
	t.Helper()
	url, metrics := serve(t, "-addr", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-db", db, "-open", "-allow", "127.0.0.0/8")
	api := url + "/event/7c1f3c7e-50a4-4b58-8a0e-3d0a1c5a9b11"
	read := func(answer *http.Response, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		if answer.StatusCode > 299 {
			t.Fatalf("%s: %s", answer.Request.URL, text)
		}
		return string(text)
	}
	post := func(path, body string) { read(http.Post(api+path, "application/json", strings.NewReader(body))) }
	for name, at := range map[string]string{"good": url + "/healthz", "gone": "http://127.0.0.1:9"} {
		post("/webhooks", `{"name":"`+name+`","enabled":true,"eventTypes":["*"],"endpoint":{"url":"`+at+`"},"failureHandling":{"suspend":true}}`)
	}
	post("/events", `{"type":"order.paid","data":{"order":"A-1001"}}`)

	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for settled := false; ; <-look.C {
		if !settled { // first, since what the gauges say at the first scrape they say for a while
			stats := read(http.Get(api + "/webhooks/stats"))
			settled = strings.Contains(stats, `"suspended":1`) && strings.Contains(stats, `"pending":0`) && strings.Contains(stats, `"diverted":1`)
			continue
		}
		families := scrape(t, metrics)
		if sum(families["diverted_settled_deliveries_total"]) == 2 && sum(families["diverted_webhook_suspensions_total"]) == 1 {
			return families
		}
	}
}

func sum(family *dto.MetricFamily) (all float64) {
	for _, m := range family.GetMetric() {
		all += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return all
}

// table returns the rows of the metrics in a README: the name that Prometheus has, and the kind.
func table(t *testing.T) map[string]string {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `diverted\\.[a-z.]+` \\| `([a-z_]+)` \\| ([a-z]+) \\|").FindAllStringSubmatch(string(readme), -1) {
		rows[row[1]] = row[2]
	}
	return rows
}

func TestTheServerTellsEveryMetricOfTheTableAndNoOther(t *testing.T) {
	for _, db := range []string{"memory", "webhooks.db"} {
		t.Run(db, func(t *testing.T) {
			is := is.New(t)
			families, rows := scraped(t, db), table(t)
			is.True(len(rows) > 15)
			for name, kind := range rows {
				family := families[name]
				is.True(family != nil) // of the table
				is.Equal(strings.ToLower(family.GetType().String()), kind)
				is.True(family.GetHelp() != "")
			}
			for name := range families {
				is.True(rows[name] != "" || !strings.HasPrefix(name, "diverted_")) // it is in the table
			}
			is.Equal(sum(families["diverted_events"]), 1.0)
			is.Equal(sum(families["diverted_suspended_webhooks"]), 1.0)
			is.Equal(sum(families["diverted_webhooks"]), 2.0)
		})
	}
}

func TestMetricsAreNotServedToWhoeverMayCallTheAPI(t *testing.T) {
	is := is.New(t)
	url, metrics := serve(t, "-addr", "127.0.0.1:0", "-metrics", "127.0.0.1:0", "-db", "memory", "-open")
	is.True(!strings.HasPrefix(metrics, url+"/"))
	answer, err := http.Get(url + "/metrics")
	is.NoErr(err)
	is.NoErr(answer.Body.Close())
	is.Equal(answer.StatusCode, http.StatusNotFound)
}

// inText finds the query in a description: after a colon and before the last full stop.
var inText = regexp.MustCompile(`: ([a-z]+[ (].*diverted_.*)\.$`)

func alertRules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	rules, errs := rulefmt.ParseFile("../../../docs/alerts.yaml", false, model.LegacyValidation, parser.NewParser(parser.Options{}), slog.New(slog.DiscardHandler))
	is.New(t).Equal(len(errs), 0)
	return rules
}

func TestTheAlertRulesAreValidAndNameOnlyWhatThereIs(t *testing.T) {
	is := is.New(t)
	rules := alertRules(t)
	families := scraped(t, "memory")
	labels := map[string][]string{} // that a metric has, by its name
	for name, family := range families {
		labels[name] = []string{"job", "instance"}
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				labels[name] = append(labels[name], l.GetName())
			}
		}
	}
	checked := 0
	check := func(query string) {
		expr, err := parser.NewParser(parser.Options{}).ParseExpr(query)
		is.NoErr(err)
		parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
			selector, ok := node.(*parser.VectorSelector)
			if !ok {
				return nil
			}
			known, ok := labels[strings.TrimSuffix(selector.Name, "_count")] // of a histogram
			if !ok {
				t.Errorf("%s: there is no metric %s", query, selector.Name)
			}
			for _, m := range selector.LabelMatchers {
				if m.Name != "__name__" && !slices.Contains(known, m.Name) {
					t.Errorf("%s: %s has no label %s", query, selector.Name, m.Name)
				}
			}
			checked++
			return nil
		})
	}
	var alerts []string
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			alerts = append(alerts, rule.Alert)
			check(rule.Expr)
			is.True(rule.For > 0 || rule.Labels["severity"] != "critical") // one odd sample wakes nobody
			if found := inText.FindStringSubmatch(rule.Annotations["description"]); found != nil {
				check(found[1])
				// A webhook's counter begins with the first that it counts, which is no increase.
				is.True(strings.Contains(found[1], "unless"))
			}
		}
	}
	is.True(checked >= 10)
	for _, must := range []string{"DivertedBacklogNotDraining", "DivertedDeliveriesWaiting", "DivertedEventsGrowing", "DivertedPendingTooOld", "DivertedWebhookSuspended", "DivertedStoreSilent"} {
		is.True(slices.Contains(alerts, must))
	}
}

// Prometheus writes a million as 1e+06, and what increase() finds is seldom whole.
func TestTheAlertRulesTellNumbersThatAreReadAtOnce(t *testing.T) {
	is := is.New(t)
	const defs = `{{$labels := .Labels}}{{$value := .Value}}` // as Prometheus does
	told := 0
	for _, rule := range alertRules(t).Groups[0].Rules {
		for value, want := range map[float64]string{1.0526315789473684: "1", 1234567: "1234567"} {
			data := template.AlertTemplateData(map[string]string{"instance": "a"}, nil, "", promql.Sample{F: value})
			text, err := template.NewTemplateExpander(t.Context(), defs+rule.Annotations["description"], rule.Alert, data, 0, nil, &url.URL{}, nil).Expand()
			is.NoErr(err)
			if number := regexp.MustCompile(`^[0-9][0-9.e+]*`).FindString(text); number != "" {
				is.Equal(number, want)
				told++
			}
		}
	}
	is.True(told >= 2*4)
}

// past is what was scraped each minute, by series; NaN: there was nothing yet.
type past map[string]func(minute int) float64

// found returns the series that a query finds three hours on.
func (p past) found(t *testing.T, query string) (found []string) {
	t.Helper()
	is := is.New(t)
	const now = 180
	var all []storage.Series
	for series, value := range p {
		metric, err := parser.NewParser(parser.Options{}).ParseMetric(series)
		is.NoErr(err)
		var points []promql.FPoint
		for minute := range now + 1 {
			if v := value(minute); !math.IsNaN(v) {
				points = append(points, promql.FPoint{T: int64(minute) * 60_000, F: v})
			}
		}
		all = append(all, promql.NewStorageSeries(promql.Series{Metric: metric, Floats: points}))
	}
	scraped := &storage.MockQueryable{MockQuerier: &storage.MockQuerier{SelectMockFunction: func(_ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
		return &seriesSet{series: slices.DeleteFunc(slices.Clone(all), func(s storage.Series) bool {
			return slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !m.Matches(s.Labels().Get(m.Name)) })
		})}
	}}}
	engine := promql.NewEngine(promql.EngineOpts{MaxSamples: 1e6, Timeout: time.Minute, Parser: parser.NewParser(parser.Options{})})
	defer engine.Close()
	q, err := engine.NewInstantQuery(t.Context(), scraped, nil, query, time.UnixMilli(now*60_000))
	is.NoErr(err)
	defer q.Close()
	vector, err := q.Exec(t.Context()).Vector()
	is.NoErr(err)
	for _, sample := range vector {
		found = append(found, sample.Metric.String())
	}
	return found
}

type seriesSet struct {
	storage.SeriesSet // has what is not asked for
	series            []storage.Series
	next              int
}

func (s *seriesSet) Next() bool                        { s.next++; return s.next <= len(s.series) }
func (s *seriesSet) At() storage.Series                { return s.series[s.next-1] }
func (s *seriesSet) Err() error                        { return nil }
func (s *seriesSet) Warnings() annotations.Annotations { return nil }

// A customer's receiver that hangs wakes nobody, and a service that stands still does.
func TestAlertsTellABadCustomerFromAServiceThatStandsStill(t *testing.T) {
	var critical, warning, which string
	for _, rule := range alertRules(t).Groups[0].Rules {
		switch rule.Alert {
		case "DivertedBacklogNotDraining":
			critical = rule.Expr
		case "DivertedDeliveriesWaiting":
			warning, which = rule.Expr, inText.FindStringSubmatch(rule.Annotations["description"])[1]
		}
	}
	level := func(n float64) func(int) float64 { return func(int) float64 { return n } }
	rises := func(minute int) float64 { return float64(minute) }
	since := func(first int, n float64) func(int) float64 { // appears with what it counts first
		return func(minute int) float64 {
			if minute < first {
				return math.NaN()
			}
			return n
		}
	}
	const (
		due   = `diverted_due_deliveries{job="a",instance="1"}`
		good  = `diverted_delivery_duration_seconds_count{job="a",instance="1",diverted_webhook_id="good"}`
		fresh = `diverted_delivery_duration_seconds_count{job="a",instance="2",diverted_webhook_id="fresh"}`
		other = `diverted_delivery_duration_seconds_count{job="b",instance="3",diverted_webhook_id="good"}`
		retry = `diverted_settled_deliveries_total{job="a",instance="1",diverted_webhook_id="%s",diverted_outcome="retried",error_type="timeout"}`
	)
	hangs, flaky, once := fmt.Sprintf(retry, "hangs"), fmt.Sprintf(retry, "good"), fmt.Sprintf(retry, "once")
	for what, c := range map[string]struct {
		past
		critical, warning bool
		which             []string
	}{
		"all is well":                        {past: past{due: level(12), good: rises}},
		"a receiver hangs":                   {past: past{due: level(1490), good: rises, hangs: rises, flaky: rises, once: level(3)}, warning: true, which: []string{"hangs"}},
		"a receiver asked for an hour":       {past: past{due: level(1490), good: rises, hangs: since(150, 1)}, warning: true, which: []string{"hangs"}},
		"the first of a webhook got through": {past: past{due: level(1490), good: level(90), fresh: since(170, 1)}, warning: true},
		"the service stands still":           {past: past{due: level(1490), good: level(90), other: rises}, critical: true, warning: true},
		"nothing was ever delivered":         {past: past{due: level(1490)}, critical: true, warning: true},
		"nothing is to be done":              {past: past{due: level(0), good: level(90)}},
	} {
		t.Run(what, func(t *testing.T) {
			is := is.New(t)
			is.Equal(len(c.found(t, critical)) > 0, c.critical)
			is.Equal(len(c.found(t, warning)) > 0, c.warning)
			var found []string
			for _, series := range c.found(t, which) {
				found = append(found, strings.TrimSuffix(strings.TrimPrefix(series, `{diverted_webhook_id="`), `"}`))
			}
			is.Equal(found, c.which)
		})
	}
}
