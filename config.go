package diverted

import (
	"log/slog"
	"net/http"
	"net/netip"
	"time"
)

// Config sets up a [Dispatcher]. The zero value of every field means its default.
type Config struct {
	// Timeout bounds an attempt from its beginning to the end of the answer's header section, 1 ms to 5 min.
	// 0: 15 s. Dialling and the TLS handshake are bounded by 10 s each within it.
	Timeout time.Duration
	// MaxInFlight bounds the attempts under way in all, 1 to 65,536. 0: 1,024. Each has its event's body in memory, so
	// set it where events are large: of 1 MiB each the default is 1 GiB.
	MaxInFlight int
	// MaxInFlightPerWebhook bounds the attempts under way for one webhook, 1 to MaxInFlight. 0: 128, or
	// MaxInFlight if that is less. Below that the number follows the receiver: it begins at 8, grows by one
	// with each answer, and is halved by a timeout, a 429 or a 503.
	MaxInFlightPerWebhook int
	// Jitter varies each wait before a retry by up to this fraction either way, at most 0.5. 0: 0.1, which
	// is ±10 %. Negative: none.
	Jitter float64
	// MaxRetryAfter is the longest wait that a receiver can ask for by Retry-After, up to 24 h. It can
	// lengthen the wait of the retry strategy, never shorten it. For that long the webhook is paused: its other
	// deliveries wait too, even if its URL is changed meanwhile, unless it is suspended and unsuspended. 0: 1 h.
	// Negative: Retry-After is ignored.
	MaxRetryAfter time.Duration
	// MaxPendingPerWebhook bounds how many deliveries of a webhook are pending. At the bound Send returns
	// [ErrFull], and so does Publish, which still accepts the event for the other webhooks. 0: no bound.
	// Processes on one store count each other's deliveries up to a second late. What the host's own transaction
	// accepts ([SQLiteStore.SendTx] and its like) is never refused, by this bound or the next.
	MaxPendingPerWebhook int
	// MaxStoreBytes bounds the size of the store, in bytes: on SQLite that of the database's pages in use,
	// without the write-ahead log. At the bound Send and Publish return [ErrFull] for every webhook.
	// Settling, resending and deleting are never refused, so stay well below the size of the disk. 0: no
	// bound. With a store that cannot tell its size, such as PostgreSQL's, any other value makes Send and
	// Publish return [ErrUnsupported].
	MaxStoreBytes int64
	// GracePeriod is how long Run, once its context has ended, lets the attempts under way go on before it
	// gives them up, at most 10 min. 0: 20 s. Negative: none.
	GracePeriod time.Duration

	// Retention says at what age, and beyond what number per webhook, diverted events and what suspended and
	// disabled webhooks hold are deleted. Run does so when it begins and every minute from then on, in small
	// steps, each logged and observed. The store must be a [RetentionStore]. Zero: everything is kept.
	Retention Retention

	// UserAgent is the User-Agent header of every request, at most 256 bytes without control characters or
	// space around it. Empty: "diverted (+https://github.com/divertedevents/diverted)".
	UserAgent string
	// AllowedNetworks opens networks that the address guard refuses: an intranet's prefix, or, to try things on one
	// machine, 127.0.0.0/8 and ::1/128. Nil: public addresses alone.
	AllowedNetworks []netip.Prefix
	// DeniedNetworks closes networks, such as one's own public ranges. It wins over AllowedNetworks.
	DeniedNetworks []netip.Prefix
	// AllowInsecureTLS permits endpoints with InsecureTLS. Otherwise an attempt to one fails.
	AllowInsecureTLS bool
	// Transport sends the requests in place of the dispatcher's own client. It is for tests: no address is
	// guarded, and none of this package's TLS rules and connection limits hold, but Timeout does. Nil: the
	// dispatcher's own.
	Transport http.RoundTripper

	// Logger is told what an operator should know: drops, diversions, suspensions, lost leases, webhooks whose
	// address is not allowed, faults of the store; and, at debug level, each attempt that is retried. It never
	// sees secrets, payloads or the query of a URL. Nil: slog.Default().
	Logger *slog.Logger
	// Observer is told what happened, after it was committed. Metrics are built on it.
	Observer Observer
	// Tracer connects attempts with the spans that sent their events. Nil: none.
	Tracer Tracer
}

// The defaults of a [Config].
const (
	DefaultTimeout               = 15 * time.Second
	DefaultMaxInFlight           = 1024
	DefaultMaxInFlightPerWebhook = 128
	DefaultJitter                = 0.1
	DefaultMaxRetryAfter         = time.Hour
	DefaultGracePeriod           = 20 * time.Second
	DefaultUserAgent             = "diverted (+https://github.com/divertedevents/diverted)"
)

const maxUserAgentBytes = 256

// WithDefaults returns the configuration with its zero fields set to their defaults.
func (c Config) WithDefaults() Config {
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.MaxInFlight == 0 {
		c.MaxInFlight = DefaultMaxInFlight
	}
	if c.MaxInFlightPerWebhook == 0 {
		c.MaxInFlightPerWebhook = min(DefaultMaxInFlightPerWebhook, c.MaxInFlight)
	}
	if c.Jitter == 0 {
		c.Jitter = DefaultJitter
	}
	if c.MaxRetryAfter == 0 {
		c.MaxRetryAfter = DefaultMaxRetryAfter
	}
	if c.GracePeriod == 0 {
		c.GracePeriod = DefaultGracePeriod
	}
	if c.UserAgent == "" {
		c.UserAgent = DefaultUserAgent
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// Validate returns nil, or an [InvalidError] that names every field at fault. Zero fields are valid.
func (c Config) Validate() error {
	var f faults
	c = c.WithDefaults()
	between := func(path string, d, least, most time.Duration) {
		if d < least || d > most {
			f.add(path, "must be %s to %s, was %s", least, most, d)
		}
	}
	between("Timeout", c.Timeout, time.Millisecond, 5*time.Minute)
	between("MaxRetryAfter", max(c.MaxRetryAfter, 0), 0, MaxRetryInterval)
	between("GracePeriod", max(c.GracePeriod, 0), 0, 10*time.Minute)
	if c.MaxInFlight < 1 || c.MaxInFlight > 1<<16 {
		f.add("MaxInFlight", "must be 1 to %d, was %d", 1<<16, c.MaxInFlight)
	} else if c.MaxInFlightPerWebhook < 1 || c.MaxInFlightPerWebhook > c.MaxInFlight {
		f.add("MaxInFlightPerWebhook", "must be 1 to MaxInFlight, which is %d, was %d", c.MaxInFlight, c.MaxInFlightPerWebhook)
	}
	if c.MaxPendingPerWebhook < 0 {
		f.add("MaxPendingPerWebhook", "must be 0 or more, was %d", c.MaxPendingPerWebhook)
	}
	if c.MaxStoreBytes < 0 {
		f.add("MaxStoreBytes", "must be 0 or more, was %d", c.MaxStoreBytes)
	}
	f.merge("Retention", c.Retention.Validate())
	if c.Jitter > 0.5 || c.Jitter != c.Jitter {
		f.add("Jitter", "must be at most 0.5, was %g", c.Jitter)
	}
	if len(c.UserAgent) > maxUserAgentBytes || !validFieldValue(c.UserAgent) {
		f.add("UserAgent", "must be at most %d bytes without control characters or space around it (RFC 9110), was %s", maxUserAgentBytes, quote(c.UserAgent))
	}
	for _, networks := range []struct {
		path     string
		prefixes []netip.Prefix
	}{{"AllowedNetworks", c.AllowedNetworks}, {"DeniedNetworks", c.DeniedNetworks}} {
		for i, p := range networks.prefixes {
			if !p.IsValid() {
				f.add(networks.path, "must be valid prefixes, entry %d is not", i)
			}
		}
	}
	return f.err()
}
