package console

import (
	"strconv"
	"time"

	"github.com/divertedevents/diverted"
)

// schedule draws when a delivery is attempted: a dot for each attempt, and between two an arc that is the higher the
// longer the wait.
type schedule struct {
	// Words say it all in a sentence, for those who cannot see it.
	Words    string
	Attempts []attemptDot
	Waits    []waitBar
}

// attemptDot is an attempt of the schedule. X is a share of the width.
type attemptDot struct {
	X, Name, At string
	// Class is wide where a narrow page has no room for the name. The first and the last one stay; last is one that must not
	// stand out there.
	Class string
}

// waitBar is the wait between two attempts.
type waitBar struct {
	X, Width, Middle string
	Y, Height        string
	Text, Class      string
}

// The heights of the drawing, in pixels: of the line on which the attempts are, and of the longest wait above it.
const (
	scheduleLine = 64
	longestWait  = 40
)

// newSchedule draws the retries of a strategy.
func newSchedule(r diverted.RetryStrategy) *schedule {
	waits := r.Schedule()
	s := &schedule{}
	n := len(waits) + 1
	longest := waits[len(waits)-1]
	var at time.Duration
	each := 1 // which names there is room for
	switch {
	case n > 7:
		each = 3
	case n > 4:
		each = 2
	}
	class := func(fits bool) string {
		if fits {
			return ""
		}
		return "wide"
	}
	s.Attempts = append(s.Attempts, attemptDot{X: share(0, n, 0.5), Name: "1", At: "at once"})
	for i, wait := range waits {
		at += wait
		height := max(4, longestWait*float64(wait)/float64(longest))
		s.Waits = append(s.Waits, waitBar{
			X: share(i, n, 0.5), Width: share(1, n, 0), Middle: share(i+1, n, 0),
			Y: pixels(scheduleLine - height), Height: pixels(height), Text: "+" + span(wait), Class: class(i%each == 0),
		})
		dot := attemptDot{X: share(i+1, n, 0.5), Name: strconv.Itoa(i + 2), At: span(at)}
		switch left := n - 2 - i; {
		case left > 0:
			dot.Class = class((i+1)%each == 0 && (each < 3 || left >= each))
		case each == 3:
			dot.Class = "last"
		}
		s.Attempts = append(s.Attempts, dot)
	}
	words := []string{"attempt 1 at once"}
	for _, a := range s.Attempts[1:] {
		words = append(words, a.Name+" after "+a.At)
	}
	s.Words = "When deliveries are attempted: " + join(words, " and ")
	return s
}
