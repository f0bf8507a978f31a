//! What a check costs the real program: its peak memory.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::daemon::Home;
use super::every::table;

/// More than any server may cost, beyond a plain check.
pub const MOST_KIB: u64 = 1024;

/// Runs a program and prints its peak memory, KiB, as the kernel counted it.
const MEASURE: &str = "import resource, subprocess, sys\n\
    done = subprocess.run(sys.argv[1:], stdout=subprocess.PIPE, check=False)\n\
    print(done.stdout.decode().strip())\n\
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";

/// One check in a process of its own: the check, and its peak memory in KiB.
pub async fn of(monitor: &Value, timeout: Duration) -> (Value, u64) {
    let timeout_key = format!("timeout = \"{}s\"\n", timeout.as_secs());
    of_file(&(table("m", monitor) + &timeout_key), timeout).await
}

/// The same of a whole file with one monitor.
pub async fn of_file(config: &str, timeout: Duration) -> (Value, u64) {
    let home = Home::new(&format!("probe.max_body = \"64KiB\"\n{config}"));
    let probe = home.command(&["probe", "--all", "--json"]);
    let mut command = Command::new("python3");
    command.args(["-c", MEASURE]).arg(probe.get_program()).args(probe.get_args());
    for (name, value) in probe.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let begin = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert!(begin.elapsed() < timeout + Duration::from_secs(20), "{config}: {:?}", begin.elapsed());
    let out = String::from_utf8(output.stdout).unwrap();
    let mut lines = out.lines();
    let check: Value = serde_json::from_str(lines.next().unwrap()).unwrap();
    let total = Duration::from_micros(check["timings_us"]["total"].as_u64().unwrap());
    assert!(total < timeout + Duration::from_secs(1), "it did not end at its deadline: {check}");
    (check, lines.next().unwrap().parse().unwrap())
}
