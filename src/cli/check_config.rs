//! `lamplighter check-config [FILE]`: every error of a configuration, or none.

use std::path::Path;

use crate::settings::file;
use crate::settings::model::{Environment, Settings};

/// What to print, and the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The findings and a last line that counts them; no line end.
    pub text: String,
    /// 0 valid, 78 invalid, 64 for `--plan`.
    pub exit: u8,
}

/// `EX_CONFIG` of sysexits(3).
const INVALID: u8 = 78;
/// `EX_USAGE` of sysexits(3).
const USAGE: u8 = 64;

/// Checks the file, or the one that `run` would take. Blocks on the disk.
#[must_use]
pub fn run(path: Option<&Path>, plan: bool, environment: Environment<'_>) -> Outcome {
    if plan {
        let text = "check-config --plan: not built yet in this version, run it without --plan".to_owned();
        return Outcome { text, exit: USAGE };
    }
    let (path, presence) = file::locate(path, environment);
    let sources = file::read(&path, presence);
    let name = path.display();
    match sources.settings(environment) {
        Ok(_) if sources.texts.is_empty() => {
            Outcome { text: format!("{name}: not there, the built-in defaults are valid"), exit: 0 }
        }
        Ok(settings) => {
            Outcome { text: format!("{name}: valid: {}", summary(&settings, sources.texts.len())), exit: 0 }
        }
        Err(refusal) => {
            let count = refusal.count();
            let errors = if count == 1 { "error" } else { "errors" };
            Outcome { text: format!("{refusal}\n{name}: invalid: {count} {errors}"), exit: INVALID }
        }
    }
}

fn summary(settings: &Settings, files: usize) -> String {
    let counted = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let paused = settings.monitors.iter().filter(|monitor| !monitor.active).count();
    let paused = if paused == 0 { String::new() } else { format!(" ({paused} paused)") };
    format!("{}{paused} in {}", counted(settings.monitors.len(), "monitor"), counted(files, "file"))
}
