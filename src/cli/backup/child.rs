//! A program of PostgreSQL at work: what it does and why it failed, from what it says on standard error.

use std::collections::VecDeque;
use std::process::Command;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::cli::{Exit, Stop};

/// Bytes of a line; what is longer is two lines.
const LINE_MOST: u64 = 16 * 1024;
/// Lines of a failure that are kept.
const KEPT: usize = 6;

/// Runs it to its end. `seen` hears every line. Dropped, it ends the program.
pub(super) async fn run(command: Command, name: &str, mut seen: impl FnMut(&str)) -> Result<(), Stop> {
    let mut command = tokio::process::Command::from(command);
    let fail = |text: String| Stop::new(Exit::Failure, format!("{name}: {text}"));
    let mut child = command.kill_on_drop(true).spawn().map_err(|error| fail(error.to_string()))?;
    let mut failure = VecDeque::new();
    if let Some(stderr) = child.stderr.take() {
        let mut stderr = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            line.clear();
            let read = (&mut stderr).take(LINE_MOST).read_until(b'\n', &mut line).await;
            if read.map_err(|error| fail(error.to_string()))? == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            seen(text);
            // The server's own words have none of them in front, and come behind one that has.
            let tells = ["error: ", "detail: ", "hint: ", "warning: "].iter().any(|word| text.contains(word));
            if tells || (!failure.is_empty() && !text.starts_with(name)) {
                failure
                    .push_back(text.strip_prefix(name).map_or(text, |rest| rest.trim_start_matches(": ")).to_owned());
                // What went wrong first is what it is about.
                failure.truncate(KEPT);
            }
        }
    }
    let status = child.wait().await.map_err(|error| fail(error.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let why = failure.iter().map(String::as_str).collect::<Vec<_>>().join("; ");
    Err(fail(if why.is_empty() { status.to_string() } else { why }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]).stderr(Stdio::piped());
        command
    }

    #[tokio::test]
    async fn a_failure_is_told_in_its_own_words() {
        let mut lines = Vec::new();
        let script = "echo 'pg_x: dumping contents of table \"a.b\"' >&2; echo 'pg_x: error: no space' >&2; echo 'LINE 1: x' >&2; exit 1";
        let stop = run(shell(script), "pg_x", |line| lines.push(line.to_owned())).await.unwrap_err();
        assert_eq!(stop.message, "pg_x: error: no space; LINE 1: x");
        assert_eq!(lines.len(), 3);
        assert!(run(shell("kill -9 $$"), "pg_x", |_| {}).await.unwrap_err().message.contains("signal: 9"));
        assert!(run(shell("echo 'pg_x: warning: x' >&2"), "pg_x", |_| {}).await.is_ok());
    }

    #[tokio::test]
    async fn long_lines_are_cut() {
        let mut most = 0;
        let script = "head -c 100000 /dev/zero | tr '\\0' x >&2";
        run(shell(script), "pg_x", |line| most = most.max(line.len())).await.unwrap();
        assert_eq!(most as u64, LINE_MOST);
    }
}
