//! What keys must not be: each with the sentence that says so.

use super::{heads, monitor};

#[test]
fn sections_have_bounds() {
    for (text, head) in [
        (
            "[daemon]\nregion = \"a b\"",
            "c.toml:2:10: daemon.region: is not right, must be 1 to 63 of letters, digits, '.', '_' and '-'",
        ),
        (
            "[daemon]\nlog_level = \"inf\"",
            "c.toml:2:13: daemon.log_level: unknown value \"inf\", must be one of off, error, warn, info, debug, trace; did you mean \"info\"?",
        ),
        (
            "[server]\nport = 80",
            "c.toml:2:1: server.port: unknown key, allowed here: listen, metrics_monitors, metrics_public, public_url",
        ),
        (
            "[server]\npublic_url = \"https://h/path\"",
            "c.toml:2:14: server.public_url: not an address of a server, http:// or https:// and a host, such as \"https://status.example.com\"",
        ),
        (
            "[daemon]\nlog_level = \"info,web=loud\"",
            "c.toml:2:13: daemon.log_level: \"web=loud\" has no level of off, error, warn, info, debug, trace, such as \"info\" or \"info,probe=debug,sqlx=info\"",
        ),
        (
            "[server]\nmetrics_monitors = 250001",
            "c.toml:2:20: server.metrics_monitors: 250001 is out of range, must be 0 to 250000",
        ),
        ("[server]\ntls = {}", "c.toml:2:1: server.tls: not built yet in this version, remove it"),
        (
            "[database]\nurl = \"mysql://canary@h/d\"",
            "c.toml:2:7: database.url: not an address of a Postgres database, such as \"postgres://user:password@host:5432/database\"",
        ),
        (
            "[database]\nmax_connections = 1",
            "c.toml:2:19: database.max_connections: 1 is out of range, must be 2 to 100",
        ),
        (
            "[database]\nbacklog = \"64\"",
            "c.toml:2:11: database.backlog: \"64\" is not a size, must be a whole number with a unit: B, KiB, MiB, GiB, kB, MB or GB, such as \"64MiB\"",
        ),
        (
            "[database]\nschema = \"pg_x\"",
            "c.toml:2:10: database.schema: is not right, must be 1 to 63 of a-z, 0-9 and '_', no digit first, no \"pg_\" first",
        ),
        (
            "[probe]\nmax_body = \"1GiB\"",
            "c.toml:2:12: probe.max_body: \"1GiB\" is out of range, must be 1KiB to 64MiB",
        ),
        (
            "[probe]\nresolvers = [\"1.1.1.1\", \"one\"]",
            "c.toml:2:25: probe.resolvers: \"one\" is not right, must be an address with a port, such as \"127.0.0.1:53\"",
        ),
        (
            "[probe]\nproxy = \"hunter2\"",
            "c.toml:2:9: probe.proxy: not an address of a proxy, http://, socks5:// or socks5h://, then [user:password@]host:port",
        ),
        (
            "[probe]\nrdap_bootstrap = \"ftp://x/\"",
            "c.toml:2:18: probe.rdap_bootstrap: not a file, nor a URL, such as \"https://data.iana.org/rdap/dns.json\"",
        ),
        (
            "[probe]\nca_files = [\"none.pem\"]",
            "c.toml:2:12: probe.ca_files: /nowhere/none.pem: No such file or directory (os error 2), PEM files of certificates",
        ),
        (
            "[egress]\nallow = [\"10.1.2.3/8\"]",
            "c.toml:2:10: egress.allow: \"10.1.2.3/8\" is not right, did you mean \"10.0.0.0/8\"?",
        ),
        ("[[channel]]\nid = \"x\"", "c.toml:1:3: channel: not built yet in this version, remove it"),
        ("[plans.free]\nchannels = 1", "c.toml:2:1: plans.free.channels: not built yet in this version, remove it"),
        ("[plans]\nfree = 1", "c.toml:2:8: plans.free: found an integer (1), must be a table"),
        (
            "[plans.free]\nretension = \"7d\"",
            "c.toml:2:1: plans.free.retension: unknown key, did you mean \"retention\"?",
        ),
        (
            "[plans.free]\nretention = \"3y\"",
            "c.toml:2:13: plans.free.retention: is longer than there are roll-ups, at most retention.hourly, 730d",
        ),
        ("[retention]\nchecks = \"1h\"", "c.toml:2:10: retention.checks: \"1h\" is out of range, must be 1d to 1825d"),
        (
            "[retention]\nhourly = \"30d\"",
            "c.toml:2:10: retention.hourly: is shorter than the other allows, hourly must be at least checks, 90d",
        ),
        (
            "[retention]\nchecks = \"3y\"",
            "c.toml:2:10: retention.checks: is longer than the other allows, hourly must be at least checks, 1095d",
        ),
        (
            "[retention]\ndaily = \"1y\"",
            "c.toml:2:9: retention.daily: is shorter than the other allows, daily must be at least hourly, 730d",
        ),
        (
            "[retention]\ndisk_budget = \"1MiB\"",
            "c.toml:2:15: retention.disk_budget: \"1MiB\" is out of range, must be 64MiB to 1024TiB",
        ),
        ("[[server]]\nlisten = \"x\"", "c.toml:1:1: server: found a list, must be a table"),
        ("servr = 1", "c.toml:1:1: servr: unknown key, did you mean \"server\"?"),
        ("[monitor]\nid = \"a\"", "c.toml:1:1: monitor: is not a list of tables, write [[monitor]]"),
    ] {
        assert_eq!(heads(text), [head], "{text}");
    }
}

#[test]
fn monitors_have_bounds() {
    for (keys, head) in [
        (
            "interval = 30",
            "c.toml:4:12: monitor.interval: found an integer (30), must be a number with a unit: ms, s, m, h, d, w or y, such as \"30s\" or \"1h30m\"",
        ),
        ("interval = \"500ms\"", "c.toml:4:12: monitor.interval: \"500ms\" is out of range, must be 1s to 1d"),
        ("interval = \"1s500ms\"", "c.toml:4:12: monitor.interval: has a fraction of a second, must be whole seconds"),
        ("timeout = \"2h\"", "c.toml:4:11: monitor.timeout: \"2h\" is out of range, must be 1s to 1h"),
        (
            "interval = \"9s\"\nschedule = \"* * * * *\"",
            "c.toml:5:12: monitor.schedule: stands beside an interval, keep interval or schedule",
        ),
        (
            "timezone = \"UTC\"",
            "c.toml:4:12: monitor.timezone: has no schedule beside it, remove it, or add a schedule",
        ),
        (
            "schedule = \"* * * * *\"\ntimezone = \"Europe/Berln\"",
            "c.toml:5:12: monitor.timezone: unknown time zone \"Europe/Berln\", did you mean \"Europe/Berlin\"?",
        ),
        ("confirmations = 0", "c.toml:4:17: monitor.confirmations: 0 is out of range, must be 1 to 100"),
        ("flap = { changes = 1 }", "c.toml:4:20: monitor.flap.changes: 1 is out of range, must be 2 to 100"),
        ("flap = { change = 4 }", "c.toml:4:10: monitor.flap.change: unknown key, did you mean \"changes\"?"),
        (
            "tags = [\"\"]",
            "c.toml:4:8: monitor.tags: are not tags, at most 32 tags of 1 to 64 characters, without spaces around them",
        ),
        ("owner = \"me\"", "c.toml:4:9: monitor.owner: is not an e-mail address, such as \"a@example.com\""),
        ("notify = [\"ops\"]", "c.toml:4:1: monitor.notify: not built yet in this version, remove it"),
        (
            "kind = \"tcp\"",
            "c.toml:4:8: monitor.kind: is \"tcp\", but the url's scheme \"https\" belongs to \"http\", leave it out, or change one of the two",
        ),
        (
            "kind = \"dns\"",
            "c.toml:4:8: monitor.kind: \"dns\" is not built yet in this version, must be one of http, tcp",
        ),
        (
            "exchange = []",
            "c.toml:4:1: monitor.exchange: does not belong here, it is for tcp monitors, and this one's kind is http",
        ),
        ("renamed_from = \"a\"", "c.toml:4:16: monitor.renamed_from: is the monitor's own id"),
        ("depends_on = [\"b\"]", "c.toml:4:15: monitor.depends_on: no monitor has the id \"b\", did you mean \"a\"?"),
        (
            "depends_on = [\"a\"]",
            "c.toml:4:15: monitor.depends_on: is a cycle: a -> a, a monitor cannot explain itself",
        ),
        (
            "body = \"${NONE}\"",
            "c.toml:4:8: monitor.body: environment variable \"NONE\" is not set, set it, or write $${ for a literal ${",
        ),
    ] {
        assert_eq!(heads(&monitor(keys)), [head], "{keys}");
    }
    assert_eq!(
        heads("[[monitor]]\nname = \"x\""),
        [
            "c.toml:1:1: monitor.id: is missing, every [[monitor]] has an id and a url",
            "c.toml:1:1: monitor.url: is missing, every [[monitor]] has an id and a url",
        ]
    );
    assert!(
        heads(&monitor("schedule = \"99 * * * *\""))[0].starts_with("c.toml:4:12: monitor.schedule: not a schedule: ")
    );
}
