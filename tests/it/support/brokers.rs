//! Private message brokers on loopback ports: mosquitto and RabbitMQ, with an account, in plain and under TLS.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::servers::http::closed_port;
use super::servers::tls::{leaf_params, pem, self_signed};
use super::target::until;

pub const USER: &str = "monitor";
pub const PASSWORD: &str = "secret-of-monitor";
/// The virtual host that RabbitMQ has.
pub const VHOST: &str = "shop";
/// RabbitMQ needs ten seconds on an idle machine.
const STARTS: Duration = Duration::from_secs(120);

/// A process with all its children; killed when dropped.
struct Group(Child);

impl Group {
    fn spawn(mut command: Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.process_group(0).spawn().unwrap())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process_group(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::KILL,
        );
        let _ = self.0.wait();
    }
}

/// Ends when dropped.
pub struct Broker {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    _processes: Vec<Group>,
    _folder: tempfile::TempDir,
}

fn folder_with_certificate() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("lamp-broker-").tempdir_in("/tmp").unwrap();
    // The broker gives up the rights of root before it reads some of its files.
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.path(), mode).unwrap();
    let identity = self_signed(&leaf_params(&["127.0.0.1"]));
    std::fs::write(folder.path().join("cert.pem"), pem(&identity.chain[0])).unwrap();
    std::fs::write(folder.path().join("key.pem"), identity.key_pem()).unwrap();
    folder
}

async fn listens(what: &str, addresses: [SocketAddr; 2]) {
    for address in addresses {
        until(&format!("{what} listens"), STARTS, async || tokio::net::TcpStream::connect(address).await.ok()).await;
    }
}

/// A mosquitto that knows one account, and nobody else.
pub async fn mosquitto() -> Broker {
    assert!(Path::new("/usr/sbin/mosquitto").exists(), "there is no mosquitto: tests/run installs it");
    let folder = folder_with_certificate();
    let root = folder.path().display();
    let (plain, tls) = (closed_port().await, closed_port().await);
    let passwords = folder.path().join("passwords");
    let made = Command::new("mosquitto_passwd").args(["-c", "-b"]).arg(&passwords).args([USER, PASSWORD]).status();
    assert!(made.unwrap().success());
    let config = format!(
        "allow_anonymous false\npassword_file {root}/passwords\nuser root\npersistence false\n\
         listener {} 127.0.0.1\nlistener {} 127.0.0.1\ncertfile {root}/cert.pem\nkeyfile {root}/key.pem\n",
        plain.port(),
        tls.port()
    );
    let path = folder.path().join("mosquitto.conf");
    std::fs::write(&path, config).unwrap();
    let mut command = Command::new("/usr/sbin/mosquitto");
    command.arg("-c").arg(&path);
    let processes = vec![Group::spawn(command)];
    listens("mosquitto", [plain, tls]).await;
    Broker { plain, tls, _processes: processes, _folder: folder }
}

/// A RabbitMQ that knows one account and one virtual host. It finds nobody else's, nor is it found: its name server
/// (epmd) is its own.
pub async fn rabbitmq() -> Broker {
    const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";
    assert!(Path::new(PROGRAM).exists(), "there is no {PROGRAM}: tests/run installs it");
    let folder = folder_with_certificate();
    let root = folder.path();
    let (plain, tls, names, distribution) =
        (closed_port().await, closed_port().await, closed_port().await, closed_port().await);
    let shown = root.display();
    let config = format!(
        "listeners.tcp.1 = {plain}\nlisteners.ssl.1 = {tls}\nssl_options.certfile = {shown}/cert.pem\n\
         ssl_options.keyfile = {shown}/key.pem\ndefault_user = {USER}\ndefault_pass = {PASSWORD}\n\
         default_vhost = {VHOST}\n"
    );
    std::fs::write(root.join("rabbitmq.conf"), config).unwrap();
    std::fs::write(root.join("plugins"), "[].").unwrap();
    let mut epmd = Command::new("epmd");
    epmd.args(["-address", "127.0.0.1", "-port", &names.port().to_string()]);
    let mut command = Command::new(PROGRAM);
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("LANG", "C.UTF-8").env("HOME", root);
    command.env("RABBITMQ_NODENAME", format!("lamp{}@localhost", plain.port()));
    command.env("RABBITMQ_MNESIA_BASE", root.join("mnesia")).env("RABBITMQ_LOG_BASE", root.join("log"));
    command.env("RABBITMQ_CONFIG_FILE", root.join("rabbitmq.conf")).env("RABBITMQ_PID_FILE", root.join("pid"));
    command.env("RABBITMQ_ENABLED_PLUGINS_FILE", root.join("plugins"));
    command.env("RABBITMQ_DIST_PORT", distribution.port().to_string());
    command.env("ERL_EPMD_ADDRESS", "127.0.0.1").env("ERL_EPMD_PORT", names.port().to_string());
    let loopback = "-kernel inet_dist_use_interface {127,0,0,1}";
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", loopback);
    let processes = vec![Group::spawn(epmd), Group::spawn(command)];
    listens("RabbitMQ", [plain, tls]).await;
    Broker { plain, tls, _processes: processes, _folder: folder }
}
