//! `lamplighter support-bundle`: what who helps must know, in one file, without secrets.
//!
//! What may hold some is made anew from what is known to be harmless (the configuration, settings of the database); what is text (log,
//! status, metrics) is cleared of every secret that the configuration names, and of what looks like one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::doctor::{self, Seen};
use super::output::{Output, failed};
use super::{Environment, Exit, Stop, exit, small_runtime};
use crate::model::Secret;
use crate::settings::limited;
use crate::web::client;

mod scrub;
pub(super) mod shown;

use scrub::Scrubber;

/// For one question to the daemon.
const DAEMON: Duration = Duration::from_secs(20);
/// For the journal of the system.
const JOURNAL: Duration = Duration::from_secs(20);
const JOURNAL_LINES: &str = "10000";
/// Bytes of one part; what is larger is left out, or cut where it is a log.
const PART_MOST: u64 = 16 << 20;
const LOG_MOST: u64 = 4 << 20;
/// More cannot be looked for in every line of a log in reasonable time.
const SECRETS_MOST: usize = 2000;
/// Words of ours that stand where secrets may, such as `proxy = "none"`.
const WORDS: &[&str] = &["none", "lamplighter", "postgres"];
/// The unit of the packages.
const UNIT: &str = "lamplighter.service";
/// For threads that hang in the kernel.
const LEAVE: Duration = Duration::from_millis(100);

/// Arguments of `support-bundle`.
#[derive(Debug, clap::Args)]
pub(super) struct SupportArgs {
    /// The file [default: lamplighter-support-TIME.tar.gz in the current folder]
    file: Option<PathBuf>,
}

pub(super) fn run(arguments: &SupportArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let runtime = small_runtime()?;
    let parts = runtime.block_on(async {
        let seen = doctor::look(config, environment).await;
        let parts = gather(&seen, environment).await?;
        Ok::<_, Stop>((parts, seen.at))
    });
    runtime.shutdown_timeout(LEAVE);
    let (parts, at) = parts?;
    let folder = format!("lamplighter-support-{}", at.format("%Y%m%dT%H%M%SZ"));
    let file = arguments.file.clone().unwrap_or_else(|| PathBuf::from(format!("{folder}.tar.gz")));
    let mut output = Output::begin(&file, 0o600)?;
    let time = u64::try_from(at.timestamp()).unwrap_or(0);
    write_archive(output.file(), &folder, time, &parts).map_err(|error| failed(&file, &error))?;
    output.finish()?;
    exit::say(&format!("{}\n", file.display()));
    exit::complain_plainly("Secrets were taken out. Host names and addresses are in it: look before you give it away.");
    Ok(Exit::Ok)
}

/// A file of the bundle.
struct Part {
    name: String,
    text: String,
}

async fn gather(seen: &Seen, environment: &Environment) -> Result<Vec<Part>, Stop> {
    let socket = seen.socket.as_deref();
    let status = ask(socket, "/api/v1/overview").await;
    let mut secrets = secrets(seen, status.as_deref().ok());
    secrets.sort_unstable_by(|a, b| a.expose().cmp(b.expose()));
    secrets.dedup();
    let scrubber = Scrubber::new(&secrets)?;
    let few = secrets.len() <= SECRETS_MOST;
    let mut parts = vec![Part { name: "README.txt".to_owned(), text: README.to_owned() }];
    let report = serde_json::to_value(&seen.report).unwrap_or_default();
    parts.push(part("doctor.json", report, &scrubber));
    parts.push(part("versions.json", versions(seen), &scrubber));
    parts.push(part("database.json", database(seen), &scrubber));
    for (index, (name, config, broken)) in seen.shown.sources.iter().enumerate() {
        // What it was made of is known to be harmless; the names are not cleared of words that are secrets elsewhere.
        let whole = json!({ "file": name, "parses": !broken, "configuration": config });
        parts.push(Part { name: format!("config/{index:03}.json"), text: pretty(&whole) });
    }
    let many = || Err(format!("left out: more than {SECRETS_MOST} secrets are configured, too many to look for in it"));
    let readiness = ask(socket, "/readyz").await;
    for (name, answer) in [("status.json", status), ("readyz.json", readiness)] {
        let answer = if few { answer } else { many() };
        parts.push(match answer.map(|text| serde_json::from_str::<Value>(&text)) {
            Ok(Ok(value)) => part(name, value, &scrubber),
            Ok(Err(error)) => part(name, json!({ "error": format!("not JSON: {error}") }), &scrubber),
            Err(why) => part(name, json!({ "error": why }), &scrubber),
        });
    }
    let log = if seen.shown.parses() {
        log(seen.daemon, environment).await
    } else {
        Err("left out: the configuration does not parse, so not all of its secrets are known; correct it first"
            .to_owned())
    };
    for (name, text) in [("metrics.txt", ask(socket, "/metrics").await), ("log.txt", log)] {
        let text = if few { text } else { many() };
        let text = scrubber.text(&text.unwrap_or_else(|why| format!("{why}\n")));
        parts.push(Part { name: name.to_owned(), text });
    }
    Ok(parts)
}

fn part(name: &str, mut value: Value, scrubber: &Scrubber) -> Part {
    scrubber.json(&mut value);
    Part { name: name.to_owned(), text: pretty(&value) }
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// Every secret that this installation is known to have.
fn secrets(seen: &Seen, status: Option<&str>) -> Vec<Secret> {
    let mut secrets = seen.shown.secrets.clone();
    secrets.extend(seen.referred.iter().cloned());
    secrets.extend(seen.settings.monitors.iter().flat_map(|monitor| monitor.secrets.iter().cloned()));
    if let Some((user, password)) = seen.settings.probe.proxy.as_ref().and_then(|proxy| proxy.credentials.clone()) {
        secrets.push(password);
        secrets.extend(scrub::is_random(user.expose()).then_some(user));
    }
    if let Some(url) = &seen.settings.database.url {
        secrets.extend(scrub::address(url.expose()).1);
    }
    // A heartbeat's id is the address of its pings.
    let rows = status.and_then(|status| serde_json::from_str::<Value>(status).ok());
    let rows = rows.as_ref().and_then(|overview| overview["monitors"].as_array());
    for row in rows.into_iter().flatten() {
        secrets.extend(row["url"].as_str().map(scrub::address).into_iter().flat_map(|(_, taken)| taken));
        if row["kind"] == "heartbeat" {
            secrets.extend(row["monitor_id"].as_str().map(Secret::new));
        }
    }
    secrets.retain(|secret| !WORDS.contains(&secret.expose()));
    secrets
}

async fn ask(socket: Option<&Path>, path: &str) -> Result<String, String> {
    let socket = socket.ok_or("there is no state directory")?;
    let body = client::get(socket, path, DAEMON).await.map_err(|error| error.to_string())?;
    if body.len() as u64 > PART_MOST {
        return Err(format!("left out: it has {} bytes", body.len()));
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

fn versions(seen: &Seen) -> Value {
    let kernel = rustix::system::uname();
    let os = limited::read(Path::new("/etc/os-release"), 1 << 16).unwrap_or_default();
    let os = os.lines().find_map(|line| line.strip_prefix("PRETTY_NAME=")).map(|name| name.trim_matches('"'));
    json!({
        "lamplighter": env!("CARGO_PKG_VERSION"),
        "architecture": std::env::consts::ARCH,
        "kernel": format!("{} {}", kernel.sysname().to_string_lossy(), kernel.release().to_string_lossy()),
        "os": os,
        "postgres_server": seen.database.as_ref().and_then(|database| Some(&database.as_ref().ok()?.version)),
        "postgres_installed": seen.binaries.iter().map(|(major, dir)| json!({ "major": major, "folder": dir })).collect::<Vec<_>>(),
    })
}

fn database(seen: &Seen) -> Value {
    let examined = match &seen.database {
        None => return json!({ "error": "the embedded database does not run" }),
        Some(Err(error)) => return json!({ "error": error.to_string() }),
        Some(Ok(examined)) => examined,
    };
    let settings = examined.settings.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str())));
    let tables = examined.ours.iter().flat_map(|ours| &ours.tables);
    json!({
        "version": examined.version,
        "schema": examined.found.to_string(),
        "connections": { "most": examined.room.most, "reserved": examined.room.reserved, "used": examined.room.used },
        "monitors_of_the_database": examined.ours.as_ref().map(|ours| ours.rows),
        "settings": settings.collect::<serde_json::Map<_, _>>(),
        "tables": tables.map(|(name, bytes, rows)| json!({ "table": name, "bytes": bytes, "rows_about": rows })).collect::<Vec<_>>(),
    })
}

/// The last lines of the service in the system's journal, where there is one and we may read it.
async fn log(daemon: Option<u32>, environment: &Environment) -> Result<String, String> {
    let mut command = tokio::process::Command::new("journalctl");
    // Nothing of our environment, which may hold secrets, but where programs are.
    command.env_clear().env("PATH", environment.get("PATH").unwrap_or("/usr/bin:/bin"));
    command.args(["--no-pager", "--quiet", "--output=short-iso", "--lines", JOURNAL_LINES]);
    command.arg(format!("_SYSTEMD_UNIT={UNIT}"));
    if let Some(pid) = daemon {
        command.args(["+", &format!("_PID={pid}")]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let asked = async {
        let mut child = command.spawn().map_err(|error| format!("journalctl: {error}"))?;
        let mut bytes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            let read = stdout.take(LOG_MOST).read_to_end(&mut bytes).await;
            read.map_err(|error| format!("journalctl: {error}"))?;
        }
        if bytes.is_empty() {
            return Err(format!("the journal has nothing of {UNIT} that this user may read"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let limit = JOURNAL.as_secs();
    tokio::time::timeout(JOURNAL, asked)
        .await
        .unwrap_or_else(|_| Err(format!("journalctl: no answer within {limit} s")))
}

fn write_archive(file: impl Write, folder: &str, time: u64, parts: &[Part]) -> io::Result<()> {
    let mut archive = tar::Builder::new(GzEncoder::new(file, Compression::default()));
    for part in parts {
        let mut header = tar::Header::new_gnu();
        header.set_size(part.text.len() as u64);
        header.set_mode(0o600);
        header.set_mtime(time);
        archive.append_data(&mut header, format!("{folder}/{}", part.name), part.text.as_bytes())?;
    }
    archive.into_inner()?.finish()?.flush()
}

const README: &str = "\
A support bundle of Lamplighter, made by `lamplighter support-bundle`.

doctor.json     what `lamplighter doctor --json` found
versions.json   of this program, PostgreSQL, the kernel and the system
config/         the sources of the configuration as JSON: keys, and values that hold no secret
database.json   settings of the server, and the sizes of our tables
status.json     what the daemon says of its monitors
readyz.json     whether it is ready, and why not
metrics.txt     /metrics
log.txt         the last lines of the service in the system's journal

<redacted> and [secret] stand where something was taken away: passwords, tokens, keys, headers, bodies, user names and
queries of addresses, arguments of commands. Host names, addresses, paths and names of monitors are still there.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_read_back() {
        let parts = [Part { name: "a/b.txt".to_owned(), text: "hello".to_owned() }];
        let mut bytes = Vec::new();
        write_archive(&mut bytes, "folder", 5, &parts).unwrap();
        let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(&bytes[..]));
        let mut entries = archive.entries().unwrap();
        let mut entry = entries.next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap(), Path::new("folder/a/b.txt"));
        assert_eq!((entry.header().mode().unwrap(), entry.header().mtime().unwrap()), (0o600, 5));
        let mut text = String::new();
        io::Read::read_to_string(&mut entry, &mut text).unwrap();
        assert!(text == "hello" && entries.next().is_none());
    }
}
