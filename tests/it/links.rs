//! Whose fault it is, with the resource really taken away: what we lack is unknown, what a router says is down.

use serde_json::Value;

use crate::icmp::{LINK, failure};
use crate::support::netns::checks;

#[test]
fn no_port_and_no_descriptor_are_ours() {
    // Every port that the kernel may choose is reserved; then fewer and fewer descriptors, down to where nothing starts.
    let script = r#"
        ip link set lo up
        echo '40000 40001' > /proc/sys/net/ipv4/ip_local_port_range
        echo 40000-40001 > /proc/sys/net/ipv4/ip_local_reserved_ports
        "$PROBE" probe tcp://127.0.0.1:9 --json || true
        echo > /proc/sys/net/ipv4/ip_local_reserved_ports
        for limit in 24 18 16 15 14 13 12 11 10 9 8 7 6; do
            prlimit --nofile=$limit:$limit "$PROBE" probe tcp://127.0.0.1:9 --json 2> /dev/null || true
        done"#;
    let Some(checks) = checks("no_port_and_no_descriptor_are_ours", script) else { return };
    let ours = ("unknown", Some("resource_exhausted"));
    assert_eq!(failure(&checks[0]), ours, "{}", checks[0]);
    assert!(checks[0]["message"].as_str().unwrap().contains("ip_local_port_range"), "{}", checks[0]);
    let limited = &checks[1..];
    assert_eq!(failure(&limited[0]), ("down", Some("connect_refused")), "24 are enough: {}", limited[0]);
    let named: Vec<_> = limited.iter().map(failure).collect();
    assert!(named.contains(&ours), "{named:?}");
    for check in limited {
        let found = failure(check);
        assert!(found == ours || found == ("down", Some("connect_refused")), "{check}");
    }
}

#[test]
fn links_and_routers_have_their_names_for_connections() {
    let script = format!(
        r#"{LINK}
        echo 1 > /proc/sys/net/ipv4/ip_forward
        ip route add default via 192.0.2.2
        far sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0
        far ip route add unreachable 198.51.100.0/25
        far ip route add prohibit 203.0.113.0/24
        ping tcp://192.0.2.2:80
        far ip route add blackhole 192.0.2.1; ping tcp://192.0.2.2:80 1s; far ip route del blackhole 192.0.2.1
        ping tcp://198.51.100.1:80; ping http://198.51.100.200/; ping tcp://203.0.113.1:80
        ping tcp://192.0.2.99:80 5s
        ip route add blackhole 198.51.100.128/25
        ping tcp://198.51.100.200:80
        ip link set near down
        ping tcp://192.0.2.2:80; ping 'https://[2001:db8::2]/'"#
    );
    let Some(checks) = checks("links_and_routers_have_their_names_for_connections", &script) else { return };
    let found: Vec<_> = checks.iter().map(failure).collect();
    let wanted = [
        ("down", Some("connect_refused")),
        ("down", Some("connect_timeout")),
        ("down", Some("host_unreachable")),
        ("down", Some("network_unreachable")),
        ("down", Some("host_unreachable")),
        // Nobody on the link has the address.
        ("down", Some("host_unreachable")),
        ("unknown", Some("observer_offline")),
        ("unknown", Some("observer_offline")),
        ("unknown", Some("observer_offline")),
    ];
    assert_eq!(found, wanted, "{checks:#?}");
    let reached = |check: &Value| check["timings_us"]["connect"].is_number() && check["timings_us"]["tls"].is_null();
    assert!(checks.iter().all(reached), "{checks:#?}");
}
