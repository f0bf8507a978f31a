//! `lamplighter doctor`: what is wrong with this installation, and what to do about it.
//!
//! Looking ([`host`], [`sockets`], [`crate::store::Store::examine`]) is one thing and judging ([`judge`], [`judge_database`]) another. Every
//! look has a deadline, and none changes anything.

use std::future::Future;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::support::shown::{self, Shown};
use super::{Environment, Exit, Stop, exit, locate, migrate, small_runtime, state, with_environment};
use crate::clock::{SystemWall, Wall as _};
use crate::model::{Secret, Timings};
use crate::probe::net::dns::Question;
use crate::probe::net::{EgressOptions, Net, NetOptions};
use crate::settings::file::{self, Sources};
use crate::settings::limited;
use crate::settings::model::{Refusal, Settings};
use crate::store::Examined;
use crate::store::StartError;
use crate::store::cluster::{Binaries, ClusterOptions};
use crate::web::client::{self, ClientError};

mod finding;
mod host;
mod judge;
mod judge_database;
mod sockets;

pub(super) use finding::Report;

use finding::Finding;
use host::{Place, State, Subject};
use judge::{Daemon, Needs, Resolved};
use judge_database::Which;

/// For what blocks on a file system or a directory of users, which may hang.
const LOOK: Duration = Duration::from_secs(5);
/// For one question to the daemon.
const DAEMON: Duration = Duration::from_secs(5);
/// For the resolver: resolv.conf allows it five seconds a server.
const RESOLVER: Duration = Duration::from_secs(6);
/// For threads that hang in the kernel: they end with the process.
const LEAVE: Duration = Duration::from_millis(100);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct DoctorArgs {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// All that was seen, for `support-bundle` as well.
pub(super) struct Seen {
    pub(super) report: Report,
    pub(super) settings: Settings,
    pub(super) shown: Shown,
    /// What its references stand for.
    pub(super) referred: Vec<Secret>,
    /// None: there is no state directory.
    pub(super) socket: Option<PathBuf>,
    pub(super) daemon: Option<u32>,
    pub(super) database: Option<Result<Examined, StartError>>,
    pub(super) binaries: Vec<(u32, String)>,
    pub(super) at: DateTime<Utc>,
}

pub(super) fn run(arguments: &DoctorArgs, config: Option<&Path>, environment: &Environment) -> Result<Exit, Stop> {
    let runtime = small_runtime()?;
    let seen = runtime.block_on(look(config, environment));
    runtime.shutdown_timeout(LEAVE);
    let report = seen.report;
    let text = if arguments.json {
        let json = serde_json::to_string_pretty(&report);
        json.map_err(|error| Stop::new(Exit::Failure, error.to_string()))? + "\n"
    } else {
        report.table()
    };
    exit::say(&text);
    Ok(report.exit())
}

/// The configuration, as good as it is.
struct Configured {
    path: PathBuf,
    found: bool,
    settings: Settings,
    refusal: Option<Refusal>,
    /// What is there of the sources.
    files: Vec<Place>,
    shown: Shown,
    referred: Vec<Secret>,
}

fn configured(config: Option<&Path>, environment: &Environment) -> Configured {
    let (path, presence) = locate(config, environment);
    let sources: Sources = file::read(&path, presence);
    let read = with_environment(environment, |environment| sources.settings(environment));
    let (settings, refusal) = match read {
        Ok(settings) => (settings, None),
        Err(refusal) => {
            (with_environment(environment, |environment| sources.settings_leniently(environment)), Some(refusal))
        }
    };
    let files = sources.texts.iter().filter_map(|text| Place::look(Path::new(&text.name))).collect();
    let shown = shown::show(&sources.texts);
    let referred = with_environment(environment, |environment| shown.referred(&sources.base, environment));
    Configured { path, found: sources.found, settings, refusal, files, shown, referred }
}

/// Looks at everything and judges it.
pub(super) async fn look(config: Option<&Path>, environment: &Environment) -> Seen {
    let at = SystemWall.now();
    let configured = configured(config, environment);
    let settings = &configured.settings;
    let directory = state::directory(settings.daemon.state_directory.as_deref(), environment);
    let socket = directory.as_ref().ok().and_then(|directory| state::admin_socket(directory).ok());
    let (daemon, pid) = match &socket {
        Some(socket) => ask_daemon(socket).await,
        None => (Daemon::NotRunning, None),
    };
    let state = match &directory {
        Ok(directory) => look_at(directory.clone(), |directory| State::look(&directory)).await,
        Err(_) => None,
    };
    let subject = Subject::look(pid).map(|subject| of_service(subject, state.as_ref()));
    let which = match &settings.database.url {
        Some(_) => Which::Url,
        None => Which::Embedded { running: pid.is_some() },
    };
    let (resolved, database, port, binaries, system) = tokio::join!(
        resolve(settings),
        examine(&which, settings, environment),
        within("listening", LOOK, sockets::look(&settings.server.listen, pid)),
        find_binaries(&which, directory.as_ref().ok().cloned(), environment),
        look_at((), |()| certificates()),
    );
    let needs = needs(settings, database.as_ref().and_then(|database| database.as_ref().ok()));
    let mut findings =
        vec![judge::config(&configured.path, configured.found, settings.monitors.len(), configured.refusal.as_ref())];
    findings.extend(judge::config_permissions(&configured.files, configured.shown.written_out(), subject.as_ref()));
    findings.extend(of_state(&directory, state.as_ref(), subject.as_ref(), settings));
    findings.push(judge::daemon(&daemon));
    findings.push(match port {
        Ok(port) => {
            let low = host::sysctl("net/ipv4/ip_unprivileged_port_start").map(|[low]| low);
            judge::listen(&settings.server.listen, &port, subject.as_ref(), low)
        }
        Err(what) => hangs("listen", &what),
    });
    findings.push(judge::resolver(&needs, &resolved, !settings.probe.resolvers.is_empty()));
    findings.push(match system {
        Some((system, errors)) => judge::certificates(system, settings.probe.ca_files.len(), &errors),
        None => hangs("certificates", "the certificate store"),
    });
    findings.push(judge::clock(at));
    findings.push(judge::icmp(&needs, host::sysctl("net/ipv4/ping_group_range"), subject.as_ref()));
    findings.push(judge::descriptors(&needs, subject.as_ref()));
    findings.push(judge::ports(&needs, host::sysctl("net/ipv4/ip_local_port_range")));
    let holder = directory.as_ref().ok().and_then(|directory| limited::read(&directory.join("holder"), 100).ok());
    findings.extend(of_database(
        &which,
        settings,
        database.as_ref(),
        binaries.as_ref(),
        holder.as_deref(),
        pid.is_some(),
        at,
    ));
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        at: at.to_rfc3339_opts(SecondsFormat::Secs, true),
        config: configured.path.display().to_string(),
        state_directory: directory.ok().map(|directory| directory.display().to_string()),
        healthy: !findings.iter().any(|finding| finding.status == finding::Level::Problem),
        findings,
    };
    let Configured { settings, shown, referred, .. } = configured;
    let binaries = binaries.map(|installed| installed.found).unwrap_or_default();
    Seen { report, settings, shown, referred, socket, daemon: pid, database, binaries, at }
}

fn of_state(
    directory: &Result<PathBuf, Stop>,
    state: Option<&State>,
    subject: Option<&Subject>,
    settings: &Settings,
) -> Vec<Finding> {
    match (directory, state) {
        (Err(stop), _) => {
            vec![Finding::problem("state_directory", stop.message.clone(), "set daemon.state_directory")]
        }
        (Ok(directory), None) => vec![hangs("state_directory", &directory.display().to_string())],
        (Ok(_), Some(state)) => {
            vec![judge::state(state, subject), judge::disk(state.disk, settings.database.backlog as u64)]
        }
    }
}

/// What the embedded database may be run by.
struct Installed {
    /// Major versions and folders.
    found: Vec<(u32, String)>,
    /// The major version of its data; none when there are none.
    data: Option<u32>,
}

fn of_database(
    which: &Which,
    settings: &Settings,
    database: Option<&Result<Examined, StartError>>,
    binaries: Option<&Installed>,
    holder: Option<&str>,
    runs: bool,
    at: DateTime<Utc>,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    if *which != Which::Url {
        findings.push(match binaries {
            Some(Installed { found, data }) => judge_database::binaries(found, *data),
            None => hangs("postgres_binaries", "looking for PostgreSQL"),
        });
    }
    findings.extend(judge_database::reached(which, database));
    let Some(Ok(seen)) = database else { return findings };
    findings.push(judge_database::settings(&seen.room, &seen.settings));
    findings.push(judge_database::connections(&seen.room, settings.database.max_connections, runs));
    findings.push(judge_database::clock(seen.clock_ahead, seen.clock_slack));
    findings.push(judge_database::schema(&seen.found, settings.database.auto_migrate));
    if let Some(ours) = &seen.ours {
        // The database's day, whatever ours is.
        let today = (at + seen.clock_ahead).date_naive();
        findings.push(judge_database::partitions(&ours.missing_days, today));
        findings.push(judge_database::lease(ours.lease.as_ref(), holder.map(str::trim), runs));
    }
    findings
}

fn hangs(name: &'static str, what: &str) -> Finding {
    let seconds = LOOK.as_secs();
    Finding::problem(
        name,
        format!("{what}: no answer within {seconds} s"),
        "see whether a file system or a disk hangs (dmesg)",
    )
}

async fn within<T>(what: &str, limit: Duration, work: impl Future<Output = T>) -> Result<T, String> {
    timeout(limit, work).await.map_err(|_| what.to_owned())
}

/// Does what may hang in the kernel on a thread; none when it does.
async fn look_at<A: Send + 'static, T: Send + 'static>(
    with: A,
    work: impl FnOnce(A) -> T + Send + 'static,
) -> Option<T> {
    timeout(LOOK, tokio::task::spawn_blocking(move || work(with))).await.ok()?.ok()
}

/// Root asks, and a user runs the service: the state directory is that user's.
fn of_service(subject: Subject, state: Option<&State>) -> Subject {
    match state.map(|state| &state.found) {
        Some(host::Found::Folder(place, _)) if subject.pid.is_none() && subject.uid == 0 && place.uid != 0 => {
            subject.owned_by(place.uid, place.gid)
        }
        _ => subject,
    }
}

async fn ask_daemon(socket: &Path) -> (Daemon, Option<u32>) {
    let peer = timeout(DAEMON, UnixStream::connect(socket)).await.ok().and_then(Result::ok);
    let pid = peer.and_then(|stream| stream.peer_cred().ok()?.pid()?.try_into().ok());
    let daemon = match client::get(socket, "/readyz", DAEMON).await {
        Ok(body) => match serde_json::from_slice(&body) {
            Ok(readiness) => Daemon::Answers(readiness),
            Err(error) => Daemon::Silent(format!("the daemon's answer is not understood: {error}")),
        },
        Err(ClientError::NotRunning { .. }) => Daemon::NotRunning,
        Err(error) => Daemon::Silent(error.to_string()),
    };
    (daemon, pid)
}

fn needs(settings: &Settings, database: Option<&Examined>) -> Needs {
    let active = || settings.monitors.iter().filter(|monitor| monitor.active);
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let ours = database.and_then(|database| database.ours.as_ref());
    let rows = ours.and_then(|ours| u64::try_from(ours.rows).ok()).unwrap_or(0);
    let pinging = ours.and_then(|ours| u64::try_from(ours.icmp).ok()).unwrap_or(0);
    let max_in_flight = count(settings.probe.max_in_flight);
    Needs {
        checks: (count(active().count()) + rows).min(max_in_flight),
        max_in_flight,
        // The file's stand in the database as well, once it was merged.
        icmp: pinging.max(count(active().filter(|monitor| monitor.kind == "icmp").count())),
        names: count(active().filter(|monitor| needs_resolver(monitor.kind, &monitor.url)).count()) + rows,
    }
}

/// Whether the target of a monitor is a name.
fn needs_resolver(kind: &str, url: &str) -> bool {
    match kind {
        "dns" | "domain" => return true,
        "exec" | "group" | "heartbeat" => return false,
        _ => {}
    }
    let host = match url::Url::parse(url) {
        Ok(url) => url.host_str().unwrap_or_else(|| url.path()).to_owned(),
        // With a reference in it, it may be anything.
        Err(_) => return true,
    };
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare.parse::<IpAddr>().is_err() && bare != "localhost" && !bare.ends_with(".localhost")
}

/// Asks for what any resolver knows, and nobody's name.
async fn resolve(settings: &Settings) -> Resolved {
    let options = NetOptions {
        resolvers: settings.probe.resolvers.clone(),
        // The certificates have a finding of their own.
        ca_files: Vec::new(),
        egress: EgressOptions::default(),
        user_agent: settings.probe.user_agent.clone(),
        max_body: settings.probe.max_body,
    };
    let Some(Ok(net)) = look_at(options, Net::new).await else {
        return Resolved::Failed("the resolver's configuration cannot be read".to_owned());
    };
    let question = Question { name: Name::root(), record: RecordType::NS, authentic: false };
    let began = Instant::now();
    match net.ask_resolvers(&question, began + RESOLVER, &mut Timings::default()).await {
        Ok((who, answer)) => match answer.metadata.response_code {
            ResponseCode::NoError => Resolved::Answered(who.to_string(), began.elapsed().as_millis()),
            code => Resolved::Declined(who.to_string(), code.to_string()),
        },
        Err(fault) => Resolved::Failed(fault.message.to_string()),
    }
}

/// The embedded database is looked at while somebody runs it, and not started for it.
async fn examine(
    which: &Which,
    settings: &Settings,
    environment: &Environment,
) -> Option<Result<Examined, StartError>> {
    if *which == (Which::Embedded { running: false }) {
        return None;
    }
    // Without a state directory there is a finding that says so.
    let url = migrate::url(settings, environment).ok()?;
    let store = match migrate::store_at(url, settings) {
        Ok(store) => store,
        Err(error) => return Some(Err(error)),
    };
    let examined = store.examine(&SystemWall).await;
    store.close().await;
    Some(examined)
}

/// Installations, and the version of the data.
async fn find_binaries(which: &Which, state: Option<PathBuf>, environment: &Environment) -> Option<Installed> {
    if *which == Which::Url {
        return Some(Installed { found: Vec::new(), data: None });
    }
    let options = ClusterOptions {
        bin_dir: environment.path("PG_BINDIR"),
        path: environment.path("PATH").map(Into::into),
        ..ClusterOptions::default()
    };
    look_at((options, state), |(options, state)| {
        let found = Binaries::find(&options).into_iter();
        let version = state.and_then(|state| limited::read(&state.join("postgres/data/PG_VERSION"), 100).ok());
        Installed {
            found: found.map(|binaries| (binaries.major, binaries.dir.display().to_string())).collect(),
            data: version.and_then(|version| version.trim().parse().ok()),
        }
    })
    .await
}

/// How many authorities the system trusts, and what was in the way of reading them.
fn certificates() -> (usize, Vec<String>) {
    let found = rustls_native_certs::load_native_certs();
    (found.certs.len(), found.errors.iter().map(ToString::to_string).collect())
}

#[cfg(test)]
mod tests {
    use super::needs_resolver;

    #[test]
    fn names_need_a_resolver() {
        for (kind, url, needs) in [
            ("http", "https://example.com/", true),
            ("http", "https://127.0.0.1/", false),
            ("http", "https://[::1]:80/", false),
            ("tcp", "tcp://10.0.0.1:1", false),
            ("tcp", "tcp://db:1", true),
            ("icmp", "icmp:192.0.2.1", false),
            ("icmp", "icmp:gateway", true),
            ("http", "http://localhost:1/", false),
            ("dns", "dns:example.com", true),
            ("heartbeat", "heartbeat:", false),
            ("exec", "exec:/bin/true x", false),
            ("http", "https://${HOST}/", true),
        ] {
            assert_eq!(needs_resolver(kind, url), needs, "{url}");
        }
    }
}
