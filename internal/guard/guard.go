// Package guard keeps a dialler from addresses that a stranger's URL must not reach: loopback, private
// and link-local networks, metadata services, and whatever else the IANA special-purpose registries
// list.
//
// The address is judged after DNS, at the moment it is dialled, so that a resolver that changes its
// answer, an odd spelling of an address or a redirect cannot slip past the check.
package guard

import (
	"context"
	"errors"
	"net/netip"
	"syscall"

	"code.dny.dev/ssrf"
)

// ErrNotAllowed is the error of an address that must not be dialled. It names no address, so that nobody
// learns from it what a name resolves to.
var ErrNotAllowed = errors.New("address is not allowed, by default only public ones are")

// Guard decides which addresses may be dialled. It is safe for concurrent use.
type Guard struct {
	public          *ssrf.Guardian
	allowed, denied []netip.Prefix
}

// New returns a guard that allows public addresses and those in the allowed networks, but none in the
// denied ones, which win.
func New(allowed, denied []netip.Prefix) *Guard {
	return &Guard{public: ssrf.New(ssrf.WithAnyPort()), allowed: unmap(allowed), denied: unmap(denied)}
}

// Control is the ControlContext of a [net.Dialer]: it sees each address that is about to be dialled.
func (g *Guard) Control(_ context.Context, network, address string, _ syscall.RawConn) error {
	if network != "tcp4" && network != "tcp6" {
		return ErrNotAllowed
	}
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return ErrNotAllowed
	}
	return g.Check(ap.Addr())
}

// Check returns nil if ip may be dialled, else [ErrNotAllowed].
func (g *Guard) Check(ip netip.Addr) error {
	// A prefix contains no address that has a zone, so a zone must not hide one.
	ip = ip.Unmap().WithZone("")
	switch {
	case !ip.IsValid(), contains(g.denied, ip):
		return ErrNotAllowed
	case nat64.Contains(ip):
		// Where the network itself has IPv6 only, this is the way to every public IPv4 address.
		b := ip.As16()
		return g.Check(netip.AddrFrom4([4]byte(b[12:])))
	case contains(g.allowed, ip):
		return nil
	case contains(special, ip), g.public.SafeAddr(ip) != nil:
		return ErrNotAllowed
	}
	return nil
}

// nat64 is the well-known prefix of RFC 6052: its last 32 bits are an IPv4 address. The other forms that
// embed one (the local-use NAT64 prefix of RFC 8215, 6to4, Teredo) are refused as a whole.
var nat64 = ssrf.IPv6NAT64Prefix

// special are the addresses that are in no registry, and yet inside somebody's network.
var special = []netip.Prefix{
	netip.MustParsePrefix("168.63.129.16/32"), // Azure's platform service, reachable from every machine there
}

func contains(prefixes []netip.Prefix, ip netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}

// unmap writes prefixes of IPv4-mapped addresses as those of IPv4, since that is how addresses are
// compared.
func unmap(prefixes []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		if p.Addr().Is4In6() && p.Bits() >= 96 {
			p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
		}
		out[i] = p
	}
	return out
}
