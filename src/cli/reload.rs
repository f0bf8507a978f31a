//! `lamplighter reload`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use super::{Environment, Exit, Stop, exit, small_runtime, state};
use crate::catalog::Reloaded;
use crate::web::client::{self, ClientError};

/// A file at its limits takes seconds to read.
const DEADLINE: Duration = Duration::from_secs(60);

/// Asks the running daemon to reload, waits, prints what changed or why not.
pub(super) fn run(force: bool, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let directory = match super::configured_state_directory(config, environment) {
        Ok(directory) => directory,
        // Nothing is forced upon a daemon that may be another's.
        Err(stop) if stop.exit == Exit::Config && !force => return Err(without_file(stop, config, environment)),
        Err(stop) => return Err(stop),
    };
    let answer = ask(&state::admin_socket(&directory)?, force)?;
    if let Some(error) = answer.error {
        return Err(Stop::new(Exit::Failure, format!("not applied, the configuration before stays:\n{error}")));
    }
    let mut text = format!("applied: {} added, {} changed, {} removed\n", answer.added, answer.changed, answer.removed);
    for part in &answer.needs_restart {
        let _ = writeln!(text, "needs a restart: {part}");
    }
    if let Some(fault) = &answer.rows_later {
        let _ = writeln!(text, "not in the database yet, which follows when it answers: {fault}");
    }
    exit::say(&text);
    Ok(Exit::Ok)
}

fn ask(socket: &Path, force: bool) -> Result<Reloaded, Stop> {
    let path = if force { "/api/v1/reload?force=true" } else { "/api/v1/reload" };
    let body = small_runtime()?.block_on(client::post(socket, path, DEADLINE)).map_err(client_stop)?;
    serde_json::from_slice(&body)
        .map_err(|error| Stop::new(Exit::Failure, format!("the daemon's answer is not understood: {error}")))
}

/// The file is gone, and its daemon, if one is found all the same, says what it does about that. One that applies
/// something has another file: this one is only missing.
fn without_file(lost: Stop, config: Option<&Path>, environment: &Environment) -> Stop {
    let asked = super::remaining_state_directory(config, environment)
        .and_then(|directory| state::admin_socket(&directory))
        .and_then(|socket| Ok((ask(&socket, false)?, socket)));
    match asked {
        Ok((Reloaded { error: Some(error), .. }, socket)) => {
            let says = format!("the daemon at {} did not apply, and keeps its configuration", socket.display());
            Stop::new(Exit::Failure, format!("{}\n{says}:\n{error}", lost.message))
        }
        _ => lost,
    }
}

/// How a failed conversation ends a command.
pub(super) fn client_stop(error: ClientError) -> Stop {
    let exit = match error {
        ClientError::NotRunning { .. } => Exit::NotRunning,
        ClientError::Forbidden { .. } | ClientError::Failed(_) => Exit::Failure,
    };
    Stop::new(exit, error.to_string())
}
