//! What is ours to have and is really taken away, descriptors, ports, routes, permissions, the resolver: every kind that
//! dials says so, and none blames its target.

use serde_json::Value;

use crate::support::every::{Way, table, ways};
use crate::support::netns::checks;

mod daemon;

/// What a namespace begins with. `fill FROM TO` takes local ports, all of them, by both protocols and versions.
const SCENE: &str = r#"
    mount -t tmpfs none /run
    all() { "$PROBE" probe --config "/run/$1.toml" --all --json || true; }
"#;

fn configuration(name: &str, head: &str, host: &str, only: fn(&Way) -> bool) -> String {
    let tables: String = ways().iter().filter(|way| only(way)).map(|way| way_to(way, host)).collect();
    format!("cat > /run/{name}.toml <<'END'\n{head}\n{tables}END\n")
}

fn way_to(way: &Way, host: &str) -> String {
    // Nobody listens on port 9, and nothing of this gets so far.
    table(&way.id(), &way.to(host, 9)) + "timeout = \"3s\"\n"
}

fn count(only: fn(&Way) -> bool) -> usize {
    ways().iter().filter(|way| only(way)).count()
}

fn all_are(checks: &[Value], failure: &str) {
    for check in checks {
        assert_eq!((&check["verdict"], &check["failure"]), (&"unknown".into(), &failure.into()), "{check}");
    }
}

const ALL: fn(&Way) -> bool = |_| true;
/// Pings have no ports.
const WITH_PORTS: fn(&Way) -> bool = |way| way.kind != "icmp";

#[test]
fn without_local_ports_nothing_is_down() {
    // A listener on each takes all ten; by TCP alone the other half of what is here still has its own.
    let fill = r#"
        cat > /run/fill.py <<'END'
import socket, sys, time
held = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)[:int(sys.argv[1])]:
        for port in range(50000, 50010):
            held.append(socket.socket(family, kind))
            if family == socket.AF_INET6:
                held[-1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            held[-1].bind((address, port))
open("/run/filled" + sys.argv[1], "w").close()
time.sleep(60)
END
        fill() { python3 /run/fill.py $1 & filler=$!; until [ -e /run/filled$1 ]; do sleep 0.02; done; }
        trap 'kill $filler' EXIT
        ip link set lo up
        sysctl -qw net.ipv4.ip_local_port_range='50000 50009'
    "#;
    let v4 = configuration("v4", "", "127.0.0.1", WITH_PORTS);
    let v6 = configuration("v6", "", "[::1]", WITH_PORTS);
    // The question for the name needs a port as well.
    let named = configuration("named", "probe.resolvers = [\"127.0.0.1:53\"]", "shop.example", ALL);
    let script = format!(
        "{SCENE}{fill}{v4}{v6}{named}\nfill 1; all v4; all v6; kill $filler; wait; fill 2; all v4; all v6; all named"
    );
    let Some(checks) = checks("without_local_ports_nothing_is_down", &script) else { return };
    let each = count(WITH_PORTS);
    let (by_tcp, rest) = checks.split_at(2 * each);
    let (by_tcp, datagrams): (Vec<_>, Vec<_>) = by_tcp.iter().cloned().partition(|check| {
        let way = ways().into_iter().find(|way| check["monitor"] == way.id()).unwrap();
        !way.is_datagram()
    });
    assert_eq!(rest.len(), 2 * each + count(ALL));
    all_are(&by_tcp, "resource_exhausted");
    for check in &datagrams {
        assert_eq!(check["failure"], "connect_refused", "datagrams have ports of their own: {check}");
    }
    all_are(rest, "resource_exhausted");
    for check in &checks[..each] {
        let message = check["message"].as_str().unwrap();
        assert!(check["failure"] != "resource_exhausted" || message.contains("ip_local_port_range"), "{check}");
    }
}

#[test]
fn without_a_route_or_permission_nothing_is_down() {
    // A namespace begins with all links down; a route that prohibits is how an administrator forbids.
    let offline = configuration("offline", "", "192.0.2.1", ALL);
    let offline6 = configuration("offline6", "", "[2001:db8::1]", ALL);
    let prohibited = configuration("prohibited", "", "198.51.100.1", ALL);
    let script = format!(
        "{SCENE}{offline}{offline6}{prohibited}\nall offline; all offline6\n\
         ip link set lo up; ip route add prohibit 198.51.100.0/24; all prohibited"
    );
    let Some(checks) = checks("without_a_route_or_permission_nothing_is_down", &script) else { return };
    assert_eq!(checks.len(), 3 * count(ALL));
    let (offline, prohibited) = checks.split_at(2 * count(ALL));
    all_are(offline, "observer_offline");
    all_are(prohibited, "permission_denied");
}

#[test]
fn without_a_resolver_nothing_is_down() {
    // On the loopback of a namespace nobody listens: refused at once.
    let named = configuration("named", "probe.resolvers = [\"127.0.0.1:53\", \"[::1]:53\"]", "shop.example", ALL);
    let script = format!("{SCENE}{named}\nip link set lo up; all named");
    let Some(checks) = checks("without_a_resolver_nothing_is_down", &script) else { return };
    assert_eq!(checks.len(), count(ALL));
    all_are(&checks, "resolver_unavailable");
}

#[test]
fn without_descriptors_nothing_is_down() {
    // Inherited ones fill the table but for the last quarter, which checks leave to others.
    let few = r#"
        cat > /run/few.py <<'END'
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128))
null = os.open("/dev/null", os.O_RDONLY)
for number in range(3, 100):
    os.dup2(null, number)
os.execv(sys.argv[1], sys.argv[1:])
END
        few() { python3 /run/few.py "$PROBE" probe --config "/run/$1.toml" --all --json || true; }
        ip link set lo up
    "#;
    let v4 = configuration("v4", "", "127.0.0.1", ALL);
    let plugin = table("plugin", &serde_json::json!({ "url": "exec:/bin/true" }));
    let named = configuration("named", "probe.resolvers = [\"127.0.0.1:53\"]", "shop.example", ALL);
    let script = format!("{SCENE}{few}{v4}cat >> /run/v4.toml <<'END'\n{plugin}END\n{named}\nfew v4; few named");
    let Some(checks) = checks("without_descriptors_nothing_is_down", &script) else { return };
    assert_eq!(checks.len(), 2 * count(ALL) + 1);
    all_are(&checks, "resource_exhausted");
}
