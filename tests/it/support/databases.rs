//! Real database servers of Debian on loopback ports, in folders of their own, killed with their value.

use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::date_time_ymd;
use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

use super::servers::http::closed_port;
use super::servers::tls::{Authority, Identity, leaf_params, pem};

/// What all servers present, and who vouches for it.
pub struct Trust {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Trust {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("lamplighter-db-").tempdir_in("/tmp").unwrap();
        // Servers that are not root pass through it.
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        Self { folder, authority: Authority::root("Databases") }
    }

    pub fn ca_file(&self) -> PathBuf {
        self.authority.write(&self.folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `server.crt` and `server.key` into a folder, for whom it belongs to.
    fn write(&self, identity: &Identity, into: &Path) {
        let owner = std::fs::metadata(into).unwrap();
        let chain: String = identity.chain.iter().map(pem).collect();
        for (name, text) in [("server.crt", chain), ("server.key", identity.key_pem())] {
            let path = into.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
            std::os::unix::fs::chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
        }
    }

    fn good(&self) -> Identity {
        self.authority.issue(&leaf_params(&["127.0.0.1"]))
    }

    fn expired(&self) -> Identity {
        let mut params = leaf_params(&["127.0.0.1"]);
        params.not_after = date_time_ymd(2021, 1, 1);
        self.authority.issue(&params)
    }
}

/// A server of one test.
struct Process(Child, Signal);

impl Process {
    /// It ends with the thread that starts it, also when that one is killed.
    fn start(program: &Path, user: Option<&str>, args: &[&str], stop: Signal) -> Self {
        assert!(program.exists(), "there is no {}: tests/run installs it", program.display());
        let mut command = as_user(user);
        command.args(["--pdeathsig", "KILL"]).arg(program).args(args);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap(), stop)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), self.1);
        let _ = self.0.wait();
    }
}

fn as_user(user: Option<&str>) -> Command {
    let mut command = Command::new("setpriv");
    if let Some(user) = user {
        command.args(["--reuid", user, "--regid", user, "--clear-groups"]);
    }
    command
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Polls until the port answers.
async fn up(what: &str, address: SocketAddr) {
    let begin = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(begin.elapsed() < Duration::from_secs(60), "{what} did not come up");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Redis with the password `pass-word` of the default user, and the users `reader` and `nothing`.
pub struct Redis {
    pub plain: SocketAddr,
    pub tls: SocketAddr,
    _process: Process,
}

pub const REDIS_CLIENTS: usize = 40;

impl Redis {
    pub async fn start(trust: &Trust) -> Self {
        let folder = trust.path("redis");
        std::fs::create_dir(&folder).unwrap();
        trust.write(&trust.good(), &folder);
        let (plain, tls) = (closed_port().await, closed_port().await);
        let (shown, ca) = (folder.display(), trust.ca_file());
        let config = format!(
            "bind 127.0.0.1\nport {}\ntls-port {}\ndir {shown}\nsave \"\"\nappendonly no\nmaxclients {REDIS_CLIENTS}\n\
             tls-cert-file {shown}/server.crt\ntls-key-file {shown}/server.key\ntls-ca-cert-file {}\n\
             tls-auth-clients no\nrequirepass pass-word\n\
             user reader on >reader-password ~jobs* +ping +llen +get +lrange +select\n\
             user nothing on >nothing-password -@all\n",
            plain.port(),
            tls.port(),
            ca.display()
        );
        let path = folder.join("redis.conf");
        std::fs::write(&path, config).unwrap();
        let program = Path::new("/usr/bin/redis-server");
        let process = Process::start(program, None, &[path.to_str().unwrap()], Signal::KILL);
        up("Redis", plain).await;
        Self { plain, tls, _process: process }
    }
}

/// `MariaDB` with the accounts of [`MARIA_ACCOUNTS`].
pub struct Maria {
    pub address: SocketAddr,
    _process: Process,
}

pub const MARIA_CONNECTIONS: usize = 40;

const MARIA_ACCOUNTS: &str = "CREATE DATABASE shop;
CREATE DATABASE closed;
CREATE TABLE shop.wide AS SELECT REPEAT('x', 65536) AS x FROM mysql.help_topic LIMIT 20;
CREATE USER native@'127.0.0.1' IDENTIFIED BY 'native-password';
GRANT SELECT ON shop.* TO native@'127.0.0.1';
CREATE USER bare@'127.0.0.1';
CREATE USER covered@'127.0.0.1' IDENTIFIED BY 'covered-password' REQUIRE SSL;
INSTALL SONAME 'auth_ed25519';
CREATE USER edwards@'127.0.0.1' IDENTIFIED VIA ed25519 USING PASSWORD('edwards-password');
";

impl Maria {
    pub async fn start(trust: &Trust) -> Self {
        let folder = trust.path("maria");
        std::fs::create_dir(&folder).unwrap();
        trust.write(&trust.good(), &folder);
        let shown = folder.display();
        let (data, user) = (format!("--datadir={shown}/data"), is_root().then_some("--user=root"));
        let made = Command::new("mariadb-install-db")
            .args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal", &data])
            .args(user)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let accounts = folder.join("accounts.sql");
        // One statement a line is what an init file may have.
        std::fs::write(&accounts, MARIA_ACCOUNTS).unwrap();
        let address = closed_port().await;
        let mut args = vec![
            "--no-defaults".to_owned(),
            data,
            format!("--socket={shown}/socket"),
            format!("--pid-file={shown}/pid"),
            format!("--port={}", address.port()),
            "--bind-address=127.0.0.1".to_owned(),
            "--skip-name-resolve".to_owned(),
            format!("--max-connections={MARIA_CONNECTIONS}"),
            format!("--init-file={}", accounts.display()),
            format!("--ssl-cert={shown}/server.crt"),
            format!("--ssl-key={shown}/server.key"),
            "--innodb-buffer-pool-size=8M".to_owned(),
            "--innodb-flush-method=nosync".to_owned(),
        ];
        args.extend(user.map(str::to_owned));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let process = Process::start(Path::new("/usr/sbin/mariadbd"), None, &args, Signal::KILL);
        up("MariaDB", address).await;
        Self { address, _process: process }
    }
}

/// `PostgreSQL` with the accounts of [`POSTGRES_ACCOUNTS`], each with its line of [`HBA`].
pub struct Postgres {
    pub address: SocketAddr,
    data: PathBuf,
    process: Process,
}

const POSTGRES_ACCOUNTS: &str = "
    CREATE ROLE scram LOGIN PASSWORD 'scram-password';
    CREATE ROLE clear LOGIN PASSWORD 'clear-password';
    CREATE ROLE covered LOGIN PASSWORD 'covered-password';
    CREATE ROLE rejected LOGIN PASSWORD 'rejected-password';
    CREATE ROLE crowded LOGIN PASSWORD 'crowded-password' CONNECTION LIMIT 0;
    SET password_encryption = md5;
    CREATE ROLE digest LOGIN PASSWORD 'digest-password';
    CREATE DATABASE shop;
    CREATE DATABASE closed;
    REVOKE CONNECT ON DATABASE closed FROM PUBLIC;
    CREATE TABLE secrets (x int);";

const HBA: &str = "host all postgres 127.0.0.1/32 trust
host all clear 127.0.0.1/32 password
host all digest 127.0.0.1/32 md5
hostssl all covered 127.0.0.1/32 scram-sha-256
host all rejected 127.0.0.1/32 reject
host all scram,crowded,nobody 127.0.0.1/32 scram-sha-256
";

fn postgres_program(name: &str) -> PathBuf {
    let of_env = std::env::var_os("PG_BINDIR").map(PathBuf::from);
    let of_debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let folders = of_env.into_iter().chain(of_debian.map(|version| version.path().join("bin")));
    folders.map(|folder| folder.join(name)).find(|path| path.exists()).expect("no PostgreSQL: tests/run installs it")
}

impl Postgres {
    pub async fn start(trust: &Trust) -> Self {
        let user = is_root().then_some("postgres");
        let home = trust.path("postgres");
        std::fs::create_dir(&home).unwrap();
        std::fs::set_permissions(&home, std::fs::Permissions::from_mode(0o777)).unwrap();
        let data = home.join("data");
        let made = as_user(user)
            .arg(postgres_program("initdb"))
            .args(["--username=postgres", "--auth=trust", "--no-sync", "--encoding=UTF8", "--no-locale", "-D"])
            .arg(&data)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(data.join("pg_hba.conf"), HBA).unwrap();
        trust.write(&trust.good(), &data);
        let address = closed_port().await;
        let (port, folder) =
            (format!("port={}", address.port()), format!("unix_socket_directories={}", home.display()));
        let mut args = vec!["-D", data.to_str().unwrap()];
        for setting in ["listen_addresses=127.0.0.1", "ssl=on", "fsync=off", &port, &folder] {
            args.extend(["-c", setting]);
        }
        // Of a killed one the shared memory would stay.
        let process = Process::start(&postgres_program("postgres"), user, &args, Signal::QUIT);
        let postgres = Self { address, data, process };
        up("PostgreSQL", address).await;
        let begin = Instant::now();
        let mut connection = loop {
            match postgres.connect().await {
                Ok(connection) => break connection,
                Err(error) => assert!(begin.elapsed() < Duration::from_secs(60), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        for statement in POSTGRES_ACCOUNTS.split(';') {
            connection.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
        }
        postgres
    }

    /// As the superuser.
    pub async fn connect(&self) -> Result<PgConnection, sqlx::Error> {
        PgConnection::connect(&format!("postgres://postgres@{}/postgres?sslmode=disable", self.address)).await
    }

    /// From here on it presents an expired certificate, soon.
    pub fn let_expire(&self, trust: &Trust) {
        trust.write(&trust.expired(), &self.data);
        self.process.signal(Signal::HUP);
    }

    /// From here on it lets nobody in any more, soon, and ends when the last one is gone.
    pub fn wind_down(&self) {
        self.process.signal(Signal::TERM);
    }
}
