//! Network namespaces: hosts of our own, whose routes, resolvers and permissions a test may take away.

use std::process::{Command, Output};

/// Runs a shell script as root of a network and mount namespace that ends with it. `$PROBE` is the program. None, and a
/// line on the terminal, for who is not root: such a test has proved nothing.
pub fn in_namespace(test: &str, script: &str) -> Option<Output> {
    if !rustix::process::geteuid().is_root() {
        use std::io::Write as _;
        // Not by eprintln: the harness would swallow it.
        let _ = writeln!(std::io::stderr(), "NOT RUN: {test} needs root for its network namespace");
        return None;
    }
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--", "sh", "-euc", script])
        .env("PROBE", env!("CARGO_BIN_EXE_lamplighter"))
        .output()
        .expect("unshare (util-linux) is there");
    Some(output)
}

/// What `probe --json` printed in a namespace, a line each, in order.
pub fn checks(test: &str, script: &str) -> Option<Vec<serde_json::Value>> {
    let output = in_namespace(test, script)?;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let checks: Vec<serde_json::Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    assert!(output.status.success() && !checks.is_empty(), "{test}: {out}\n{err}");
    Some(checks)
}
