//! A monitor of every kind that dials, pointed at one place: what must hold of all of them is looked at for all of them.

use lamplighter::probe::kinds;
use serde_json::{Value, json};

/// Kinds that dial nobody.
const SILENT: [&str; 3] = ["exec", "group", "heartbeat"];

/// One way of a kind to its target.
#[derive(Clone, Copy)]
pub struct Way {
    pub kind: &'static str,
    /// The scheme; of dns that of its resolver.
    pub scheme: &'static str,
}

impl Way {
    const fn of(kind: &'static str, scheme: &'static str) -> Self {
        Self { kind, scheme }
    }

    /// The monitor's id in a file.
    pub fn id(self) -> String {
        format!("{}-{}", self.kind, self.scheme.replace('+', "-"))
    }

    /// Whether datagrams carry it.
    pub fn is_datagram(self) -> bool {
        matches!((self.kind, self.scheme), ("udp", _) | ("dns", "udp"))
    }

    /// The monitor that goes there. `host` is written as in a URL, with brackets around IPv6.
    pub fn to(self, host: &str, port: u16) -> Value {
        let scheme = self.scheme;
        match self.kind {
            "domain" => json!({ "url": "domain:shop.example", "rdap": format!("{scheme}://{host}:{port}/") }),
            "dns" => {
                json!({ "url": "dns:shop.example", "resolver": format!("{scheme}://{host}:{port}").replace("udp://", "") })
            }
            "icmp" => json!({ "url": format!("icmp:{host}"), "packets": 1 }),
            "udp" => json!({ "url": format!("udp://{host}:{port}"), "exchange": [{ "send": "?" }, { "expect": "." }] }),
            "postgres" | "mysql" | "mongodb" | "amqp" | "mqtt" => json!({
                "url": format!("{scheme}://user@{host}:{port}"),
                "auth": { "basic": { "password": "pass-word" } },
            }),
            _ => json!({ "url": format!("{scheme}://{host}:{port}") }),
        }
    }
}

/// Every way of every kind. A kind or scheme without its row fails here.
pub fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for kind in kinds::KINDS {
        match kind.name {
            name if SILENT.contains(&name) => {}
            "dns" => ways.extend(["udp", "tcp", "tls"].map(|scheme| Way::of("dns", scheme))),
            "domain" => ways.extend(["http", "https"].map(|scheme| Way::of("domain", scheme))),
            "http" | "tcp" | "tls" | "starttls" | "udp" | "icmp" | "ws" | "grpc" | "ssh" | "postgres" | "mysql"
            | "redis" | "mongodb" | "amqp" | "mqtt" => {
                ways.extend(kind.schemes.iter().map(|scheme| Way::of(kind.name, scheme)));
            }
            name => panic!("does {name} dial? It has no row in tests/it/support/every.rs"),
        }
    }
    ways
}

/// A monitor as a table of a file.
pub fn table(id: &str, monitor: &Value) -> String {
    let mut text = format!("[[monitor]]\nid = {id:?}\n");
    for (key, value) in monitor.as_object().unwrap() {
        text.push_str(&format!("{key} = {}\n", inline(value)));
    }
    text
}

fn inline(value: &Value) -> String {
    match value {
        Value::Object(object) => {
            let entries: Vec<String> = object.iter().map(|(key, value)| format!("{key} = {}", inline(value))).collect();
            format!("{{ {} }}", entries.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        // What JSON escapes TOML reads.
        plain => plain.to_string(),
    }
}
