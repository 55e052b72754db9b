package diverted

import "context"

// accepting asks the [Tracer] what identifies the span of ctx, and takes nothing else for an answer.
func (d *Dispatcher) accepting(ctx context.Context) (traceparent string) {
	if d.config.Tracer == nil {
		return ""
	}
	defer d.contain("tracer")
	if s := d.config.Tracer.Accepting(ctx); validTraceParent(s) {
		return s
	}
	return ""
}

// attempting has the [Tracer] begin the span of an attempt. end is nil if there is none.
func (d *Dispatcher) attempting(a Attempt) (traceparent string, end func(Attempt)) {
	if d.config.Tracer == nil {
		return "", nil
	}
	defer d.contain("tracer")
	traceparent, end = d.config.Tracer.Attempting(a)
	if !validTraceParent(traceparent) {
		traceparent = ""
	}
	return traceparent, end
}

// validTraceParent says whether s is a header traceparent of version 00 (W3C Trace Context, section 3.2).
func validTraceParent(s string) bool {
	const zeros = "00-00000000000000000000000000000000-0000000000000000-00"
	if len(s) != len(zeros) || s[:3] != zeros[:3] || s[3:35] == zeros[3:35] || s[36:52] == zeros[36:52] {
		return false
	}
	for i := range len(s) {
		dash := i == 2 || i == 35 || i == 52
		if dash != (s[i] == '-') || !dash && !isDigit(s[i]) && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
