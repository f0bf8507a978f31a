//! What `doctor` says: findings, and how they are shown.

use std::fmt::Write as _;

use serde::Serialize;

use super::super::{Exit, counted};
use crate::telemetry::escape;

/// Lines of one finding's details in the table; `--json` has all of them.
const SHOWN_DETAILS: usize = 20;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::cli) enum Level {
    /// Nothing to do.
    Ok,
    /// It works, or is not known to fail; somebody should look.
    Warning,
    /// Something does not work.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(in crate::cli) struct Finding {
    /// Fixed, for scripts.
    pub(super) name: &'static str,
    pub(super) status: Level,
    /// One sentence.
    pub(super) what: String,
    /// One sentence; none where there is nothing to do.
    pub(super) way_out: Option<String>,
    /// Such as every error of a configuration.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) details: Vec<String>,
}

impl Finding {
    pub(super) fn ok(name: &'static str, what: impl Into<String>) -> Self {
        Self { name, status: Level::Ok, what: what.into(), way_out: None, details: Vec::new() }
    }

    pub(super) fn warning(name: &'static str, what: impl Into<String>, way_out: impl Into<String>) -> Self {
        let way_out = Some(way_out.into());
        Self { name, status: Level::Warning, what: what.into(), way_out, details: Vec::new() }
    }

    pub(super) fn problem(name: &'static str, what: impl Into<String>, way_out: impl Into<String>) -> Self {
        Self { status: Level::Problem, ..Self::warning(name, what, way_out) }
    }
}

/// All findings, and what they are about.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Report {
    /// Of this program.
    pub(super) version: &'static str,
    /// When it looked, by this machine's clock.
    pub(super) at: String,
    pub(super) config: String,
    pub(super) state_directory: Option<String>,
    /// No finding is a problem.
    pub(super) healthy: bool,
    pub(super) findings: Vec<Finding>,
}

impl Report {
    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|finding| finding.status == level).count()
    }

    /// 0 also with warnings.
    pub(super) fn exit(&self) -> Exit {
        if self.healthy { Exit::Ok } else { Exit::Failure }
    }

    /// For people. What is quoted may be a server's or a file's, and must not draw.
    pub(super) fn table(&self) -> String {
        let state = self.state_directory.as_deref().unwrap_or("none");
        let mut text = format!(
            "Lamplighter {}, configuration {}, state directory {}\n\n",
            self.version,
            escape(&self.config),
            escape(state)
        );
        let width = self.findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let status = match finding.status {
                Level::Ok => "ok",
                Level::Warning => "WARNING",
                Level::Problem => "PROBLEM",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{status:7}  {:width$}  {}", finding.name, escape(&finding.what));
            let indent = " ".repeat(11 + width);
            for detail in finding.details.iter().take(SHOWN_DETAILS).flat_map(|detail| detail.lines()) {
                let _ = writeln!(text, "{indent}| {}", escape(detail));
            }
            if let Some(more) = finding.details.len().checked_sub(SHOWN_DETAILS).filter(|more| *more > 0) {
                let _ = writeln!(text, "{indent}| and {more} more");
            }
            if let Some(way_out) = &finding.way_out {
                let _ = writeln!(text, "{indent}-> {}", escape(way_out));
            }
        }
        let (problems, warnings) = (self.count(Level::Problem), self.count(Level::Warning));
        let _ = writeln!(text, "\n{}, {}", counted(problems, "problem"), counted(warnings, "warning"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_names_every_way_out_and_draws_nothing_foreign() {
        let mut bad = Finding::problem("config", "it has 2 errors", "correct them");
        bad.details = (0..25).map(|n| format!("a:{n}:1: x\x1b[2J\n  | quoted")).collect();
        let findings = vec![Finding::ok("disk", "3 GiB are free"), Finding::warning("ports", "few", "more"), bad];
        let (version, at, config) = ("1.2.3", String::new(), "c.toml".to_owned());
        let report = Report { version, at, config, state_directory: None, healthy: false, findings };
        let text = report.table();
        assert!(text.contains("PROBLEM  config  it has 2 errors") && text.contains("-> correct them"), "{text}");
        assert!(text.contains("| and 5 more") && text.contains("1 problem, 1 warning"), "{text}");
        assert!(!text.contains('\x1b'), "{text}");
        assert_eq!(report.exit(), Exit::Failure);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!((&json["findings"][0]["status"], &json["findings"][0]["way_out"]), (&"ok".into(), &().into()));
        assert_eq!(json["findings"][2]["details"].as_array().unwrap().len(), 25);
    }
}
