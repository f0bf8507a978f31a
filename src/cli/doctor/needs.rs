//! What a configuration asks of the machine that it runs on.

use std::net::IpAddr;

use crate::settings::model::Settings;
use crate::store::Examined;

/// What one configuration needs of its host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// Checks that may run at once: as many as there are monitors, and no more than `probe.max_in_flight`.
    pub(super) checks: u64,
    pub(super) max_in_flight: u64,
    pub(super) icmp: u64,
    /// Monitors whose targets are names.
    pub(super) names: u64,
}

impl Needs {
    pub(super) fn of(settings: &Settings, database: Option<&Examined>) -> Self {
        let active = || settings.monitors.iter().filter(|monitor| monitor.active);
        let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let ours = database.and_then(|database| database.ours.as_ref());
        let rows = ours.and_then(|ours| u64::try_from(ours.rows).ok()).unwrap_or(0);
        let pinging = ours.and_then(|ours| u64::try_from(ours.icmp).ok()).unwrap_or(0);
        let max_in_flight = count(settings.probe.max_in_flight);
        Self {
            checks: (count(active().count()) + rows).min(max_in_flight),
            max_in_flight,
            // The file's stand in the database as well, once it was merged.
            icmp: pinging.max(count(active().filter(|monitor| monitor.kind == "icmp").count())),
            names: count(active().filter(|monitor| needs_resolver(monitor.kind, &monitor.url)).count()) + rows,
        }
    }
}

/// Whether the target of a monitor is a name.
fn needs_resolver(kind: &str, url: &str) -> bool {
    match kind {
        "dns" | "domain" => return true,
        "exec" | "group" | "heartbeat" => return false,
        _ => {}
    }
    let host = match url::Url::parse(url) {
        Ok(url) => url.host_str().unwrap_or_else(|| url.path()).to_owned(),
        // With a reference in it, it may be anything.
        Err(_) => return true,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_err() && bare != "localhost" && !bare.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::needs_resolver;

    #[test]
    fn names_need_a_resolver() {
        for (kind, url, needs) in [
            ("http", "https://example.com/", true),
            ("http", "https://127.0.0.1/", false),
            ("http", "https://[::1]:80/", false),
            ("tcp", "tcp://10.0.0.1:1", false),
            ("tcp", "tcp://db:1", true),
            ("icmp", "icmp:192.0.2.1", false),
            ("icmp", "icmp:gateway", true),
            ("http", "http://localhost:1/", false),
            ("dns", "dns:example.com", true),
            ("heartbeat", "heartbeat:", false),
            ("exec", "exec:/bin/true x", false),
            ("http", "https://${HOST}/", true),
        ] {
            assert_eq!(needs_resolver(kind, url), needs, "{url}");
        }
    }
}
