//! Looks at what may not answer: the daemon, the resolver, the database, file systems.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::{Name, RecordType};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::host::{self, State, Subject};
use super::judge::{Daemon, Resolved};
use super::judge_database::Which;
use super::sockets::{self, Port};
use crate::cli::{Environment, Stop, migrate, state};
use crate::clock::SystemWall;
use crate::model::Timings;
use crate::probe::net::dns::Question;
use crate::probe::net::{EgressOptions, Net, NetOptions};
use crate::settings::limited;
use crate::settings::model::Settings;
use crate::store::cluster::{Binaries, ClusterOptions};
use crate::store::{Examined, StartError};
use crate::web::client::{self, ClientError};

/// For what blocks on a file system or a directory of users, which may hang.
pub(super) const LOOK: Duration = Duration::from_secs(5);
/// For one question to the daemon.
const DAEMON: Duration = Duration::from_secs(5);
/// For the resolver: resolv.conf allows it five seconds a server.
const RESOLVER: Duration = Duration::from_secs(6);

/// What was seen, as far as it answered.
pub(super) struct Looks {
    /// The state directory.
    pub(super) directory: Result<PathBuf, Stop>,
    /// None: there is no state directory.
    pub(super) socket: Option<PathBuf>,
    pub(super) daemon: Daemon,
    pub(super) pid: Option<u32>,
    pub(super) state: Option<State>,
    pub(super) subject: Option<Subject>,
    pub(super) which: Which,
    pub(super) resolved: Resolved,
    pub(super) database: Option<Result<Examined, StartError>>,
    /// Or what hangs.
    pub(super) port: Result<Port, String>,
    pub(super) binaries: Option<Installed>,
    /// Authorities that the system trusts, and what was in the way of reading them.
    pub(super) certificates: Option<(usize, Vec<String>)>,
}

/// What the embedded database may be run by.
pub(super) struct Installed {
    /// Major versions and folders.
    pub(super) found: Vec<(u32, String)>,
    /// The major version of its data; none when there are none.
    pub(super) data: Option<u32>,
}

impl Looks {
    pub(super) async fn take(settings: &Settings, environment: &Environment) -> Self {
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
        let (resolved, database, port, binaries, certificates) = tokio::join!(
            resolve(settings),
            examine(&which, settings, environment),
            within("listening", LOOK, sockets::look(&settings.server.listen, pid)),
            find_binaries(&which, directory.as_ref().ok().cloned(), environment),
            look_at((), |()| certificates()),
        );
        Self { directory, socket, daemon, pid, state, subject, which, resolved, database, port, binaries, certificates }
    }
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
