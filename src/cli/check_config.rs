//! `lamplighter check-config [FILE]`: every error of a configuration, or none.

use std::path::Path;

use super::{Environment, Exit, Stop, exit, locate, with_environment};
use crate::settings::file;
use crate::settings::model::Settings;

/// Checks the file, or the one that `run` would take. Findings go to standard error.
pub(super) fn run(path: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let (path, presence) = locate(path, environment);
    let sources = file::read(&path, presence);
    let name = path.display();
    match with_environment(environment, |environment| sources.settings(environment)) {
        Ok(_) if sources.texts.is_empty() => {
            exit::say(&format!("{name}: not there, the built-in defaults are valid\n"));
            Ok(Exit::Ok)
        }
        Ok(settings) => {
            exit::say(&format!("{name}: valid: {}\n", summary(&settings, sources.texts.len())));
            Ok(Exit::Ok)
        }
        Err(refusal) => {
            let count = refusal.count();
            let errors = if count == 1 { "error" } else { "errors" };
            exit::complain_plainly(&format!("{refusal}\n{name}: invalid: {count} {errors}"));
            Ok(Exit::Config)
        }
    }
}

fn summary(settings: &Settings, files: usize) -> String {
    let counted = |number: usize, one: &str| format!("{number} {one}{}", if number == 1 { "" } else { "s" });
    let paused = settings.monitors.iter().filter(|monitor| !monitor.active).count();
    let paused = if paused == 0 { String::new() } else { format!(" ({paused} paused)") };
    format!("{}{paused} in {}", counted(settings.monitors.len(), "monitor"), counted(files, "file"))
}
