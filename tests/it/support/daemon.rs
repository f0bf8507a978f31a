//! The real program in a folder of its own.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::target::until;

/// The binary under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_lamplighter");

/// A folder with a configuration and a state directory.
pub struct Home {
    folder: TempDir,
}

impl Home {
    /// With this configuration; `listen` and the state directory are put in front of it.
    pub fn new(config: &str) -> Self {
        // Short, and passable for the user of an embedded cluster.
        let folder = tempfile::Builder::new().prefix("lamp").tempdir_in("/tmp").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), mode).unwrap();
        let home = Self { folder };
        home.write(config);
        home
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn state(&self) -> PathBuf {
        self.path().join("state")
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("config.toml")
    }

    /// Replaces the configuration as an editor does: by rename.
    pub fn write(&self, config: &str) {
        let text = format!(
            "daemon.state_directory = {:?}\nserver.listen = \"127.0.0.1:0\"\n{config}",
            self.state().display().to_string()
        );
        let draft = self.path().join(".config.toml.swp");
        std::fs::write(&draft, text).unwrap();
        std::fs::rename(draft, self.config()).unwrap();
    }

    /// A command of the program with this home's configuration.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.config()).args(arguments);
        command.env_remove("LAMPLIGHTER_CONFIG").env_remove("STATE_DIRECTORY");
        command
    }

    /// The socket that commands use.
    pub fn socket(&self) -> PathBuf {
        self.state().join("admin.sock")
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts the daemon; it may fail, see [`Daemon::ended`].
    pub fn start(&self) -> Daemon {
        self.start_as(self.command(&["run"]))
    }

    /// Starts the daemon by a command of one's own.
    pub fn start_as(&self, mut command: Command) -> Daemon {
        command.stdin(Stdio::null());
        self.start_fed(command)
    }

    /// Starts the daemon by a command whose standard input is set.
    pub fn start_fed(&self, mut command: Command) -> Daemon {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let readers = [
            follow(child.stdout.take().unwrap(), Arc::clone(&log)),
            follow(child.stderr.take().unwrap(), Arc::clone(&log)),
        ];
        Daemon { child, log, readers, config: self.config(), socket: self.socket() }
    }
}

fn follow(pipe: impl std::io::Read + Send + 'static, log: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        for line in BufReader::new(pipe.take(64 << 20)).lines() {
            let Ok(line) = line else { break };
            let mut log = log.lock().unwrap();
            log.push_str(&line);
            log.push('\n');
        }
    })
}

/// A running daemon. Killed when dropped; its log is printed when the test fails.
pub struct Daemon {
    child: Child,
    log: Arc<Mutex<String>>,
    readers: [JoinHandle<()>; 2],
    config: PathBuf,
    socket: PathBuf,
}

impl Daemon {
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `http://…` of the admin server, once it is printed.
    pub async fn address(&self) -> String {
        until("the address is printed", Duration::from_secs(30), async || {
            let log = self.log();
            let at = log.find("http://127.0.0.1:")?;
            let end = log[at..].find(['\n', ' ', '/', '"']).map_or(log.len(), |_| {
                let rest = &log[at + 7..];
                at + 7 + rest.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == ':')).unwrap_or(rest.len())
            });
            Some(log[at..end].to_owned())
        })
        .await
    }

    /// `status --json`, once the daemon answers.
    pub async fn overview(&self) -> serde_json::Value {
        until("the daemon answers on its socket", Duration::from_secs(30), async || self.try_overview()).await
    }

    pub fn try_overview(&self) -> Option<serde_json::Value> {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(&self.config).args(["status", "--json"]);
        let output = command.output().unwrap();
        serde_json::from_slice(&output.stdout).ok()
    }

    /// `/readyz` as the daemon's own user sees it; none while it does not answer.
    pub async fn readiness(&self) -> Option<(u16, serde_json::Value)> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.ok()?;
        let answer = ask(stream, "GET", "/readyz").await;
        Some((answer.status, serde_json::from_str(&answer.body).ok()?))
    }

    /// Waits until `/readyz` has (or has not) this code among its reasons or notes.
    pub async fn wait_ready(&self, what: &str, mut condition: impl FnMut(u16, &serde_json::Value) -> bool) {
        until(what, Duration::from_secs(30), async || {
            let (status, body) = self.readiness().await?;
            condition(status, &body).then_some(())
        })
        .await;
    }

    /// Waits until a monitor has this status in the daemon's view.
    pub async fn wait_status(&self, monitor: &str, status: &str) -> serde_json::Value {
        until(&format!("{monitor} is {status}"), Duration::from_secs(30), async || {
            let overview = self.try_overview()?;
            let row = overview["monitors"].as_array()?.iter().find(|row| row["monitor"] == monitor)?;
            (row["status"] == status).then(|| row.clone())
        })
        .await
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for the end, and until all is in the log that it said.
    pub async fn ended(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let status = until("the daemon ends", Duration::from_secs(40), async || child.try_wait().unwrap()).await;
        let readers = &self.readers;
        // A program that a killed daemon had started may hold the pipes for longer than itself.
        let all = async || readers.iter().all(JoinHandle::is_finished).then_some(());
        let _ = tokio::time::timeout(Duration::from_secs(5), until("its log ends", Duration::from_secs(10), all)).await;
        status
    }

    /// SIGTERM, and waits for the end.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.ended().await
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        self.ended().await;
    }
}

/// An answer of the admin server.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Asks the admin server on an open connection.
pub async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin, method: &str, path: &str) -> Answer {
    say(stream, &format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await
}

/// Sends bytes to the admin server, and reads until it closes.
pub async fn say(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// Whether a code is among the reasons or notes of `/readyz`.
pub fn has_code(readiness: &serde_json::Value, code: &str) -> bool {
    let listed = |list: &str| readiness[list].as_array().unwrap().iter().any(|reason| reason["code"] == code);
    listed("reasons") || listed("notes")
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
    }
}
