//! Instructions a check, by layer: measured, stored, compared.

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;
use std::process::Command;

use super::callgrind::Profile;

/// A function belongs to the first of these names that stands in its own; a generic one thus to whose code it is.
const LAYERS: &[(&str, &[&str])] = &[
    ("probe: http kind", &["lamplighter::probe::kinds"]),
    ("probe: network", &["lamplighter::probe::net", "socket2::", "rustix::"]),
    ("probe: pool", &["lamplighter::probe"]),
    ("verdict", &["lamplighter::verdict"]),
    ("records", &["lamplighter::store", "lamplighter::journal", "lamplighter::model"]),
    ("rest of lamplighter", &["lamplighter::", "instructions::"]),
    ("hyper", &["hyper::", "hyper_util::", "httparse::", "http::", "http_body", "bytes::"]),
    ("tokio", &["tokio::", "mio::", "futures_"]),
    ("memory", &["malloc", "free", "calloc", "realloc", "memcpy", "memmove", "memset", "memcmp", "__rust_", "_int_"]),
];
const OTHER: &str = "other libraries";

fn layer(function: &str) -> &'static str {
    let place = |names: &[&str]| names.iter().filter_map(|name| function.find(name)).min();
    let found = LAYERS.iter().filter_map(|(layer, names)| place(names).map(|at| (at, *layer)));
    // Of two at one place the first in the table, which is the narrower.
    found.min_by_key(|(at, _)| *at).map_or(OTHER, |(_, layer)| layer)
}

/// Instructions a check.
pub(crate) struct Counts {
    compiler: String,
    layers: BTreeMap<String, u64>,
}

impl Counts {
    /// What the longer run has more than the shorter, over the checks that it has more.
    pub(crate) fn of(short: &Profile, long: &Profile, checks: u32) -> Self {
        let mut sums: BTreeMap<String, i64> = BTreeMap::new();
        for (profile, sign) in [(long, 1), (short, -1)] {
            for (function, cost) in profile {
                let cost = i64::try_from(*cost).unwrap_or(i64::MAX);
                *sums.entry(layer(function).to_owned()).or_default() += sign * cost;
            }
        }
        // What start-up did differently by chance is not below nothing.
        let a_check = |sum: i64| u64::try_from(sum / i64::from(checks)).unwrap_or(0);
        let layers = sums.into_iter().map(|(layer, sum)| (layer, a_check(sum))).collect();
        Self { compiler: compiler(), layers }
    }

    /// Reads the text of [`fmt::Display`].
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        let (mut compiler, mut layers) = (String::new(), BTreeMap::new());
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (key, value) = line.split_once(" = ").ok_or_else(|| format!("not `key = value`: {line}"))?;
            if key == "compiler" {
                compiler = value.to_owned();
            } else {
                layers.insert(key.to_owned(), value.parse().map_err(|error| format!("{line}: {error}"))?);
            }
        }
        if layers.is_empty() { Err("no counts".to_owned()) } else { Ok(Self { compiler, layers }) }
    }

    pub(crate) fn total(&self) -> u64 {
        self.layers.values().sum()
    }

    pub(crate) fn compiler(&self) -> &str {
        &self.compiler
    }

    /// A table of both, with shares.
    pub(crate) fn beside(&self, before: &Self) -> String {
        let mut text = format!("{:<20} {:>12} {:>7} {:>12}\n", "layer", "instructions", "share", "baseline");
        let mut row = |name: &str, now: u64, then: u64| {
            let share = now as f64 * 100.0 / self.total() as f64;
            // Writing to a string does not fail.
            let _ = writeln!(text, "{name:<20} {now:>12} {share:>5.1} % {then:>12}");
        };
        for (name, now) in &self.layers {
            row(name, *now, before.layers.get(name).copied().unwrap_or(0));
        }
        row("a check", self.total(), before.total());
        text
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "# Instructions a check. Written by benches/check-instructions --update; docs/benchmarks.md explains."
        )?;
        writeln!(f, "compiler = {}", self.compiler)?;
        self.layers.iter().try_for_each(|(layer, count)| writeln!(f, "{layer} = {count}"))
    }
}

/// The version alone: another compiler is the usual innocent reason for another count.
fn compiler() -> String {
    let rustc = option_env!("RUSTC").unwrap_or("rustc");
    let output = Command::new(rustc).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|_| "an unknown compiler".to_owned())
}
