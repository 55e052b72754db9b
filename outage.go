package diverted

import "time"

// When the fault is presumed to be ours.
const (
	outageAttempts = 50          // in a row without a response
	outageHosts    = 10          // that they went to, at least
	outageProbe    = time.Second // between attempts while it lasts
)

// outage notices that no receiver at all can be reached: then the network of this machine is presumed to be
// down, and no delivery should spend its budget on that, no webhook be suspended. The mutex of its
// [session] guards it.
type outage struct {
	on    bool
	since time.Time // of on
	probe time.Time // when the next attempt may be claimed, while on

	attempts int             // in a row without a response
	hosts    map[string]bool // that they went to; no more than are needed

	news    []func() // tell that one began, or ended, in this order
	telling bool     // somebody tells them
}

// failed counts an attempt that got no response, and says whether the fault is presumed to be ours. began
// says that it is from now on.
func (o *outage) failed(host string, now time.Time) (ours, began bool) {
	if o.on {
		return true, false
	}
	o.attempts++
	if len(o.hosts) < outageHosts {
		if o.hosts == nil {
			o.hosts = make(map[string]bool, outageHosts)
		}
		o.hosts[host] = true
	}
	if o.attempts < outageAttempts || len(o.hosts) < outageHosts {
		return false, false
	}
	o.on, o.since, o.probe = true, now, now.Add(outageProbe)
	return true, true
}

// end ends an outage, and says whether there was one.
func (o *outage) end() (ended bool) {
	ended = o.on
	if o.on || o.attempts > 0 {
		o.on, o.attempts = false, 0
		clear(o.hosts)
	}
	return ended
}

// holds says whether nothing may be claimed now.
func (o *outage) holds(now time.Time) bool { return o.on && now.Before(o.probe) }

// presume says whether the failure of an attempt is presumed to be a fault of our own network, so that it
// is as if the attempt had not been made.
func (s *session) presume(c *Claim, r *response) (ours bool) {
	if r.aborted || r.local != nil || s.flush {
		return false
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.over: // and with it its outage
	case r.status != 0:
		after := now.Sub(s.out.since)
		if s.out.end() {
			s.due = true
			s.signal()
			s.tellOutage(func() {
				s.d.log.Info("diverted: a receiver responds again", "after", after)
				observed(s.d, s.d.config.Observer.Online, after)
			})
		}
	default:
		var began bool
		if ours, began = s.out.failed(c.Webhook.Endpoint.host(), now); began {
			s.tellOutage(s.d.offline)
		}
	}
	return ours
}

// tellOutage has tell called after what is to be told already: the end of an outage must not be told before its
// beginning. Whoever comes while somebody tells leaves it to him. mu is held, and released meanwhile.
func (s *session) tellOutage(tell func()) {
	o := &s.out
	if o.news = append(o.news, tell); o.telling {
		return
	}
	o.telling = true
	defer func() { o.telling = false }() // even if an observer ends the goroutine
	for len(o.news) > 0 {
		next := o.news[0]
		o.news = o.news[1:]
		s.unlocked(next)
	}
}

// unlocked calls f without mu, which is held before and afterwards, however f ends.
func (s *session) unlocked(f func()) {
	s.mu.Unlock()
	defer s.mu.Lock()
	f()
}

// offline says whether our own network is presumed to be down.
func (s *session) offline() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.on
}

// endOutage ends an outage with the session that noticed it, since nobody looks for its end any more. The next
// session notices anew whether there still is one.
func (s *session) endOutage() {
	s.mu.Lock()
	after := time.Since(s.out.since)
	ended := s.out.end()
	s.mu.Unlock()
	if ended {
		s.d.log.Info("diverted: delivery stops before a receiver responded again", "after", after)
		observed(s.d, s.d.config.Observer.Online, after)
	}
}

func (d *Dispatcher) offline() {
	d.log.Error("diverted: no receiver can be reached; the fault is presumed to be in our own network, and no failure counts until one responds",
		"attempts", outageAttempts, "hosts", outageHosts)
	if f := d.config.Observer.Offline; f != nil {
		defer d.contain("observer")
		f()
	}
}
