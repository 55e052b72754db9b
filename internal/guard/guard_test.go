package guard

import (
	"context"
	"errors"
	"net/netip"
	"testing"

	"github.com/matryer/is"
)

// registered are the ranges of the IANA IPv4 and IPv6 Special-Purpose Address Registries, and after
// them what is inside somebody's network without being registered there.
var registered = []string{
	// https://www.iana.org/assignments/iana-ipv4-special-registry
	"0.0.0.0/8", "0.0.0.0/32", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
	"192.0.0.0/29", "192.0.0.8/32", "192.0.0.9/32", "192.0.0.10/32", "192.0.0.170/32", "192.0.0.171/32", "192.0.2.0/24",
	"192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.88.99.2/32", "192.168.0.0/16", "192.175.48.0/24", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4", "255.255.255.255/32",

	// https://www.iana.org/assignments/iana-ipv6-special-registry
	"::1/128", "::/128", "::ffff:0:0/104", "::ffff:10.0.0.0/104", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001::/32",
	"2001:1::1/128", "2001:1::2/128", "2001:1::3/128", "2001:2::/48", "2001:3::/32", "2001:4:112::/48", "2001:10::/28", "2001:20::/28",
	"2001:30::/28", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10",

	// NAT64 (RFC 6052) of what is refused as IPv4.
	"64:ff9b::/104", "64:ff9b::10.0.0.0/104", "64:ff9b::127.0.0.0/104", "64:ff9b::169.254.169.254/128", "64:ff9b::192.168.0.0/112",
	"64:ff9b::168.63.129.16/128",

	// Multicast, the deprecated site-local, IPv4-compatible and IPv4-translated, and what IANA has not allocated.
	"224.0.0.0/4", "ff00::/8", "fec0::/10", "::/96", "::ffff:0:0:0/96", "200::/7", "4000::/3", "e000::/4",

	// Metadata and platform services of clouds.
	"169.254.169.254/32", "169.254.170.2/32", "fd00:ec2::254/128", "100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32",
}

// ends returns the first, a middle and the last address of a prefix.
func ends(p netip.Prefix) []netip.Addr {
	first := p.Masked().Addr()
	fill := func(from int) netip.Addr {
		b := first.AsSlice()
		for bit := from; bit < len(b)*8; bit++ {
			b[bit/8] |= 0x80 >> (bit % 8)
		}
		a, _ := netip.AddrFromSlice(b)
		return a
	}
	return []netip.Addr{first, fill(min(p.Bits()+1, first.BitLen())), fill(p.Bits())}
}

func TestEverySpecialRangeIsRefused(t *testing.T) {
	g := New(nil, nil)
	for _, r := range registered {
		t.Run(r, func(t *testing.T) {
			is := is.New(t)
			for _, ip := range ends(netip.MustParsePrefix(r)) {
				is.True(errors.Is(g.Check(ip), ErrNotAllowed))
				if ip.Is4() { // an IPv4 address is refused in IPv6's clothes too
					is.True(errors.Is(g.Check(netip.AddrFrom16(ip.As16())), ErrNotAllowed))
				}
			}
		})
	}
	is.New(t).True(errors.Is(g.Check(netip.Addr{}), ErrNotAllowed))
}

func TestPublicAddressesAreAllowed(t *testing.T) {
	g := New(nil, nil)
	for _, a := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0", "169.253.255.255",
		"172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "223.255.255.255", "168.63.129.15", "168.63.129.17",
		"2606:4700:4700::1111", "2a00:1450::1", "2001:200::1", "2003::1", "3ffe::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8",
	} {
		t.Run(a, func(t *testing.T) {
			is.New(t).NoErr(g.Check(netip.MustParseAddr(a)))
		})
	}
}

func TestAllowedNetworksOpenAndDeniedOnesWin(t *testing.T) {
	prefixes := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	for _, tt := range []struct {
		name            string
		allowed, denied []netip.Prefix
		address         string
		want            bool
	}{
		{"allowed", prefixes("10.1.0.0/16"), nil, "10.1.2.3", true},
		{"beside what is allowed", prefixes("10.1.0.0/16"), nil, "10.2.0.0", false},
		{"allowed, as an IPv4-mapped address", prefixes("10.1.0.0/16"), nil, "::ffff:10.1.2.3", true},
		{"allowed as an IPv4-mapped prefix", prefixes("::ffff:10.1.0.0/112"), nil, "10.1.2.3", true},
		{"allowed, through NAT64", prefixes("10.1.0.0/16"), nil, "64:ff9b::10.1.2.3", true},
		{"NAT64 allowed as a whole opens nothing behind it", prefixes("64:ff9b::/96"), nil, "64:ff9b::127.0.0.1", false},
		{"allowed in IPv6", prefixes("fd00::/8"), nil, "fd12::1", true},
		{"allowed in IPv6, with a zone", prefixes("fe80::/10"), nil, "fe80::1%eth0", true},
		{"everything of IPv4 opens nothing of IPv6", prefixes("0.0.0.0/0"), nil, "::1", false},
		{"a public address that is denied", nil, prefixes("8.8.8.0/24"), "8.8.8.8", false},
		{"denied, as an IPv4-mapped address", nil, prefixes("8.8.8.0/24"), "::ffff:8.8.8.8", false},
		{"denied as an IPv4-mapped prefix", nil, prefixes("::ffff:8.8.8.0/120"), "8.8.8.8", false},
		{"denied, through NAT64", nil, prefixes("8.8.8.0/24"), "64:ff9b::8.8.8.8", false},
		{"denied in IPv6, with a zone", nil, prefixes("2606:4700::/32"), "2606:4700::1%eth0", false},
		{"allowed and denied", prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16"), "10.1.2.3", false},
		{"denied around what is allowed", prefixes("10.1.0.0/16"), prefixes("10.0.0.0/8"), "10.1.2.3", false},
		{"allowed beside what is denied", prefixes("10.0.0.0/8"), prefixes("10.1.0.0/16"), "10.2.0.0", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			is := is.New(t)
			err := New(tt.allowed, tt.denied).Check(netip.MustParseAddr(tt.address))
			is.Equal(err == nil, tt.want)
		})
	}
}

func TestControlJudgesWhatADiallerIsAboutToDial(t *testing.T) {
	is := is.New(t)
	g := New(nil, nil)
	control := func(network, address string) error { return g.Control(context.Background(), network, address, nil) }
	is.NoErr(control("tcp4", "8.8.8.8:1")) // any port
	is.NoErr(control("tcp4", "8.8.8.8:65535"))
	is.NoErr(control("tcp6", "[2606:4700:4700::1111]:443"))
	for _, tt := range [][2]string{
		{"tcp4", "127.0.0.1:80"}, {"tcp6", "[::1]:80"}, {"tcp6", "[fe80::1%eth0]:80"}, {"udp4", "8.8.8.8:53"}, {"unix", "/run/docker.sock"},
		{"tcp4", "localhost:80"}, {"tcp4", ""}, {"", ""},
	} {
		is.True(errors.Is(control(tt[0], tt[1]), ErrNotAllowed))
	}
}

func TestTheErrorNamesNoAddress(t *testing.T) {
	is := is.New(t)
	is.Equal(New(nil, nil).Check(netip.MustParseAddr("10.1.2.3")).Error(), "address is not allowed, by default only public ones are")
}

func FuzzCheck(f *testing.F) {
	for _, r := range registered {
		f.Add(netip.MustParsePrefix(r).Addr().AsSlice())
	}
	f.Add(netip.MustParseAddr("8.8.8.8").AsSlice())
	g := New(nil, nil)
	f.Fuzz(func(t *testing.T, b []byte) {
		ip, ok := netip.AddrFromSlice(b)
		if !ok || g.Check(ip) != nil {
			return
		}
		// What is allowed passes every predicate of the standard library, and so does what it embeds.
		plain := ip.Unmap()
		if nat64.Contains(plain) {
			b := plain.As16()
			plain = netip.AddrFrom4([4]byte(b[12:]))
		}
		if !plain.IsGlobalUnicast() || plain.IsPrivate() || plain.IsLoopback() || plain.IsLinkLocalUnicast() || plain.IsMulticast() || plain.IsUnspecified() {
			t.Fatalf("%v is allowed", ip)
		}
	})
}
