//! The example configuration, which is the documentation of every key.

/// `config.example.toml`: parses as it is, and with every setting uncommented.
pub const EXAMPLE: &str = include_str!("../../config.example.toml");

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::diagnostic::{Findings, SourceText, render};
    use super::super::tree::{Table, Value};
    use super::super::{document, model};
    use super::*;
    use crate::probe::kinds::{KINDS, LATER};

    /// Takes the `#` from every line that has no space behind it.
    fn uncommented() -> String {
        let setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
        let line = |line: &'static str| if setting(&line) { &line[1..] } else { line };
        EXAMPLE.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    fn read(text: &str) -> (model::Settings, Findings) {
        let folder = tempfile::tempdir().unwrap();
        let pair = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        std::fs::write(folder.path().join("ca.pem"), pair.cert.pem()).unwrap();
        std::fs::write(folder.path().join("client.pem"), pair.cert.pem()).unwrap();
        std::fs::write(folder.path().join("client.key"), pair.signing_key.serialize_pem()).unwrap();
        std::fs::write(folder.path().join("shop-password"), "secret of the shop\n").unwrap();
        std::fs::write(folder.path().join("office-token"), "secret of the office").unwrap();
        let variable = |name: &str| matches!(name, "SHOP_TOKEN" | "DATABASE_PASSWORD").then(|| "secret".to_owned());
        let environment = model::Environment { variable: &variable, credentials: Some(folder.path()) };
        let sources = [SourceText::new("config.example.toml", text)];
        let findings = Findings::default();
        let settings = model::read_with(KINDS, LATER, &sources, folder.path(), environment, &findings);
        let asked = findings.asked.borrow().clone();
        let (list, _) = findings.into_sorted();
        let shown: Vec<String> = list.iter().map(|finding| render(finding, &sources)).collect();
        assert!(shown.is_empty(), "{}", shown.join("\n"));
        let findings = Findings::default();
        *findings.asked.borrow_mut() = asked;
        (settings, findings)
    }

    #[test]
    fn it_is_valid_as_it_is() {
        let (settings, _) = read(EXAMPLE);
        let ids: Vec<&str> = settings.monitors.iter().map(|m| m.key.as_ref().unwrap().as_str()).collect();
        assert_eq!(ids, ["lamplighter", "example"]);
        assert_eq!(settings.server, Default::default());
    }

    #[test]
    fn the_defaults_that_it_shows_are_the_defaults() {
        let (settings, _) = read(&uncommented());
        let server = super::super::sections::Server { public_url: None, ..settings.server };
        assert_eq!(server, Default::default());
        let daemon = super::super::sections::Daemon { state_directory: None, ..settings.daemon };
        assert_eq!(daemon, Default::default());
        let default = super::super::sections::Database::default();
        let database = super::super::sections::Database { url: None, ..settings.database };
        assert_eq!(database, default);
        assert_eq!(settings.probe.max_in_flight, 10_000);
        assert_eq!(settings.probe.max_body, 1 << 20);
        let shop = settings.monitors.iter().find(|monitor| &*monitor.name == "Web shop").unwrap();
        assert_eq!((shop.confirmations, shop.recoveries, shop.retry_interval.as_secs()), (2, 1, 10));
        assert_eq!((shop.flap, shop.active), (crate::model::Flap::default(), true));
    }

    fn keys(table: &Table, path: &str, into: &mut BTreeSet<String>) {
        for entry in &table.entries {
            let key = if path.is_empty() { entry.key.to_string() } else { format!("{path}.{}", entry.key) };
            into.insert(key.clone());
            match &entry.node.value {
                // Free names, and the forms of a secret.
                Value::Table(_) if matches!(&*key, "monitor.headers" | "monitor.env") => {}
                Value::Table(inner) if inner.entries.iter().any(|e| matches!(&*e.key, "file" | "credential")) => {}
                Value::Table(inner) => keys(inner, &key, into),
                Value::Array(items) => {
                    for item in items {
                        let Value::Table(inner) = &item.value else { continue };
                        let key = if key == "monitor" { key.clone() } else { format!("{key}[]") };
                        keys(inner, &key, into);
                    }
                }
                _ => {}
            }
        }
    }

    #[test]
    fn it_shows_exactly_the_keys_that_are_read() {
        let text = uncommented();
        let (_, findings) = read(&text);
        let mut shown = BTreeSet::new();
        let (tree, broken) = document::parse(0, &text, &Findings::default());
        assert!(!broken);
        keys(&tree, "", &mut shown);
        // Any key of a monitor; which they are, the monitors show.
        shown.retain(|key| !key.starts_with("defaults."));
        let asked: BTreeSet<String> =
            findings.asked.borrow().iter().filter(|key| !key.starts_with("defaults.")).cloned().collect();
        let (missing, unread) = (asked.difference(&shown), shown.difference(&asked));
        assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "read, and not in the example");
        assert_eq!(unread.collect::<Vec<_>>(), Vec::<&String>::new(), "in the example, and not read");
    }
}
