//! The egress guard: may this monitor dial this very address? Asked about every address just before `connect`, also
//! about literals, so that neither a rebinding name nor an odd notation gets past it.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use super::connect::{self, Stage};
use super::special::{self, Use};
use super::{EgressOptions, Profile};
use crate::model::{Failure, Fault};

/// The rules. For an address and every v4 address it embeds, in this order:
///
/// 1. Unspecified, multicast and broadcast addresses name no host: refused, whatever the configuration says.
/// 2. Rows never reach our own listeners and our store, whatever the configuration says.
/// 3. The longest prefix wins among `egress.allow`, `egress.deny` and the built-in ranges (link-local and metadata;
///    for rows under `database_profile = "public"` every range that is not global). A tie between allow and deny
///    denies; a tie between allow and a built-in range allows: whoever names it means it.
///
/// One refused form refuses the address.
pub(super) struct Guard {
    options: EgressOptions,
}

impl Guard {
    pub(super) fn new(options: EgressOptions) -> Self {
        Self { options }
    }

    /// Refuses with [`Failure::EgressBlocked`] and a sentence that names the rule; with what this host lacks when it cannot
    /// find out (rule 2 may need a socket), since an address that was not looked at is not dialled.
    pub(super) fn check(&self, address: SocketAddr, profile: Profile) -> Result<(), Fault> {
        let ip = address.ip().to_canonical();
        self.judge(ip, address.port(), profile).map_err(|refusal| refusal.fault(address, ""))?;
        if let IpAddr::V6(v6) = ip {
            for inner in special::embedded(v6) {
                let form = format!("it embeds {inner}, and ");
                let judged = self.judge(IpAddr::V4(inner), address.port(), profile);
                judged.map_err(|refusal| refusal.fault(address, &form))?;
            }
        }
        Ok(())
    }

    fn judge(&self, ip: IpAddr, port: u16, profile: Profile) -> Result<(), Refusal> {
        let range = special::range_of(ip);
        if let Some(range) = range.filter(|range| range.purpose == Use::Nobody) {
            return Err(Refusal::Rule(format!("{} is {}", range.cidr(), range.what)));
        }
        if profile == Profile::Rows {
            for own in &self.options.own {
                if reaches(ip, port, *own).map_err(Refusal::Ours)? {
                    let what = "it is a listener or the store of this daemon, which monitors of the database and the \
                                API never reach";
                    return Err(Refusal::Rule(what.to_owned()));
                }
            }
        }
        let longest =
            |list: &[IpNet]| list.iter().filter(|net| contains(net, ip)).max_by_key(|net| net.prefix_len()).copied();
        let (allow, deny) = (longest(&self.options.allow), longest(&self.options.deny));
        let allowed = allow.map(|net| net.prefix_len());
        if let Some(deny) = deny
            && allowed.is_none_or(|allow| deny.prefix_len() >= allow)
        {
            return Err(Refusal::Rule(format!("egress.deny has {deny}")));
        }
        let built_in = range.filter(|range| match range.purpose {
            Use::Metadata => true,
            Use::NotGlobal => profile == Profile::Rows && self.options.rows_public_only,
            Use::Nobody | Use::Global => false,
        });
        match built_in {
            Some(range) if allowed.is_none_or(|allow| allow < range.prefix) => {
                let cidr = range.cidr();
                let way_out = format!("to permit it, put \"{cidr}\" into egress.allow");
                Err(Refusal::Rule(format!("{cidr} is {}; {way_out}", range.what)))
            }
            _ => Ok(()),
        }
    }
}

/// Why an address is not dialled.
enum Refusal {
    /// A rule: the sentence's end.
    Rule(String),
    /// Whether a rule holds could not be found out.
    Ours(io::Error),
}

impl Refusal {
    /// `form` is the beginning of the reason, where it is about an embedded address.
    fn fault(&self, address: SocketAddr, form: &str) -> Fault {
        match self {
            Self::Rule(why) => Fault::new(Failure::EgressBlocked, format!("{address} was not dialled: {form}{why}")),
            Self::Ours(error) => connect::fault(address, Stage::AtOnce, error),
        }
    }
}

/// An operator's rule about v4 may be written in its v4-mapped form.
fn contains(net: &IpNet, ip: IpAddr) -> bool {
    match (net, ip) {
        (IpNet::V6(net), IpAddr::V4(ip)) if net.prefix_len() >= 96 => net.contains(&ip.to_ipv6_mapped()),
        _ => net.contains(&ip),
    }
}

/// Whether a connection to `ip:port` arrives at a listener bound to `own`. One on a wildcard address has every address
/// of this host, and `[::]` takes v4 as well.
fn reaches(ip: IpAddr, port: u16, own: SocketAddr) -> io::Result<bool> {
    if port != own.port() {
        return Ok(false);
    }
    let own = own.ip().to_canonical();
    if ip == own || own.is_unspecified() && ip.is_loopback() {
        return Ok(true);
    }
    if own.is_unspecified() { is_of_this_host(ip) } else { Ok(false) }
}

/// The kernel picks the destination itself as the source only when the destination is one of this host's addresses.
/// Connecting a datagram socket sends nothing. Three system calls, but only for the port of one of our own listeners. An
/// error is a lack of descriptors, ports or memory.
fn is_of_this_host(ip: IpAddr) -> io::Result<bool> {
    let any = match ip {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0))?;
    // Where no route leads nobody can be reached.
    let local = socket.connect((ip, 9)).and_then(|()| socket.local_addr());
    Ok(local.is_ok_and(|local| local.ip() == ip))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn guard(allow: &[&str], deny: &[&str], rows_public_only: bool, own: &[&str]) -> Guard {
        let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
        let own = own.iter().map(|own| own.parse().unwrap()).collect();
        Guard::new(EgressOptions { allow: nets(allow), deny: nets(deny), rows_public_only, own })
    }

    fn passes(guard: &Guard, ip: &str, port: u16, profile: Profile) -> bool {
        let result = guard.check(SocketAddr::new(ip.parse().unwrap(), port), profile);
        if let Err(fault) = &result {
            assert_eq!(fault.failure, Failure::EgressBlocked);
        }
        result.is_ok()
    }

    /// As an operator or an attacker may write them; `url` turns the odd ones into addresses.
    const HOSTILE: &[&str] = &[
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "0x7f000001",
        "127.0.0.1.",
        "127.255.255.255",
        "①②⑦.⓪.⓪.①",
        "0",
        "0.0.0.0",
        "10.0.0.1",
        "10.255.255.255",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "3232235521",
        "169.254.169.254",
        "169.254.169.254.",
        "0xa9fea9fe",
        "2852039166",
        "0251.0376.0251.0376",
        "100.64.0.1",
        "100.100.100.200",
        "192.0.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "168.63.129.16",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::ffff:0.0.0.0]",
        "[::7f00:1]",
        "[::127.0.0.1]",
        "[::ffff:0:127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[64:ff9b::a9fe:a9fe]",
        "[64:ff9b:1::a00:1]",
        "[64:ff9b:1:7f00:0:100::]",
        "[2002:7f00:1::]",
        "[2002:a9fe:a9fe::1]",
        "[2001:0:1::80ff:fffe]",
        "[fe80::1]",
        "[fe80::a9fe:a9fe]",
        "[febf::1]",
        "[fec0::1]",
        "[fc00::1]",
        "[fd00:ec2::254]",
        "[fd20:ce::254]",
        "[ff02::1]",
        "[2001:db8::1]",
        "[3fff::1]",
        "[100::1]",
        "[5f00::1]",
        "[4000::1]",
        "[2a00:0:0:0:0:5efe:127.0.0.1]",
    ];

    fn addresses(host: &str) -> IpAddr {
        let url = url::Url::parse(&format!("http://{host}/")).unwrap();
        match url.host() {
            Some(url::Host::Ipv4(ip)) => IpAddr::V4(ip),
            Some(url::Host::Ipv6(ip)) => IpAddr::V6(ip),
            other => panic!("{host}: {other:?}"),
        }
    }

    #[test]
    fn rows_under_the_public_profile_reach_nothing_special_in_any_notation() {
        let guard = guard(&[], &[], true, &[]);
        for host in HOSTILE {
            let address = SocketAddr::new(addresses(host), 80);
            let fault = guard.check(address, Profile::Rows).expect_err(host);
            assert_eq!(fault.failure, Failure::EgressBlocked);
            assert!(fault.message.contains("was not dialled: "), "{}", fault.message);
        }
        for host in ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]", "[::ffff:8.8.8.8]", "192.0.0.9"] {
            assert_eq!(guard.check(SocketAddr::new(addresses(host), 80), Profile::Rows), Ok(()), "{host}");
        }
    }

    #[test]
    fn monitors_of_the_file_reach_all_but_the_link_metadata_and_nobody() {
        let guard = guard(&[], &[], true, &["127.0.0.1:8780"]);
        for host in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "::1", "fd00::1", "203.0.113.1", "::ffff:10.0.0.1"] {
            assert!(passes(&guard, host, 8780, Profile::File), "{host}");
        }
        for host in [
            "169.254.0.1",
            "169.254.169.254",
            "100.100.100.200",
            "fe80::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::a9fe:a9fe",
            "::ffff:0.0.0.0",
        ] {
            assert!(!passes(&guard, host, 80, Profile::File), "{host}");
        }
    }

    #[test]
    fn rows_never_reach_our_own_listeners_and_store() {
        let guard =
            guard(&["0.0.0.0/0", "127.0.0.1/32"], &[], false, &["127.0.0.1:8780", "[::1]:5432", "0.0.0.0:9090"]);
        for (host, port, wanted) in [
            ("127.0.0.1", 8780, false),
            ("::ffff:127.0.0.1", 8780, false),
            ("64:ff9b::7f00:1", 8780, false),
            ("127.0.0.2", 8780, true),
            ("127.0.0.1", 8781, true),
            ("::1", 5432, false),
            ("127.0.0.1", 5432, true),
            ("127.0.0.1", 9090, false),
            ("127.77.0.1", 9090, false),
            ("::1", 9090, false),
            ("192.0.2.99", 9090, true),
        ] {
            assert_eq!(passes(&guard, host, port, Profile::Rows), wanted, "{host} {port}");
            assert!(passes(&guard, host, port, Profile::File), "{host} {port}");
        }
    }

    #[test]
    fn what_cannot_be_looked_at_is_not_dialled_and_nobodys_fault() {
        let address = "192.0.2.1:80".parse().unwrap();
        for errno in [rustix::io::Errno::MFILE, rustix::io::Errno::ADDRINUSE, rustix::io::Errno::NOBUFS] {
            let refusal = Refusal::Ours(errno.into());
            assert_eq!(refusal.fault(address, "").failure, Failure::ResourceExhausted, "{errno:?}");
        }
    }

    #[test]
    fn a_wildcard_listener_has_every_address_of_this_host() {
        assert!(!is_of_this_host("198.51.100.7".parse().unwrap()).unwrap());
        assert!(is_of_this_host("127.0.0.1".parse().unwrap()).unwrap());
        // The address of this host's interface, where it has a network.
        let own = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            socket.connect("198.51.100.7:9")?;
            socket.local_addr()
        });
        if let Ok(own) = own {
            let guard = guard(&[], &[], false, &["[::]:8780"]);
            assert!(!passes(&guard, &own.ip().to_string(), 8780, Profile::Rows), "{own}");
            assert!(passes(&guard, &own.ip().to_string(), 8781, Profile::Rows), "{own}");
        }
    }

    #[test]
    fn the_longest_prefix_wins_and_a_tie_denies() {
        let all = guard(
            &["10.1.0.0/16", "0.0.0.0/0", "169.254.0.0/16", "192.0.2.0/24"],
            &["10.0.0.0/8", "192.0.2.0/24"],
            false,
            &[],
        );
        for (host, wanted) in [
            ("10.1.2.3", true),
            ("10.2.0.1", false),
            ("192.0.2.1", false),
            ("8.8.8.8", true),
            ("169.254.1.1", true),
            // Opened as a whole, but not this one: it is named more exactly by the built-in rule.
            ("169.254.169.254", false),
            ("224.0.0.1", false),
        ] {
            assert_eq!(passes(&all, host, 80, Profile::File), wanted, "{host}");
        }
        let metadata = guard(&["169.254.169.254/32"], &[], true, &[]);
        assert!(passes(&metadata, "169.254.169.254", 80, Profile::Rows));
        assert!(passes(&metadata, "::ffff:169.254.169.254", 80, Profile::Rows));
        assert!(!passes(&metadata, "169.254.169.253", 80, Profile::Rows));
        let private = guard(&["10.0.0.0/8"], &["::ffff:10.9.0.0/112"], true, &[]);
        assert!(passes(&private, "10.1.1.1", 80, Profile::Rows));
        assert!(!passes(&private, "10.9.1.1", 80, Profile::Rows));
        assert!(!passes(&private, "192.168.1.1", 80, Profile::Rows));
    }

    proptest! {
        #[test]
        fn a_form_that_carries_a_v4_address_is_no_way_round(bits: u32, port: u16) {
            let guard = guard(&[], &[], true, &[]);
            let v4 = Ipv4Addr::from_bits(bits);
            let plain = guard.check(SocketAddr::new(IpAddr::V4(v4), port), Profile::Rows).is_ok();
            let mapped = SocketAddr::new(IpAddr::V6(v4.to_ipv6_mapped()), port);
            prop_assert_eq!(guard.check(mapped, Profile::Rows).is_ok(), plain);
            let nat64 = Ipv6Addr::from_bits((0x64_ff9b_u128 << 96) | u128::from(bits));
            prop_assert_eq!(guard.check(SocketAddr::new(IpAddr::V6(nat64), port), Profile::Rows).is_ok(), plain);
        }

        #[test]
        fn an_operators_deny_holds_at_both_ends_of_any_prefix(bits: u32, prefix in 1u8..=32) {
            let net = ipnet::Ipv4Net::new(Ipv4Addr::from_bits(bits), prefix).unwrap().trunc();
            let guard = Guard::new(EgressOptions { deny: vec![IpNet::V4(net)], ..EgressOptions::default() });
            let ok = |ip: u32| guard.check(SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(ip)), 80), Profile::File).is_ok();
            let (first, last) = (net.network().to_bits(), net.broadcast().to_bits());
            prop_assert!(!ok(first) && !ok(last));
            let plain = |ip: u32| Guard::new(EgressOptions::default())
                .check(SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(ip)), 80), Profile::File).is_ok();
            for neighbour in [first.checked_sub(1), last.checked_add(1)].into_iter().flatten() {
                prop_assert_eq!(ok(neighbour), plain(neighbour));
            }
        }
    }
}
