//! Runs this program under callgrind and reads what it wrote.
//! Format: <https://valgrind.org/docs/manual/cl-format.html>.

use std::collections::BTreeMap;
use std::process::Command;

/// Output beyond this is not a profile of this program.
const MOST_BYTES: u64 = 64 << 20;

/// Instructions by function, without those of the functions it calls.
pub(crate) type Profile = BTreeMap<String, u64>;

/// Counts a run of so many checks against the server at this port.
pub(crate) fn count(checks: u32, port: u16) -> Result<Profile, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let folder = program.parent().ok_or("this program lies nowhere")?;
    let out = folder.join(format!("callgrind.instructions.{}.{checks}", std::process::id()));
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--quiet", "--compress-strings=no", "--compress-pos=no"]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    command.arg(&program).args(["--work", &checks.to_string(), &port.to_string()]);
    let status = command.status().map_err(|error| format!("valgrind: {error}; install the package valgrind"))?;
    if !status.success() {
        return Err(format!("the counted run of {checks} checks failed: {status}"));
    }
    let text = lamplighter::settings::limited::read(&out, MOST_BYTES);
    // Only for us; what is left of it says nothing.
    let _ = std::fs::remove_file(&out);
    read(&text.map_err(|error| format!("{}: {error}", out.display()))?)
}

fn read(text: &str) -> Result<Profile, String> {
    let (mut profile, mut function, mut called) = (Profile::new(), None, false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = Some(name.to_owned());
        } else if line.starts_with("calls=") {
            // The line after it is what the called function cost, which its own lines say already.
            called = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            if std::mem::take(&mut called) {
                continue;
            }
            let cost = line.split_whitespace().nth(1).and_then(|cost| cost.parse::<u64>().ok());
            let (Some(function), Some(cost)) = (&function, cost) else { continue };
            *profile.entry(function.clone()).or_default() += cost;
        }
    }
    if profile.is_empty() { Err("callgrind counted nothing".to_owned()) } else { Ok(profile) }
}
