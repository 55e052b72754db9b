package diverted

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
