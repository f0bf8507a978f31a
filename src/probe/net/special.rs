//! Special-purpose address ranges, after the IANA registries (RFC 6890; "IPv4/IPv6 Special-Purpose Address Space",
//! read 2026-11) with the metadata services that clouds put at fixed addresses. Pure data and pure functions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a range is for, as far as the guard cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Names no host: unspecified, multicast, broadcast. Nobody may dial it, no rule opens it.
    Nobody,
    /// The link or a metadata service, which hands out the host's credentials: refused unless opened on purpose.
    Metadata,
    /// Not reachable over the Internet.
    NotGlobal,
    /// An exception inside a range that is not global.
    Global,
}

/// One range.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// First address, in the width of its family.
    first: u128,
    v6: bool,
    /// Prefix length in bits.
    pub(super) prefix: u8,
    /// Its use.
    pub(super) purpose: Use,
    /// For the sentence of a refusal: "… is …".
    pub(super) what: &'static str,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8, purpose: Use, what: &'static str) -> Range {
    Range { first: Ipv4Addr::new(a, b, c, d).to_bits() as u128, v6: false, prefix, purpose, what }
}

const fn v6(segments: [u16; 8], prefix: u8, purpose: Use, what: &'static str) -> Range {
    let [a, b, c, d, e, f, g, h] = segments;
    Range { first: Ipv6Addr::new(a, b, c, d, e, f, g, h).to_bits(), v6: true, prefix, purpose, what }
}

impl Range {
    /// Whether the address lies in it. A v4 address lies in v4 ranges only: canonicalise first.
    pub(super) const fn contains(&self, ip: IpAddr) -> bool {
        let (bits, width, v6) = match ip {
            IpAddr::V4(ip) => (ip.to_bits() as u128, 32, false),
            IpAddr::V6(ip) => (ip.to_bits(), 128, true),
        };
        // A shift by the whole width would overflow; prefix 0 contains everything of its family.
        v6 == self.v6 && (self.prefix == 0 || (bits ^ self.first) >> (width - self.prefix) == 0)
    }

    /// The range as CIDR text.
    pub(super) fn cidr(&self) -> String {
        match self.first_address() {
            IpAddr::V4(ip) => format!("{ip}/{}", self.prefix),
            IpAddr::V6(ip) => format!("{ip}/{}", self.prefix),
        }
    }

    fn first_address(&self) -> IpAddr {
        if self.v6 {
            IpAddr::V6(Ipv6Addr::from_bits(self.first))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(self.first).unwrap_or(0)))
        }
    }
}

const METADATA: &str = "a cloud's metadata service";

/// All ranges; the longest that contains an address decides about it.
pub(super) const RANGES: &[Range] = &[
    v4(0, 0, 0, 0, 8, Use::NotGlobal, "\"this network\" (RFC 791)"),
    v4(0, 0, 0, 0, 32, Use::Nobody, "the unspecified address, which reaches this host"),
    v4(10, 0, 0, 0, 8, Use::NotGlobal, "private (RFC 1918)"),
    v4(100, 64, 0, 0, 10, Use::NotGlobal, "shared by carriers (RFC 6598)"),
    v4(100, 100, 100, 200, 32, Use::Metadata, METADATA),
    v4(127, 0, 0, 0, 8, Use::NotGlobal, "loopback"),
    // Azure's agent endpoint has a global address, but answers with a machine's goal state.
    v4(168, 63, 129, 16, 32, Use::Metadata, METADATA),
    v4(169, 254, 0, 0, 16, Use::Metadata, "link-local (RFC 3927)"),
    v4(169, 254, 169, 254, 32, Use::Metadata, METADATA),
    v4(169, 254, 170, 2, 32, Use::Metadata, METADATA),
    v4(169, 254, 170, 23, 32, Use::Metadata, METADATA),
    v4(172, 16, 0, 0, 12, Use::NotGlobal, "private (RFC 1918)"),
    v4(192, 0, 0, 0, 24, Use::NotGlobal, "reserved for protocols (RFC 6890)"),
    v4(192, 0, 0, 9, 32, Use::Global, "port control anycast (RFC 7723)"),
    v4(192, 0, 0, 10, 32, Use::Global, "TURN anycast (RFC 8155)"),
    v4(192, 0, 0, 192, 32, Use::Metadata, METADATA),
    v4(192, 0, 2, 0, 24, Use::NotGlobal, "for documentation (RFC 5737)"),
    v4(192, 88, 99, 0, 24, Use::NotGlobal, "the 6to4 relay anycast (RFC 7526)"),
    v4(192, 168, 0, 0, 16, Use::NotGlobal, "private (RFC 1918)"),
    v4(198, 18, 0, 0, 15, Use::NotGlobal, "for benchmarks (RFC 2544)"),
    v4(198, 51, 100, 0, 24, Use::NotGlobal, "for documentation (RFC 5737)"),
    v4(203, 0, 113, 0, 24, Use::NotGlobal, "for documentation (RFC 5737)"),
    v4(224, 0, 0, 0, 4, Use::Nobody, "multicast"),
    v4(240, 0, 0, 0, 4, Use::NotGlobal, "reserved (RFC 1112)"),
    v4(255, 255, 255, 255, 32, Use::Nobody, "the broadcast address"),
    // Only 2000::/3 is assigned as global unicast (RFC 4291, section 2.4).
    v6([0, 0, 0, 0, 0, 0, 0, 0], 0, Use::NotGlobal, "outside the global unicast space"),
    v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3, Use::Global, "global unicast"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 96, Use::NotGlobal, "IPv4-compatible (RFC 4291)"),
    v6([0, 0, 0, 0, 0, 0, 0, 0], 128, Use::Nobody, "the unspecified address, which reaches this host"),
    v6([0, 0, 0, 0, 0, 0, 0, 1], 128, Use::NotGlobal, "loopback"),
    v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96, Use::NotGlobal, "IPv4-translated (RFC 2765)"),
    // Global as such: what it embeds is judged on its own.
    v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96, Use::Global, "NAT64 (RFC 6052)"),
    v6([0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48, Use::NotGlobal, "local NAT64 (RFC 8215)"),
    v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64, Use::NotGlobal, "discard-only (RFC 6666)"),
    v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64, Use::NotGlobal, "the dummy prefix (RFC 9780)"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23, Use::NotGlobal, "reserved for protocols (RFC 2928)"),
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 32, Use::NotGlobal, "Teredo (RFC 4380)"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 1], 128, Use::Global, "port control anycast (RFC 7723)"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 2], 128, Use::Global, "TURN anycast (RFC 8155)"),
    v6([0x2001, 1, 0, 0, 0, 0, 0, 3], 128, Use::Global, "DNS-SD anycast (RFC 9665)"),
    v6([0x2001, 2, 0, 0, 0, 0, 0, 0], 48, Use::NotGlobal, "for benchmarks (RFC 5180)"),
    v6([0x2001, 3, 0, 0, 0, 0, 0, 0], 32, Use::Global, "AMT (RFC 7450)"),
    v6([0x2001, 4, 0x112, 0, 0, 0, 0, 0], 48, Use::Global, "AS112 (RFC 7535)"),
    v6([0x2001, 0x10, 0, 0, 0, 0, 0, 0], 28, Use::NotGlobal, "ORCHID (RFC 4843)"),
    v6([0x2001, 0x20, 0, 0, 0, 0, 0, 0], 28, Use::Global, "ORCHIDv2 (RFC 7343)"),
    v6([0x2001, 0x30, 0, 0, 0, 0, 0, 0], 28, Use::Global, "for drones (RFC 9374)"),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32, Use::NotGlobal, "for documentation (RFC 3849)"),
    v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16, Use::NotGlobal, "6to4 (RFC 3056)"),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20, Use::NotGlobal, "for documentation (RFC 9637)"),
    v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16, Use::NotGlobal, "for segment routing (RFC 9602)"),
    v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7, Use::NotGlobal, "unique local (RFC 4193)"),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128, Use::Metadata, METADATA),
    v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23], 128, Use::Metadata, METADATA),
    v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128, Use::Metadata, METADATA),
    v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128, Use::Metadata, METADATA),
    v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10, Use::Metadata, "link-local (RFC 4291)"),
    v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10, Use::NotGlobal, "site-local (RFC 3879)"),
    v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8, Use::Nobody, "multicast"),
];

/// The longest range that contains the address; none for ordinary global v4 addresses.
pub(super) fn range_of(ip: IpAddr) -> Option<&'static Range> {
    RANGES.iter().filter(|range| range.contains(ip)).max_by_key(|range| range.prefix)
}

/// The v4 addresses that a v6 address may be translated or tunnelled to. `::` and `::1` embed none.
pub(super) fn embedded(ip: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let bits = ip.to_bits();
    let segments = ip.segments();
    let low = |shift: u32| Ipv4Addr::from_bits(u32::try_from((bits >> shift) & 0xffff_ffff).unwrap_or(0));
    // RFC 6052, section 2.2: bits 64 to 71 are skipped by prefixes shorter than 96.
    let around_u = |prefix: u32| {
        let without_u = ((bits >> 64) << 56) | (bits & ((1 << 56) - 1));
        Ipv4Addr::from_bits(u32::try_from((without_u >> (120 - prefix - 32)) & 0xffff_ffff).unwrap_or(0))
    };
    let found: [Option<Ipv4Addr>; 4] = match segments {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => [None; 4],
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
            [Some(low(0)), None, None, None]
        }
        // The operator's prefix length is unknown here: every place that RFC 6052 allows inside a /48.
        [0x64, 0xff9b, 1, ..] => [Some(low(0)), Some(around_u(48)), Some(around_u(56)), Some(around_u(64))],
        [0x2002, ..] => [Some(low(80)), None, None, None],
        // Teredo: the server, and the client with its bits inverted (RFC 4380, section 4).
        [0x2001, 0, ..] => [Some(low(64)), Some(Ipv4Addr::from_bits(!low(0).to_bits())), None, None],
        // ISATAP (RFC 5214, section 6.1).
        [.., 0 | 0x200, 0x5efe, _, _] => [Some(low(0)), None, None, None],
        _ => [None; 4],
    };
    found.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn both_ends_of_every_range_and_their_neighbours() {
        for range in RANGES {
            let width: u32 = if range.v6 { 128 } else { 32 };
            let all = if range.v6 { u128::MAX } else { u128::from(u32::MAX) };
            let host_bits = width - u32::from(range.prefix);
            let span = if host_bits == 128 { u128::MAX } else { (1u128 << host_bits) - 1 };
            assert_eq!(range.first & span, 0, "{}: host bits are set", range.cidr());
            let address = |bits: u128| match range.v6 {
                true => IpAddr::V6(Ipv6Addr::from_bits(bits)),
                false => IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).unwrap())),
            };
            let last = range.first + span;
            assert!(range.contains(address(range.first)) && range.contains(address(last)), "{}", range.cidr());
            if range.first > 0 {
                assert!(!range.contains(address(range.first - 1)), "{}", range.cidr());
            }
            if last < all {
                assert!(!range.contains(address(last + 1)), "{}", range.cidr());
            }
        }
    }

    #[test]
    fn the_longest_range_decides() {
        for (text, purpose) in [
            ("169.254.169.254", Some(Use::Metadata)),
            ("192.0.0.8", Some(Use::NotGlobal)),
            ("192.0.0.9", Some(Use::Global)),
            ("192.0.1.0", None),
            ("8.8.8.8", None),
            ("255.255.255.254", Some(Use::NotGlobal)),
            ("2001:4860:4860::8888", Some(Use::Global)),
            ("2001:1::1", Some(Use::Global)),
            ("2001:1::4", Some(Use::NotGlobal)),
            ("4000::1", Some(Use::NotGlobal)),
            ("fd00:ec2::254", Some(Use::Metadata)),
            ("fd00:ec2::255", Some(Use::NotGlobal)),
            ("fec0::1", Some(Use::NotGlobal)),
        ] {
            assert_eq!(range_of(ip(text)).map(|range| range.purpose), purpose, "{text}");
        }
    }

    #[test]
    fn what_v6_addresses_embed() {
        for (text, wanted) in [
            ("::", &[][..]),
            ("::1", &[]),
            ("::7f00:1", &["127.0.0.1"]),
            ("::ffff:0:7f00:1", &["127.0.0.1"]),
            ("64:ff9b::a9fe:a9fe", &["169.254.169.254"]),
            ("2002:a00:1::", &["10.0.0.1"]),
            ("2001:0:a00:1::f5ff:fffe", &["10.0.0.1", "10.0.0.1"]),
            ("fe80::5efe:c0a8:1", &["192.168.0.1"]),
            ("2a00::1", &[]),
        ] {
            let IpAddr::V6(address) = ip(text) else { panic!("{text} is v6") };
            let found: Vec<String> = embedded(address).map(|v4| v4.to_string()).collect();
            assert_eq!(found, wanted, "{text}");
        }
        // RFC 6052, section 2.4: 192.0.2.33 behind prefixes of 48, 56, 64 and 96 bits.
        for text in
            ["64:ff9b:1:c000:2:2100::", "64:ff9b:1:0c0:0:221::", "64:ff9b:1:0:c0:2:2100::", "64:ff9b:1::c000:221"]
        {
            let IpAddr::V6(address) = ip(text) else { panic!("{text} is v6") };
            assert!(embedded(address).any(|v4| v4 == Ipv4Addr::new(192, 0, 2, 33)), "{text}");
        }
    }
}
