//! What is logged: `daemon.log_level`, a level and exceptions by module or library.

use log::LevelFilter;

/// Log target of this program's modules.
const OURS: &str = "lamplighter";
/// Level of libraries that are not named: a file watcher that logs every event would otherwise log the writing of the log.
const LIBRARIES_AT: LevelFilter = LevelFilter::Warn;
/// Exceptions at most.
const MOST: usize = 64;

/// The modules that may be named, as in `src/lib.rs`.
pub const MODULES: &[&str] = &[
    "access",
    "catalog",
    "cli",
    "daemon",
    "journal",
    "metrics",
    "probe",
    "schedule",
    "settings",
    "store",
    "telemetry",
    "verdict",
    "web",
];
/// The libraries that log; a name stands for its family (`sqlx` also for `sqlx_core`).
pub const LIBRARIES: &[&str] = &["hickory", "hyper", "mio", "notify", "rustls", "sqlx", "tokio", "tracing", "want"];
/// Levels by name.
pub const LEVELS: [(&str, LevelFilter); 6] = [
    ("off", LevelFilter::Off),
    ("error", LevelFilter::Error),
    ("warn", LevelFilter::Warn),
    ("info", LevelFilter::Info),
    ("debug", LevelFilter::Debug),
    ("trace", LevelFilter::Trace),
];

/// Which lines are logged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    default: LevelFilter,
    /// Targets with their levels, longest first.
    rules: Vec<(Box<str>, LevelFilter)>,
}

impl Default for Filter {
    fn default() -> Self {
        Self::level(LevelFilter::Info)
    }
}

/// The part of a text that is no directive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part:?} {why}")]
pub struct BadDirective {
    /// As it is written.
    pub part: String,
    /// What is wrong with it.
    pub why: String,
}

impl Filter {
    /// One level for this program.
    #[must_use]
    pub const fn level(default: LevelFilter) -> Self {
        Self { default, rules: Vec::new() }
    }

    /// Reads `"info"`, or `"info,probe=debug,sqlx=info"`: a level and exceptions, in any order.
    ///
    /// # Errors
    /// Names the first part that is wrong.
    pub fn parse(text: &str) -> Result<Self, BadDirective> {
        let bad = |part: &str, why: String| Err(BadDirective { part: part.to_owned(), why });
        let (mut default, mut rules) = (None, Vec::<(Box<str>, LevelFilter)>::new());
        for part in text.split(',').map(str::trim) {
            let (name, level) = part.split_once('=').map_or(("", part), |(name, level)| (name.trim(), level.trim()));
            let Some((_, level)) = LEVELS.iter().find(|(known, _)| *known == level) else {
                let names = LEVELS.map(|(name, _)| name).join(", ");
                return bad(part, format!("has no level of {names}"));
            };
            if !part.contains('=') {
                if default.replace(*level).is_some() {
                    return bad(part, "is a second level for everything".to_owned());
                }
                continue;
            }
            let Some(target) = target(name) else {
                return bad(
                    part,
                    format!(
                        "names neither a module ({}) nor a library that logs ({})",
                        MODULES.join(", "),
                        LIBRARIES.join(", ")
                    ),
                );
            };
            if rules.iter().any(|(known, _)| **known == *target) {
                return bad(part, format!("names {name} a second time"));
            }
            if rules.len() == MOST {
                return bad(part, format!("is one more than the {MOST} exceptions that are possible"));
            }
            rules.push((target.into(), *level));
        }
        rules.sort_by_key(|(target, _)| std::cmp::Reverse(target.len()));
        Ok(Self { default: default.unwrap_or(LevelFilter::Info), rules })
    }

    /// The most that any target logs.
    #[must_use]
    pub fn most(&self) -> LevelFilter {
        self.rules.iter().map(|(_, level)| *level).fold(self.default, Ord::max)
    }

    /// The level of a target.
    #[must_use]
    pub fn of(&self, target: &str) -> LevelFilter {
        if let Some((_, level)) = self.rules.iter().find(|(rule, _)| covers(rule, target)) {
            return *level;
        }
        if covers(OURS, target) { self.default } else { self.default.min(LIBRARIES_AT) }
    }
}

/// Whether a rule is about a target: the same, a module within it, or a crate of a library's family.
fn covers(rule: &str, target: &str) -> bool {
    let family = rule != OURS && !rule.contains(':');
    target
        .strip_prefix(rule)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::") || (family && rest.starts_with('_')))
}

fn target(name: &str) -> Option<String> {
    let good = |segment: &str| {
        !segment.is_empty() && segment.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    if name.len() > 100 || !name.split("::").all(good) {
        return None;
    }
    let first = name.split("::").next().unwrap_or_default();
    if MODULES.contains(&first) {
        return Some(format!("{OURS}::{name}"));
    }
    let known = LIBRARIES
        .iter()
        .any(|library| first.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with('_')));
    known.then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use LevelFilter::{Debug, Error, Info, Off, Trace, Warn};

    #[test]
    fn the_longest_name_decides() {
        let filter = Filter::parse(" info, probe=debug,probe::net=error ,sqlx=info, hyper_util::server=trace").unwrap();
        for (target, level) in [
            ("lamplighter::probe::pool", Debug),
            ("lamplighter::probe::net::dial", Error),
            ("lamplighter::probe::network", Debug),
            ("lamplighter::verdict::stage", Info),
            ("lamplighter", Info),
            ("lamplighterx", Warn),
            ("sqlx::query", Info),
            ("sqlx_core::pool", Info),
            ("hyper_util::server::conn", Trace),
            ("hyper_util::client", Warn),
            ("notify", Warn),
        ] {
            assert_eq!(filter.of(target), level, "{target}");
        }
        assert_eq!(filter.most(), Trace);
        let quiet = Filter::parse("error").unwrap();
        assert_eq!((quiet.of("notify"), quiet.of("lamplighter::web"), quiet.most()), (Error, Error, Error));
        let only = Filter::parse("off,web=debug").unwrap();
        assert_eq!((only.of("lamplighter::web"), only.of("lamplighter::store"), only.of("sqlx")), (Debug, Off, Off));
        assert_eq!(Filter::parse("probe=debug").unwrap().of("lamplighter::web"), Info);
    }

    #[test]
    fn the_bad_part_is_named() {
        for (text, part, why) in [
            ("", "", "has no level"),
            ("info,", "", "has no level"),
            ("info,prob=debug", "prob=debug", "names neither a module"),
            ("info,probe=loud", "probe=loud", "has no level"),
            ("info,debug", "debug", "second level"),
            ("probe=info,probe=debug", "probe=debug", "second time"),
            ("info,=debug", "=debug", "names neither"),
            ("info,probe::=debug", "probe::=debug", "names neither"),
            ("info,sqlxx=debug", "sqlxx=debug", "names neither"),
            ("INFO", "INFO", "has no level"),
        ] {
            let error = Filter::parse(text).unwrap_err();
            assert!(error.part == part && error.why.contains(why), "{text}: {error}");
        }
        let many: Vec<String> = (0..=MOST).map(|n| format!("probe::m{n}=info")).collect();
        assert!(Filter::parse(&many.join(",")).unwrap_err().why.contains("one more"));
    }

    #[test]
    fn what_may_be_named_is_there() {
        let root = include_str!("../lib.rs");
        for module in MODULES {
            assert!(root.contains(&format!("pub mod {module};")), "{module}");
        }
        let locked = include_str!("../../Cargo.lock");
        for library in LIBRARIES {
            assert!(locked.contains(&format!("name = \"{library}")), "{library}");
        }
    }
}
