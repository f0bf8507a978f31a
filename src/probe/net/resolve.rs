//! Names to addresses: `/etc/hosts`, then the name servers, with our own cache. Not `getaddrinfo`: that blocks a thread
//! for each lookup, tells neither TTL nor response code, and cannot be given a deadline.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use self::answer::{Outcome, Reading};
use self::cache::{Cache, Found};
use self::exchange::Unanswered;
use self::health::Health;
use self::system::{Paths, Settings, System};
use super::IpVersion;
use super::dns::Question;
use crate::model::{Failure, Fault};

pub(crate) mod answer;
mod cache;
pub(super) mod exchange;
mod health;
mod system;

/// How long IPv4 addresses wait for the IPv6 answer (RFC 8305, section 3).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// A question is given up after this, whatever resolv.conf says.
const MOST_ASKED: Duration = Duration::from_secs(30);

/// A failure is kept this long: long enough that a thousand monitors of one zone do not ask its dead servers each,
/// short enough that no re-check (ten seconds later) sees it.
const FAILURE_KEPT: Duration = Duration::from_secs(1);

/// Addresses of a name.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    pub(super) v6: Vec<IpAddr>,
    pub(super) v4: Vec<IpAddr>,
    /// The IPv6 answer was not waited for: ask for it when all others failed.
    pub(super) v6_is_late: bool,
}

impl Addresses {
    fn of(list: &[IpAddr]) -> Self {
        let (v6, v4) = list.iter().partition(|ip| ip.is_ipv6());
        Self { v6, v4, v6_is_late: false }
    }

    fn only(mut self, version: IpVersion) -> Self {
        match version {
            IpVersion::Any => {}
            IpVersion::V4 => self.v6.clear(),
            IpVersion::V6 => self.v4.clear(),
        }
        self
    }

    const fn is_empty(&self) -> bool {
        self.v6.is_empty() && self.v4.is_empty()
    }
}

/// Questions on the wire at once, a descriptor each; the rest wait their turn. When our resolver is dead, ten thousand
/// checks must not take the descriptors that the store and the pages need. Names whose servers are dead hold a place
/// for the time-out of resolv.conf, so this is far more than a live resolver ever needs.
const MOST_ON_THE_WIRE: usize = 4096;

/// The resolver. Idle it costs nothing.
pub(super) struct Resolver {
    system: System,
    wire: Arc<Wire>,
    cache: Cache,
}

/// What all questions share.
struct Wire {
    health: Health,
    places: Semaphore,
}

impl Resolver {
    /// With these servers, else those of the system. Errors name the file.
    pub(super) fn new(servers: Vec<SocketAddr>) -> Result<Self, String> {
        Self::with_paths(servers, Paths::default())
    }

    fn with_paths(servers: Vec<SocketAddr>, paths: Paths) -> Result<Self, String> {
        let wire = Arc::new(Wire { health: Health::default(), places: Semaphore::new(MOST_ON_THE_WIRE) });
        Ok(Self { system: System::read(paths, servers)?, wire, cache: Cache::default() })
    }

    /// Addresses of `host`, at least one, by the deadline.
    ///
    /// Order: `localhost` and names below it are loopback (RFC 6761); then `/etc/hosts`; then DNS, through the search
    /// list when the name has fewer dots than `ndots` and no final dot, as the C library does.
    pub(super) async fn lookup(&self, host: &str, version: IpVersion, deadline: Instant) -> Result<Addresses, Fault> {
        let lower = host.to_ascii_lowercase();
        let (bare, is_absolute) = match lower.strip_suffix('.') {
            Some(bare) => (bare, true),
            None => (lower.as_str(), false),
        };
        if bare == "localhost" || bare.ends_with(".localhost") {
            let both = [IpAddr::V6(Ipv6Addr::LOCALHOST), IpAddr::V4(Ipv4Addr::LOCALHOST)];
            return Ok(Addresses::of(&both).only(version));
        }
        let settings = self.system.settings().await;
        let listed = Addresses::of(settings.hosts(bare)).only(version);
        if !listed.is_empty() {
            return Ok(listed);
        }
        let mut kept: Option<Fault> = None;
        for candidate in candidates(bare, is_absolute, &settings) {
            match self.families(&candidate, version, &settings, deadline).await {
                Ok(addresses) => return Ok(addresses),
                Err(fault) if matches!(fault.failure, Failure::DnsNxdomain | Failure::DnsNoRecords) => {
                    // That one of the names exists without addresses says more than that another does not exist.
                    let is_better = kept.is_none() || fault.failure == Failure::DnsNoRecords;
                    kept = if is_better { Some(fault) } else { kept };
                }
                Err(fault) => return Err(fault),
            }
        }
        Err(kept.unwrap_or_else(|| Fault::new(Failure::DnsError, "the name is empty")))
    }

    /// A whole answer by one of the servers, whatever it says, never from the cache: for checks of the name itself. An
    /// error has the owner that silence has for every check, see [`health`].
    pub(super) async fn ask(&self, question: &Question, deadline: Instant) -> Result<(SocketAddr, Message), Fault> {
        let (settings, asked) = (self.system.settings().await, Instant::now());
        let name = question.name.to_ascii();
        let walked = timeout_at(deadline, walk(question, &name, &settings, &self.wire)).await;
        walked.unwrap_or_else(|_| Err(self.wire.health.silence(&name, asked)))
    }

    /// Both families at once, or the wanted one.
    async fn families(
        &self,
        name: &str,
        version: IpVersion,
        settings: &Arc<Settings>,
        deadline: Instant,
    ) -> Result<Addresses, Fault> {
        let ask = |record| self.one(name, record, settings, deadline);
        let version = if settings.no_aaaa && version == IpVersion::Any { IpVersion::V4 } else { version };
        match version {
            IpVersion::V4 => Ok(Addresses { v4: ask(RecordType::A).await?, ..Addresses::default() }),
            IpVersion::V6 => Ok(Addresses { v6: ask(RecordType::AAAA).await?, ..Addresses::default() }),
            IpVersion::Any => {
                let (v4, v6) = (ask(RecordType::A), ask(RecordType::AAAA));
                tokio::pin!(v4, v6);
                let (v4, v6) = tokio::select! {
                    biased;
                    v6 = &mut v6 => (v4.await, v6),
                    v4 = &mut v4 => match v4 {
                        Ok(v4) => match timeout(RESOLUTION_DELAY, &mut v6).await {
                            Ok(v6) => (Ok(v4), v6),
                            Err(_) => return Ok(Addresses { v4, v6: Vec::new(), v6_is_late: true }),
                        },
                        Err(fault) => (Err(fault), v6.await),
                    },
                };
                match (v4, v6) {
                    (Err(v4), Err(v6)) => Err(more_telling(name, v4, v6)),
                    (v4, v6) => {
                        Ok(Addresses { v4: v4.unwrap_or_default(), v6: v6.unwrap_or_default(), v6_is_late: false })
                    }
                }
            }
        }
    }

    /// One type of one absolute name, from the cache or by asking; never empty.
    async fn one(
        &self,
        name: &str,
        record: RecordType,
        settings: &Arc<Settings>,
        deadline: Instant,
    ) -> Result<Vec<IpAddr>, Fault> {
        let asked = Instant::now();
        let found = self
            .cache
            .get(name, record, || question(name.to_owned(), record, Arc::clone(settings), Arc::clone(&self.wire)));
        let mut receiver = match found {
            Found::Known(outcome) => return Outcome::clone(&outcome),
            Found::UnderWay(receiver) => receiver,
        };
        match timeout_at(deadline, receiver.wait_for(Option::is_some)).await {
            Ok(Ok(outcome)) => outcome.as_ref().map_or_else(|| Err(vanished(name)), |outcome| Outcome::clone(outcome)),
            Ok(Err(_)) => Err(vanished(name)),
            Err(_) => Err(self.wire.health.silence(name, asked)),
        }
    }
}

/// The question's task ended without an answer: the daemon is stopping.
fn vanished(name: &str) -> Fault {
    Fault::new(Failure::Internal, format!("the lookup of {name} was cut off"))
}

/// The absolute names to try, in order (resolv.conf(5), `ndots` and `search`).
fn candidates(name: &str, is_absolute: bool, settings: &Settings) -> Vec<String> {
    if is_absolute || settings.search.is_empty() {
        return vec![name.to_owned()];
    }
    let dots = name.bytes().filter(|byte| *byte == b'.').count();
    let mut list: Vec<String> = settings.search.iter().map(|domain| format!("{name}.{domain}")).collect();
    let own_place = if dots >= settings.ndots as usize { 0 } else { list.len() };
    list.insert(own_place, name.to_owned());
    list
}

/// Of the failures of both families the one that says more: `no_records` of one family is normal.
fn more_telling(name: &str, v4: Fault, v6: Fault) -> Fault {
    let rank = |fault: &Fault| match fault.failure {
        Failure::DnsNxdomain => 0,
        Failure::ResourceExhausted => 1,
        Failure::DnsServfail => 2,
        Failure::DnsRefused => 3,
        Failure::DnsError => 4,
        Failure::DnsTimeout => 5,
        Failure::DnsNoRecords => 9,
        _ => 6,
    };
    if v4.failure == Failure::DnsNoRecords && v6.failure == Failure::DnsNoRecords {
        return Fault::new(Failure::DnsNoRecords, format!("{name} has neither A nor AAAA records"));
    }
    if rank(&v6) < rank(&v4) { v6 } else { v4 }
}

/// One question for the cache.
async fn question(name: String, record: RecordType, settings: Arc<Settings>, wire: Arc<Wire>) -> (Outcome, Duration) {
    let Some(question) = absolute(&name).map(|name| Question { name, record, authentic: false }) else {
        return (Err(Fault::new(Failure::DnsError, format!("{name:?} is no DNS name"))), FAILURE_KEPT);
    };
    match walk(&question, &name, &settings, &wire).await {
        Ok((_, message)) => match answer::read(&question, &message) {
            Reading::Final(outcome, keep) => (outcome, keep),
            Reading::AskAnother(fault) => (Err(fault), FAILURE_KEPT),
        },
        Err(fault) => (Err(fault), FAILURE_KEPT),
    }
}

/// Asks the servers in turn. What one cannot tell (SERVFAIL, REFUSED and other codes) the next may; of several such
/// answers the first is reported.
async fn walk(
    question: &Question,
    name: &str,
    settings: &Settings,
    wire: &Wire,
) -> Result<(SocketAddr, Message), Fault> {
    let asked = Instant::now();
    let health = &wire.health;
    let order = health.order(&settings.servers, settings.rotate);
    let (mut told, mut ours, mut is_silent, mut reasons) = (None, None, false, Vec::new());
    for _ in 0..settings.attempts {
        for server in &order {
            // An error would mean that the semaphore was closed, which nobody does.
            let _place = wire.places.acquire().await.ok();
            let until = (Instant::now() + settings.timeout).min(asked + MOST_ASKED);
            match exchange::ask(*server, question, settings.tcp_only, until, health).await {
                Ok(message) => {
                    health.promote(*server);
                    if matches!(message.metadata.response_code, ResponseCode::NoError | ResponseCode::NXDomain) {
                        return Ok((*server, message));
                    }
                    told = told.or(Some(Ok((*server, message))));
                }
                Err(Unanswered::Broken(fault)) => told = told.or(Some(Err(fault))),
                Err(Unanswered::Silent { alive }) => {
                    is_silent = true;
                    if !alive {
                        health.demote(*server);
                    }
                }
                Err(Unanswered::Unreachable(why)) => {
                    health.demote(*server);
                    reasons.push(why);
                }
                Err(Unanswered::Ours(fault)) => ours = Some(fault),
            }
        }
        // Another round helps against silence only.
        if told.is_some() || !is_silent || asked.elapsed() >= MOST_ASKED {
            break;
        }
        reasons.clear();
    }
    told.or(ours.map(Err)).unwrap_or_else(|| match is_silent {
        true => Err(health.silence(name, asked)),
        false => Err(Health::nobody(&reasons)),
    })
}

fn absolute(name: &str) -> Option<Name> {
    let mut parsed = Name::from_ascii(name).ok().filter(|parsed| parsed.num_labels() > 0)?;
    parsed.set_fqdn(true);
    Some(parsed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolver(hosts: &str) -> (Resolver, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { resolv_conf: folder.path().join("none"), hosts: folder.path().join("hosts") };
        std::fs::write(&paths.hosts, hosts).unwrap();
        // Nobody listens on port 1: whoever asks a server fails at once.
        (Resolver::with_paths(vec!["127.0.0.1:1".parse().unwrap()], paths).unwrap(), folder)
    }

    #[tokio::test]
    async fn localhost_and_hosts_need_no_server() {
        let (resolver, _folder) = resolver("10.0.0.1 box.lan box\nfd00::1 box.lan\n10.6.6.6 localhost\n");
        let deadline = Instant::now() + Duration::from_secs(5);
        for (host, version, v6, v4) in [
            ("localhost", IpVersion::Any, "::1", "127.0.0.1"),
            ("LocalHost.", IpVersion::V4, "", "127.0.0.1"),
            ("a.localhost", IpVersion::V6, "::1", ""),
            ("BOX.lan", IpVersion::Any, "fd00::1", "10.0.0.1"),
            ("box.lan.", IpVersion::V4, "", "10.0.0.1"),
            ("box", IpVersion::Any, "", "10.0.0.1"),
        ] {
            let found = resolver.lookup(host, version, deadline).await.unwrap();
            let text = |list: &[IpAddr]| list.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(",");
            assert_eq!((text(&found.v6).as_str(), text(&found.v4).as_str()), (v6, v4), "{host}");
        }
        let fault = resolver.lookup("box", IpVersion::V6, deadline).await.unwrap_err();
        assert_eq!(fault.failure, Failure::ResolverUnavailable, "{}", fault.message);
        let fault = resolver.lookup("localhost.evil.example", IpVersion::Any, deadline).await.unwrap_err();
        assert_eq!(fault.failure, Failure::ResolverUnavailable, "{}", fault.message);
    }

    #[tokio::test]
    async fn what_is_no_name_is_an_error_of_its_own() {
        let (resolver, _folder) = resolver("");
        let deadline = Instant::now() + Duration::from_secs(5);
        for host in [".", "a..b", &"x".repeat(64), &format!("{}com", "abcdefg.".repeat(40))] {
            let fault = resolver.lookup(host, IpVersion::V4, deadline).await.unwrap_err();
            assert_eq!(fault.failure, Failure::DnsError, "{host}: {}", fault.message);
        }
    }

    #[test]
    fn search_lists_follow_ndots() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("resolv.conf");
        std::fs::write(&conf, "nameserver 10.0.0.1\nsearch a.example b.example\noptions ndots:2\n").unwrap();
        let paths = Paths { resolv_conf: conf, hosts: folder.path().join("none") };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let settings = runtime.block_on(async { System::read(paths, Vec::new()).unwrap().settings().await });
        let of = |name: &str, absolute| candidates(name, absolute, &settings);
        assert_eq!(of("x", false), ["x.a.example", "x.b.example", "x"]);
        assert_eq!(of("x.y", false), ["x.y.a.example", "x.y.b.example", "x.y"]);
        assert_eq!(of("x.y.z", false), ["x.y.z", "x.y.z.a.example", "x.y.z.b.example"]);
        assert_eq!(of("x", true), ["x"]);
    }

    #[test]
    fn failures_of_two_families() {
        use Failure::*;
        for (v4, v6, wanted) in [
            (DnsNoRecords, DnsNoRecords, DnsNoRecords),
            (DnsNoRecords, DnsTimeout, DnsTimeout),
            (DnsTimeout, DnsServfail, DnsServfail),
            (DnsNxdomain, DnsServfail, DnsNxdomain),
            (ResolverUnavailable, DnsNoRecords, ResolverUnavailable),
        ] {
            for (v4, v6) in [(v4, v6), (v6, v4)] {
                assert_eq!(more_telling("a", Fault::new(v4, ""), Fault::new(v6, "")).failure, wanted);
            }
        }
    }
}
