package diverted

import (
	"errors"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/matryer/is"
)

func TestParseTrigger(t *testing.T) {
	for in, want := range map[string]Trigger{
		"3xx": "3xx", "4XX": "4xx", "5xX": "5xx", "timeout": "timeout", "TimeOut": "timeout",
		"300": "300", "404": "404", "410": "410", "599": "599",
	} {
		is := is.New(t)
		got, err := ParseTrigger(in)
		is.NoErr(err)
		is.Equal(got, want)
	}
	for _, in := range []string{
		"", " ", "2xx", "1xx", "6xx", "200", "299", "600", "099", "50", "5000", "5x", "50x", "xxx", "+50", "4 4", " 404", "404 ", "time-out", "ſxx", "５０３",
		strings.Repeat("4", 1000),
	} {
		t.Run(in[:min(len(in), 10)], func(t *testing.T) {
			is := is.New(t)
			_, err := ParseTrigger(in)
			is.True(errors.Is(err, ErrInvalid))
			is.True(strings.Contains(err.Error(), "must be 3xx, 4xx, 5xx, timeout or a status 300 to 599, was "+quote(in)))
			is.True(len(err.Error()) < 250)
		})
	}
}

func FuzzParseTrigger(f *testing.F) {
	for _, seed := range []string{"4xx", "TIMEOUT", "503", "200", "５０３", "4xx\n", "İ"} {
		f.Add(seed)
	}
	valid := regexp.MustCompile(`^(?:[345](?:[xX]{2}|[0-9]{2})|[tT][iI][mM][eE][oO][uU][tT])$`)
	f.Fuzz(func(t *testing.T, s string) {
		trigger, err := ParseTrigger(s)
		if (err == nil) != valid.MatchString(s) {
			t.Fatalf("%q: %v", s, err)
		}
		if err != nil {
			return
		}
		if again, err := ParseTrigger(string(trigger)); err != nil || again != trigger || string(trigger) != strings.ToLower(s) {
			t.Fatalf("%q is %q, and that is %q", s, trigger, again)
		}
	})
}

func TestStatusTriggerIsWhatWasObservedNeverAClass(t *testing.T) {
	is := is.New(t)
	for status := -1; status < 1100; status++ {
		want := TriggerTimeout
		switch {
		case status >= 200 && status <= 299:
			want = ""
		case status >= 300 && status <= 599:
			want = Trigger(strconv.Itoa(status))
		}
		is.Equal(StatusTrigger(status), want)
	}
}

func TestATriggerMatches(t *testing.T) {
	for _, tt := range []struct {
		trigger, observed Trigger
		want              bool
	}{
		{"503", "503", true}, {"503", "500", false},
		{"5xx", "503", true}, {"5xx", "599", true}, {"5xx", "404", false}, {"5xx", "timeout", false},
		{"4xx", "410", true}, {"3xx", "302", true}, {"3xx", "timeout", false},
		{"timeout", "timeout", true}, {"timeout", "503", false},
		{"404", "4xx", false}, // a class is never observed
		{"5xx", "", false},
	} {
		t.Run(string(tt.trigger+" "+tt.observed), func(t *testing.T) {
			is := is.New(t)
			is.Equal(tt.trigger.Matches(tt.observed), tt.want)
			is.Equal(FailureHandling{Triggers: []Trigger{"418", tt.trigger}}.Matches(tt.observed), tt.want)
		})
	}
	is := is.New(t)
	for _, observed := range []Trigger{"300", "404", "599", "timeout"} {
		is.True(FailureHandling{}.Matches(observed)) // no triggers: all of them
		is.True(FailureHandling{Triggers: AllTriggers()}.Matches(observed))
	}
}

func TestTheHandlingDecidesWhatBecomesOfAFailure(t *testing.T) {
	retry := &RetryStrategy{Attempts: 2}
	alert := &Endpoint{URL: "https://example.com"}
	for _, tt := range []struct {
		name     string
		handling FailureHandling
		observed Trigger
		past     past
		want     verdict
	}{
		{"budget left: retry", FailureHandling{Retry: retry, Divert: true}, "503", past{}, verdict{kind: OutcomeRetry}},
		{"budget left: neither suspend nor alert", FailureHandling{Retry: retry, Suspend: true, Alert: alert}, "503", past{retries: 1}, verdict{kind: OutcomeRetry}},
		{"budget spent and divert: diverted", FailureHandling{Retry: retry, Divert: true}, "503", past{retries: 2}, verdict{kind: OutcomeDivert}},
		{"no retries: the first failure spends the budget", FailureHandling{Divert: true}, "timeout", past{}, verdict{kind: OutcomeDivert}},
		{"divert and suspend: both", FailureHandling{Divert: true, Suspend: true}, "503", past{}, verdict{kind: OutcomeDivert, suspend: true}},
		{"suspend without divert: held", FailureHandling{Suspend: true}, "503", past{}, verdict{kind: OutcomeHold, suspend: true}},
		{"neither: dropped, and alerted", FailureHandling{Alert: alert}, "503", past{}, verdict{kind: OutcomeDrop, alert: true}},
		{"the zero value: dropped", FailureHandling{}, "503", past{}, verdict{kind: OutcomeDrop}},
		{"diverted and alerted", FailureHandling{Divert: true, Alert: alert}, "503", past{}, verdict{kind: OutcomeDivert, alert: true}},
		{"matching no trigger: dropped, not alerted, nothing suspended", FailureHandling{Triggers: []Trigger{"5xx"}, Retry: retry, Divert: true, Suspend: true, Alert: alert}, "404", past{}, verdict{kind: OutcomeDrop}},
		{"410 spends the budget at once", FailureHandling{Retry: retry, Divert: true}, "410", past{}, verdict{kind: OutcomeDivert}},
		{"410 that matches no trigger is dropped", FailureHandling{Triggers: []Trigger{"5xx"}, Retry: retry, Divert: true}, "410", past{}, verdict{kind: OutcomeDrop}},
		{"diverted once: never dropped, though no trigger matches", FailureHandling{Triggers: []Trigger{"5xx"}}, "404", past{diverted: true}, verdict{kind: OutcomeDivert}},
		{"diverted once: never dropped, though nothing handles it", FailureHandling{}, "404", past{diverted: true}, verdict{kind: OutcomeDivert}},
		{"diverted once: never merely held", FailureHandling{Suspend: true}, "404", past{diverted: true}, verdict{kind: OutcomeDivert, suspend: true}},
		{"diverted once: its fresh budget is used first", FailureHandling{Retry: retry}, "503", past{retries: 1, diverted: true}, verdict{kind: OutcomeRetry}},
		{"released: diverted whatever divert says", FailureHandling{Suspend: true}, "503", past{released: true}, verdict{kind: OutcomeDivert, suspend: true}},
		{"released: its fresh budget is used first", FailureHandling{Retry: retry, Suspend: true}, "503", past{released: true}, verdict{kind: OutcomeRetry}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			f := Failure{Trigger: tt.observed}
			f.Status, _ = strconv.Atoi(string(tt.observed))
			is.Equal(judge(tt.handling, f, tt.past), tt.want)
		})
	}
}

func TestAWebhookWithoutHandlingHasTheSafeDefault(t *testing.T) {
	is := is.New(t)
	w := validWebhook()
	w.FailureHandling = nil
	want := FailureHandling{Triggers: AllTriggers(), Retry: &RetryStrategy{10, time.Minute, Exponential}, Divert: true}
	is.Equal(w.Handling(), want)
	is.NoErr(want.Validate())
}

func TestFailureHandlingWithDefaults(t *testing.T) {
	is := is.New(t)
	h := FailureHandling{Triggers: []Trigger{"TIMEOUT", "5XX", "timeout", "503"}, Retry: &RetryStrategy{}, Alert: &Endpoint{URL: "https://example.com"}}
	got := h.WithDefaults()
	is.Equal(got.Triggers, []Trigger{"timeout", "5xx", "503"}) // lower case, the order given, each once
	is.Equal(*got.Retry, RetryStrategy{3, time.Minute, Exponential})
	is.Equal(h.Triggers, []Trigger{"TIMEOUT", "5XX", "timeout", "503"})
	is.Equal(*h.Retry, RetryStrategy{})
	is.True(got.Alert != h.Alert) // it shares no memory
}

func TestFailureHandlingValidateNamesEveryFault(t *testing.T) {
	is := is.New(t)
	err := FailureHandling{
		Triggers: []Trigger{"5xx", "2xx", ""},
		Retry:    &RetryStrategy{Attempts: 11},
		Alert:    &Endpoint{URL: "ftp://example.com"},
	}.Validate()
	is.Equal(detailOf(err, "triggers[1]"), `must be 3xx, 4xx, 5xx, timeout or a status 300 to 599, was "2xx"`)
	is.True(detailOf(err, "triggers[2]") != "")
	is.Equal(detailOf(err, "retryStrategy.attempts"), "must be 1 to 10, was 11")
	is.Equal(detailOf(err, "alertEndpoint.url"), "must begin with http:// or https://")

	is.True(detailOf(FailureHandling{Triggers: []Trigger{}}.Validate(), "triggers") != "")
	is.NoErr(FailureHandling{}.Validate())
	is.NoErr(FailureHandling{Triggers: []Trigger{"5XX", "TimeOut"}}.Validate())
}

func TestFailureHandlingApply(t *testing.T) {
	stand := FailureHandling{
		Triggers: []Trigger{"5xx", "timeout"},
		Retry:    &RetryStrategy{Attempts: 5, Interval: time.Minute, Type: Linear},
		Divert:   true,
		Alert:    &Endpoint{URL: "https://example.com/alerts", Tag: "ops"},
	}
	for _, tt := range []struct {
		name   string
		update FailureHandlingUpdate
		want   func(h *FailureHandling)
		path   string // of the fault, if it has one
	}{
		{"nothing", FailureHandlingUpdate{}, func(*FailureHandling) {}, ""},
		{"divert and suspend", FailureHandlingUpdate{Divert: new(false), Suspend: new(true)}, func(h *FailureHandling) { h.Divert, h.Suspend = false, true }, ""},
		{"triggers are added last, each once, in lower case", FailureHandlingUpdate{AddTriggers: []Trigger{"404", "TIMEOUT", "4XX", "404"}}, func(h *FailureHandling) {
			h.Triggers = []Trigger{"5xx", "timeout", "404", "4xx"}
		}, ""},
		{"triggers are removed, in any case", FailureHandlingUpdate{RemoveTriggers: []Trigger{"TimeOut", "404"}}, func(h *FailureHandling) { h.Triggers = []Trigger{"5xx"} }, ""},
		{"a trigger replaces the last", FailureHandlingUpdate{AddTriggers: []Trigger{"404"}, RemoveTriggers: []Trigger{"5xx", "timeout"}}, func(h *FailureHandling) {
			h.Triggers = []Trigger{"404"}
		}, ""},
		{"the last trigger cannot be removed", FailureHandlingUpdate{RemoveTriggers: []Trigger{"5xx", "timeout"}}, nil, "removeTriggers"},
		{"added and removed triggers may not overlap", FailureHandlingUpdate{AddTriggers: []Trigger{"404"}, RemoveTriggers: []Trigger{"404"}}, nil, "removeTriggers"},
		{"an unknown trigger is added", FailureHandlingUpdate{AddTriggers: []Trigger{"404", "2xx"}}, nil, "addTriggers[1]"},
		{"an unknown trigger is removed", FailureHandlingUpdate{RemoveTriggers: []Trigger{"2xx"}}, nil, "removeTriggers[0]"},
		{"a part of the strategy", FailureHandlingUpdate{Retry: &RetryStrategyUpdate{Attempts: new(2)}}, func(h *FailureHandling) {
			h.Retry = &RetryStrategy{Attempts: 2, Interval: time.Minute, Type: Linear}
		}, ""},
		{"the strategy is removed", FailureHandlingUpdate{RemoveRetry: true}, func(h *FailureHandling) { h.Retry = nil }, ""},
		{"removed, with a new one beside it", FailureHandlingUpdate{RemoveRetry: true, Retry: &RetryStrategyUpdate{}}, nil, "removeRetryStrategy"},
		{"a fault in the strategy", FailureHandlingUpdate{Retry: &RetryStrategyUpdate{Attempts: new(0)}}, nil, "retryStrategy.attempts"},
		{"a part of the alert endpoint", FailureHandlingUpdate{Alert: &EndpointUpdate{Tag: new("dev")}}, func(h *FailureHandling) {
			h.Alert = &Endpoint{URL: "https://example.com/alerts", Tag: "dev"}
		}, ""},
		{"the alert endpoint is removed", FailureHandlingUpdate{RemoveAlert: true}, func(h *FailureHandling) { h.Alert = nil }, ""},
		{"removed, with a new endpoint beside it", FailureHandlingUpdate{RemoveAlert: true, Alert: &EndpointUpdate{}}, nil, "removeAlertEndpoint"},
		{"a fault in the endpoint", FailureHandlingUpdate{Alert: &EndpointUpdate{URL: new("")}}, nil, "alertEndpoint.url"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			before := stand.WithDefaults()
			got, err := stand.Apply(tt.update)
			is.Equal(stand, before) // as it was
			if tt.path != "" {
				is.True(detailOf(err, tt.path) != "")
				is.Equal(got, FailureHandling{})
				return
			}
			is.NoErr(err)
			want := stand.WithDefaults()
			tt.want(&want)
			is.Equal(got, want)
		})
	}

	is := is.New(t)
	got, err := FailureHandling{}.Apply(FailureHandlingUpdate{Retry: &RetryStrategyUpdate{}, Alert: &EndpointUpdate{URL: new("https://example.com")}})
	is.NoErr(err)
	is.Equal(got, FailureHandling{Triggers: AllTriggers(), Retry: &RetryStrategy{3, time.Minute, Exponential}, Alert: &Endpoint{URL: "https://example.com"}})
	_, err = FailureHandling{}.Apply(FailureHandlingUpdate{Alert: &EndpointUpdate{Tag: new("ops")}}) // one that begins needs a URL
	is.Equal(detailOf(err, "alertEndpoint.url"), "must not be empty")
}
