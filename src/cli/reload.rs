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
    let socket = state::admin_socket(&super::configured_state_directory(config, environment)?)?;
    let path = if force { "/api/v1/reload?force=true" } else { "/api/v1/reload" };
    let body = small_runtime()?.block_on(client::post(&socket, path, DEADLINE)).map_err(client_stop)?;
    let answer: Reloaded = serde_json::from_slice(&body)
        .map_err(|error| Stop::new(Exit::Failure, format!("the daemon's answer is not understood: {error}")))?;
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

/// How a failed conversation ends a command.
pub(super) fn client_stop(error: ClientError) -> Stop {
    let exit = match error {
        ClientError::NotRunning { .. } => Exit::NotRunning,
        ClientError::Forbidden { .. } | ClientError::Failed(_) => Exit::Failure,
    };
    Stop::new(exit, error.to_string())
}
