//! Proxies: those of Debian as they are, and ones of ours that misbehave.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

use super::http::closed_port;

/// A real proxy on a loopback port. Killed when dropped, with all that it started.
pub struct Proxy {
    pub address: SocketAddr,
    process: Child,
    _folder: tempfile::TempDir,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It leads its group, and is not reaped yet: the number is still its own.
        let _ = rustix::process::kill_process_group(Pid::from_child(&self.process), Signal::KILL);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Proxy {
    /// Debian's tinyproxy, with `BasicAuth` when there are a user and a password.
    pub async fn tinyproxy(login: Option<(&str, &str)>) -> Self {
        let address = closed_port().await;
        let login = login.map_or(String::new(), |(user, password)| format!("BasicAuth {user} {password}\n"));
        let config = format!(
            "Port {}\nListen 127.0.0.1\nTimeout 30\nMaxClients 20\nAllow 127.0.0.0/8\nLogLevel Critical\n{login}",
            address.port()
        );
        Self::start(address, "/usr/bin/tinyproxy", &config, &["-d", "-c"]).await
    }

    /// Debian's squid, without a cache.
    pub async fn squid() -> Self {
        let address = closed_port().await;
        let config = format!(
            "http_port {address}\nacl secure port 443\nhttp_access deny CONNECT !secure\nhttp_access allow localhost\ncache deny all\naccess_log none\ncache_log /dev/null\n\
             pid_filename none\ncache_store_log none\nshutdown_lifetime 0 seconds\nconnect_timeout 5 seconds\n\
             forward_max_tries 1\npinger_enable off\nnetdb_filename none\ncoredump_dir /tmp\ndns_timeout 2 seconds\n"
        );
        // -N: one process. In the foreground only, a master has another that serves, and that outlives it.
        Self::start(address, "/usr/sbin/squid", &config, &["-N", "-f"]).await
    }

    /// Debian's microsocks.
    pub async fn microsocks(login: Option<(&str, &str)>) -> Self {
        let address = closed_port().await;
        let port = address.port().to_string();
        let mut command = Command::new("/usr/bin/microsocks");
        command.args(["-i", "127.0.0.1", "-p", &port]);
        if let Some((user, password)) = login {
            command.args(["-u", user, "-P", password]);
        }
        Self::run(address, command, tempfile::tempdir().unwrap()).await
    }

    async fn start(address: SocketAddr, program: &str, config: &str, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("proxy.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).arg(&path).current_dir(folder.path());
        Self::run(address, command, folder).await
    }

    async fn run(address: SocketAddr, mut command: Command, folder: tempfile::TempDir) -> Self {
        let program = command.get_program().to_owned();
        assert!(Path::new(&program).exists(), "there is no {program:?}: tests/run installs it");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        let process = command.spawn().unwrap();
        let mut proxy = Self { address, process, _folder: folder };
        let begin = Instant::now();
        while tokio::net::TcpStream::connect(address).await.is_err() {
            assert_eq!(proxy.process.try_wait().unwrap(), None, "{program:?} ended");
            assert!(begin.elapsed() < Duration::from_secs(20), "{program:?} did not come up");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        proxy
    }

    /// The process that leads its group, whose number is the group's.
    pub fn leader(&self) -> u32 {
        self.process.id()
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.address)
    }

    pub fn url_with(&self, scheme: &str, login: &str) -> String {
        format!("{scheme}://{login}@{}", self.address)
    }
}

/// Processes that live in this group.
pub fn processes_of(group: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").unwrap();
    let ids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let is_of = |id: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        // Behind the name, which may hold anything: state, parent, group (proc(5)).
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let (state, own) = (fields.next(), fields.nth(1));
        state.is_some_and(|state| state != "Z") && own == Some(group.to_string().as_str())
    };
    ids.filter(is_of).collect()
}
