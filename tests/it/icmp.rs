//! Pings in network namespaces: permissions, loss, routers and links as the kernel really has them.

use serde_json::Value;

use crate::support::netns::checks;

/// A link from here (192.0.2.1, 2001:db8::1) to a host (192.0.2.2, 2001:db8::2), which is the namespace of `$far`.
pub(crate) const LINK: &str = r#"
    ip link set lo up
    unshare --net -- sleep 60 & far=$!
    trap 'kill $far' EXIT
    until [ "$(readlink /proc/$far/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.02; done
    ip link add near type veth peer name far netns $far
    ip addr add 192.0.2.1/24 dev near; ip -6 addr add 2001:db8::1/64 dev near nodad; ip link set near up
    far() { nsenter --target $far --net -- "$@"; }
    far ip link set lo up
    far ip addr add 192.0.2.2/24 dev far; far ip -6 addr add 2001:db8::2/64 dev far nodad; far ip link set far up
    ping() { "$PROBE" probe "$1" --timeout "${2:-2s}" --json || true; }
    configured() { printf '%s\n' "$1" > /run/probe.toml; "$PROBE" probe --config /run/probe.toml --all --json || true; }
    mount -t tmpfs none /run
"#;

pub(crate) fn failure(check: &Value) -> (&str, Option<&str>) {
    (check["verdict"].as_str().unwrap(), check["failure"].as_str())
}

#[test]
fn permissions_decide_how_or_whether_we_ping() {
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups";
    let script = format!(
        r#"ip link set lo up
        for host in 127.0.0.1 '[::1]'; do
            echo '1 0' > /proc/sys/net/ipv4/ping_group_range
            "$PROBE" probe "icmp:$host" --json || true
            {nobody} --bounding-set=-all --inh-caps=-all "$PROBE" probe "icmp:$host" --json || true
            echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range
            {nobody} --bounding-set=-all --inh-caps=-all "$PROBE" probe "icmp:$host" --json || true
        done"#
    );
    let Some(checks) = checks("permissions_decide_how_or_whether_we_ping", &script) else { return };
    assert_eq!(checks.len(), 6);
    for of_host in checks.chunks(3) {
        let [raw, denied, datagram] = of_host else { panic!("{of_host:?}") };
        for check in [raw, datagram] {
            assert_eq!(failure(check), ("up", None), "{check}");
            let details = &check["details"];
            assert_eq!((&details["packets_sent"], &details["packets_received"]), (&3.into(), &3.into()), "{check}");
            assert_eq!(details["loss_percent"], 0.0);
            let rtt = |name: &str| details["rtt_ms"][name].as_f64().unwrap();
            assert!(rtt("min") <= rtt("avg") && rtt("avg") <= rtt("max") && details["jitter_ms"].is_number());
            // The gaps between the packets, 400 ms, are not the target's.
            assert!(check["response_time_ms"].as_i64().unwrap() < 200, "{check}");
            assert_eq!(check["timings_us"]["wait"], check["timings_us"]["total"]);
        }
        assert_eq!(failure(denied), ("unknown", Some("permission_denied")));
        let message = denied["message"].as_str().unwrap();
        assert!(message.contains("net.ipv4.ping_group_range = 0 2147483647") && message.contains("CAP_NET_RAW"));
    }
}

#[test]
fn loss_is_counted_and_all_lost_is_a_timeout() {
    let script = format!(
        r#"{LINK}
        ping icmp:192.0.2.2; ping 'icmp:[2001:db8::2]'
        far nft 'add table inet t; add chain inet t i {{ type filter hook input priority 0; }}'
        far nft add rule inet t i icmp type echo-request numgen inc mod 2 0 drop
        half='[[monitor]]
id = "half"
url = "icmp:192.0.2.2"
packets = 10
timeout = "3s"'
        configured "$half"
        configured "$half
max_loss = \"50%\""
        configured "$half
max_loss = \"49%\""
        far nft add rule inet t i icmpv6 type echo-request drop
        far nft add rule inet t i icmp type echo-request drop
        ping icmp:192.0.2.2 1s; ping 'icmp:[2001:db8::2]' 1s"#
    );
    let Some(checks) = checks("loss_is_counted_and_all_lost_is_a_timeout", &script) else { return };
    let found: Vec<_> = checks.iter().map(failure).collect();
    let (up, lost) = (("up", None), ("down", Some("icmp_timeout")));
    assert_eq!(found, [up, up, up, up, ("down", Some("packet_loss")), lost, lost], "{checks:#?}");
    for half in &checks[2..5] {
        assert_eq!(half["details"]["loss_percent"], 50.0, "{half}");
        assert!(half["response_time_ms"].as_i64().unwrap() < 500, "waiting for lost packets is no latency: {half}");
    }
    assert!(checks[5]["response_time_ms"].as_i64().unwrap() >= 990, "{}", checks[5]);
}

#[test]
fn routers_and_links_have_their_names() {
    let script = format!(
        r#"{LINK}
        echo 1 > /proc/sys/net/ipv4/ip_forward
        ip route add default via 192.0.2.2
        far ip route add unreachable 198.51.100.0/25
        far sysctl -qw net.ipv4.ip_forward=1 net.ipv4.icmp_ratelimit=0
        far ip route add prohibit 203.0.113.0/24
        # A router tells one source of five errors at once, then of one a second: each route has a source of its own.
        ip addr add 192.0.2.11/24 dev near; ip addr add 192.0.2.12/24 dev near
        ip route add 198.51.100.128/25 via 192.0.2.2 src 192.0.2.11
        ip route add 203.0.113.0/24 via 192.0.2.2 src 192.0.2.12
        ping icmp:198.51.100.1; ping icmp:198.51.100.200; ping icmp:203.0.113.1
        ping icmp:192.0.2.99 5s
        ip link set near down
        ping icmp:192.0.2.2; ping 'icmp:[2001:db8::2]'"#
    );
    let Some(checks) = checks("routers_and_links_have_their_names", &script) else { return };
    let found: Vec<_> = checks.iter().map(failure).collect();
    let wanted = [
        ("down", Some("host_unreachable")),
        ("down", Some("network_unreachable")),
        ("down", Some("host_unreachable")),
        // Nobody on the link has the address.
        ("down", Some("host_unreachable")),
        ("unknown", Some("observer_offline")),
        ("unknown", Some("observer_offline")),
    ];
    assert_eq!(found, wanted, "{checks:#?}");
    assert!(checks[0]["response_time_ms"].as_i64().unwrap() < 1500, "what was refused is not waited for");
}

#[test]
fn our_resolver_dead_for_all_is_not_the_names_fault() {
    // A port that refuses, a host that drops, and no route at all.
    let script = format!(
        r#"{LINK}
        mount -t tmpfs none /mnt; echo > /mnt/hosts; mount --bind /mnt/hosts /etc/hosts
        conf=$(readlink -f /etc/resolv.conf)
        for server in 192.0.2.2 192.0.2.99 198.51.100.1; do
            printf 'nameserver %s\noptions timeout:1 attempts:1\n' $server > /mnt/resolv.conf
            mount --bind /mnt/resolv.conf "$conf"
            for url in http://shop.test/ icmp:shop.test dns:shop.test; do ping $url 3s; done
            umount "$conf"
        done"#
    );
    let Some(checks) = checks("our_resolver_dead_for_all_is_not_the_names_fault", &script) else { return };
    assert_eq!(checks.len(), 9);
    for check in &checks {
        assert_eq!(failure(check), ("unknown", Some("resolver_unavailable")), "{check}");
    }
}
