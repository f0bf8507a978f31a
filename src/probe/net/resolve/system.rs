//! `/etc/resolv.conf` and `/etc/hosts`, read again when they change.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use resolv_conf::ScopedIp;
use tokio::time::Instant;

use crate::settings::limited;

/// `/etc/resolv.conf` is read up to this size.
const RESOLV_CONF_MAX_BYTES: u64 = 64 * 1024;

/// `/etc/hosts` is read up to this size: lists that block advertisements have a few MiB.
const HOSTS_MAX_BYTES: u64 = 16 * 1024 * 1024;

/// How often the files are looked at. A look is two `stat` calls.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Addresses kept per name of `/etc/hosts`.
const MOST_HOSTS_ADDRESSES: usize = 16;

/// Where the system keeps its files.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) resolv_conf: PathBuf,
    pub(super) hosts: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self { resolv_conf: "/etc/resolv.conf".into(), hosts: "/etc/hosts".into() }
    }
}

/// What the files say.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    /// Name servers in order; not empty.
    pub(super) servers: Vec<SocketAddr>,
    /// `search`, only from the system.
    pub(super) search: Vec<String>,
    /// `options ndots`: names with fewer dots are searched for first.
    pub(super) ndots: u32,
    /// `options attempts`: rounds over the servers, at least 1.
    pub(super) attempts: u32,
    /// `options timeout`: how long one server is waited for.
    pub(super) timeout: Duration,
    /// `options rotate`: begin with another server each time.
    pub(super) rotate: bool,
    /// `options use-vc`: TCP only.
    pub(super) tcp_only: bool,
    /// `options no-aaaa`.
    pub(super) no_aaaa: bool,
    hosts: Arc<HashMap<Box<str>, Vec<IpAddr>>>,
}

impl Settings {
    /// Addresses of `/etc/hosts`; the name in lower case and without its final dot.
    pub(super) fn hosts(&self, name: &str) -> &[IpAddr] {
        self.hosts.get(name).map_or(&[], Vec::as_slice)
    }
}

/// Tells whether a file is another one than before.
type Stamp = Option<(i64, i64, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.mtime(), meta.mtime_nsec(), meta.len(), meta.ino()))
}

struct Look {
    next: Instant,
    stamps: [Stamp; 2],
}

/// The settings as they are now.
pub(super) struct System {
    paths: Paths,
    /// `probe.resolvers`: stand in for the system's servers, search list and options.
    fixed: Vec<SocketAddr>,
    current: ArcSwap<Settings>,
    look: Mutex<Look>,
}

impl System {
    /// Reads both files. Absent ones are legal (resolv.conf(5): then the server is this host's own).
    pub(super) fn read(paths: Paths, fixed: Vec<SocketAddr>) -> Result<Self, String> {
        let stamps = [stamp(&paths.resolv_conf), stamp(&paths.hosts)];
        let settings = load(&paths, &fixed)?;
        let look = Mutex::new(Look { next: Instant::now() + LOOK_EVERY, stamps });
        Ok(Self { paths, fixed, current: ArcSwap::from_pointee(settings), look })
    }

    /// The settings, at most a second old. A file that became unreadable changes nothing, and that is logged.
    pub(super) async fn settings(&self) -> Arc<Settings> {
        if self.is_changed() {
            let (paths, fixed) = (self.paths.clone(), self.fixed.clone());
            match tokio::task::spawn_blocking(move || load(&paths, &fixed)).await {
                Ok(Ok(settings)) => self.current.store(Arc::new(settings)),
                Ok(Err(why)) => log::warn!("{why}; the resolver goes on with what it knew"),
                // The runtime is shutting down.
                Err(_) => {}
            }
        }
        self.current.load_full()
    }

    fn is_changed(&self) -> bool {
        let mut look = self.look.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if now < look.next {
            return false;
        }
        look.next = now + LOOK_EVERY;
        let stamps = [stamp(&self.paths.resolv_conf), stamp(&self.paths.hosts)];
        let changed = stamps != look.stamps;
        look.stamps = stamps;
        changed
    }
}

fn load(paths: &Paths, fixed: &[SocketAddr]) -> Result<Settings, String> {
    let hosts = text(&paths.hosts, HOSTS_MAX_BYTES)?;
    let mut settings = match fixed {
        [] => parse_resolv_conf(&text(&paths.resolv_conf, RESOLV_CONF_MAX_BYTES)?),
        // Two seconds, not the system's five: who names servers expects them near.
        _ => Settings { servers: fixed.to_vec(), timeout: Duration::from_secs(2), ..parse_resolv_conf("") },
    };
    settings.hosts = Arc::new(parse_hosts(&hosts));
    Ok(settings)
}

fn text(path: &Path, most: u64) -> Result<String, String> {
    match limited::read(path, most) {
        Ok(text) => Ok(text),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(why) => Err(format!("cannot read {}: {why}", path.display())),
    }
}

/// Lines that resolv.conf(5) does not know are skipped, as the C library does.
fn parse_resolv_conf(text: &str) -> Settings {
    let (mut config, _errors) = resolv_conf::Config::parse_with_errors(text.as_bytes());
    config.glibc_normalize();
    let mut servers: Vec<SocketAddr> = config.nameservers.iter().filter_map(server).collect();
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    Settings {
        servers,
        search: config
            .get_last_search_or_domain()
            .filter(|domain| *domain != ".")
            .map(|domain| domain.to_lowercase())
            .collect(),
        // The bounds of resolv.conf(5).
        ndots: config.ndots.min(15),
        attempts: config.attempts.clamp(1, 5),
        timeout: Duration::from_secs(u64::from(config.timeout.clamp(1, 30))),
        rotate: config.rotate,
        tcp_only: config.use_vc,
        no_aaaa: config.no_aaaa,
        hosts: Arc::default(),
    }
}

fn server(ip: &ScopedIp) -> Option<SocketAddr> {
    match ip {
        ScopedIp::V4(ip) => Some(SocketAddr::from((*ip, 53))),
        ScopedIp::V6(ip, None) => Some(SocketAddr::from((*ip, 53))),
        ScopedIp::V6(ip, Some(scope)) => Some(SocketAddr::V6(SocketAddrV6::new(*ip, 53, 0, interface(scope)?))),
    }
}

/// The index of an interface, given by number or name. A name that could leave the folder names none.
fn interface(scope: &str) -> Option<u32> {
    if let Ok(index) = scope.parse() {
        return Some(index);
    }
    if scope.contains(['/', '.']) {
        return None;
    }
    limited::read(Path::new(&format!("/sys/class/net/{scope}/ifindex")), 64).ok()?.trim().parse().ok()
}

fn parse_hosts(text: &str) -> HashMap<Box<str>, Vec<IpAddr>> {
    let mut hosts: HashMap<Box<str>, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(ip) = words.next().and_then(|ip| ip.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
            let list = hosts.entry(name.into()).or_default();
            if list.len() < MOST_HOSTS_ADDRESSES && !list.contains(&ip) {
                list.push(ip);
            }
        }
    }
    hosts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_resolv_conf() {
        let settings = parse_resolv_conf(
            "# by hand\nnonsense here\nsearch Corp.example lan\nnameserver 10.0.0.53\nnameserver fd00::53\nnameserver x\n\
             options ndots:2 timeout:3 attempts:4 rotate edns0 no-aaaa use-vc unknown:7\n",
        );
        assert_eq!(settings.servers, ["10.0.0.53:53".parse().unwrap(), "[fd00::53]:53".parse().unwrap()]);
        assert_eq!(settings.search, ["corp.example", "lan"]);
        assert_eq!((settings.ndots, settings.attempts, settings.timeout), (2, 4, Duration::from_secs(3)));
        assert!(settings.rotate && settings.no_aaaa && settings.tcp_only);
    }

    #[test]
    fn an_empty_resolv_conf_means_this_host() {
        let settings = parse_resolv_conf("");
        assert_eq!(settings.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!((settings.ndots, settings.attempts, settings.timeout), (1, 2, Duration::from_secs(5)));
        assert!(settings.search.is_empty());
    }

    #[test]
    fn hosts_lines() {
        let hosts =
            parse_hosts("10.0.0.1 A.example a # b\n# 10.0.0.2 c\n::1 a.example.\n10.0.0.1 a\nbad d\n10.0.0.3\n");
        assert_eq!(hosts.get("a.example").unwrap().len(), 2);
        assert_eq!(hosts.get("a").unwrap(), &["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_read_again_and_broken_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let paths = Paths { resolv_conf: folder.path().join("resolv.conf"), hosts: folder.path().join("hosts") };
        let system = System::read(paths.clone(), Vec::new()).unwrap();
        assert_eq!(system.settings().await.servers, ["127.0.0.1:53".parse().unwrap()]);
        std::fs::write(&paths.resolv_conf, "nameserver 10.0.0.9\n").unwrap();
        std::fs::write(&paths.hosts, "10.1.1.1 box\n").unwrap();
        // Within the second the old one stands.
        assert!(system.settings().await.hosts("box").is_empty());
        tokio::time::advance(LOOK_EVERY).await;
        let settings = system.settings().await;
        assert_eq!(settings.servers, ["10.0.0.9:53".parse().unwrap()]);
        assert_eq!(settings.hosts("box").len(), 1);
        std::fs::write(&paths.hosts, [0xff, 0xfe]).unwrap();
        tokio::time::advance(LOOK_EVERY).await;
        assert_eq!(system.settings().await.hosts("box").len(), 1);
        let fixed =
            System::read(Paths { hosts: folder.path().join("none"), ..paths }, vec!["127.0.0.5:5353".parse().unwrap()]);
        assert_eq!(fixed.unwrap().settings().await.servers, ["127.0.0.5:5353".parse().unwrap()]);
    }
}
