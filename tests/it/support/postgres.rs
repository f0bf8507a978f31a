//! One private cluster a test run, made by the code under test, and a database a test, cloned from a migrated template.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use lamplighter::journal::Unrecorded;
use lamplighter::model::Secret;
use lamplighter::store::cluster::{Cluster, ClusterOptions, StateLock, url_of};
use lamplighter::store::{Store, StoreSettings};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};
use tokio::sync::OnceCell;

const PREFIX: &str = "lamplighter-it-";
const TEMPLATE: &str = "lamplighter_template";

static CLUSTER: OnceLock<String> = OnceLock::new();
static TEMPLATE_MADE: OnceCell<()> = OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// What a test hands to [`Cluster::start`]: the program's own binary, whose hidden subcommand becomes Postgres.
pub fn cluster_options() -> ClusterOptions {
    ClusterOptions {
        bin_dir: std::env::var_os("PG_BINDIR").map(PathBuf::from),
        path: std::env::var_os("PATH"),
        run_as: None,
        launcher: env!("CARGO_BIN_EXE_lamplighter").into(),
        ..ClusterOptions::default()
    }
}

/// A state directory that the user postgres can pass, gone with the value.
pub fn state_dir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::Builder::new().prefix("lamplighter-state-").tempdir_in("/tmp").unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// Clusters of test runs that are over: nothing runs at the end of a test process that could remove its own.
fn sweep() {
    for entry in std::fs::read_dir("/tmp").unwrap().flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && StateLock::acquire(&entry.path()).is_ok() {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn cluster_url() -> &'static str {
    CLUSTER.get_or_init(|| {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        // The cluster dies with the thread that started it: this one lives as long as the process.
        std::thread::spawn(move || {
            sweep();
            let dir = PathBuf::from(format!("/tmp/{PREFIX}{}", std::process::id()));
            let lock = StateLock::acquire(&dir).unwrap();
            let cluster = Cluster::start(&lock, &cluster_options()).unwrap();
            sender.send(cluster.url().expose().to_owned()).unwrap();
            loop {
                std::thread::park();
            }
        });
        receiver.recv().expect("the test cluster did not start")
    })
}

/// The URL of a database of the test cluster.
fn url_to(name: &str) -> String {
    cluster_url().replace("/lamplighter?", &format!("/{name}?"))
}

async fn admin(sql: String) {
    let mut conn = PgConnection::connect(&url_to("postgres")).await.unwrap();
    conn.execute(AssertSqlSafe(sql)).await.unwrap();
    conn.close().await.unwrap();
}

async fn template() {
    TEMPLATE_MADE
        .get_or_init(|| async {
            // Durability is not under test here, and costs most of the time.
            admin("ALTER SYSTEM SET fsync = off".to_owned()).await;
            admin("SELECT pg_reload_conf()".to_owned()).await;
            admin(format!("CREATE DATABASE {TEMPLATE}")).await;
            let store = store_at(&url_to(TEMPLATE), "us-east-1", "public");
            store.prepare(true).await.unwrap();
            store.close().await;
        })
        .await;
}

/// A store over a URL.
pub fn store_at(url: &str, region: &str, schema: &str) -> Store {
    Store::new(&StoreSettings {
        url: Secret::new(url),
        max_connections: 6,
        schema: schema.to_owned(),
        region: region.to_owned(),
    })
    .unwrap()
}

/// A database of one test, dropped with the value.
pub struct TestDb {
    name: String,
    pub url: String,
    /// Connections of somebody else: a web application, a person at psql.
    pub pool: PgPool,
}

impl TestDb {
    /// Migrated, without rows.
    pub async fn new() -> Self {
        template().await;
        Self::create(&format!("TEMPLATE {TEMPLATE}")).await
    }

    /// Nothing in it.
    pub async fn empty() -> Self {
        template().await;
        Self::create("").await
    }

    async fn create(how: &str) -> Self {
        let name = format!("test_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        admin(format!("CREATE DATABASE {name} {how}")).await;
        let url = url_to(&name);
        let pool = PgPool::connect(&url).await.unwrap();
        Self { name, url, pool }
    }

    /// A store with a lease, of the default region.
    pub async fn store(&self) -> Store {
        let store = store_at(&self.url, "us-east-1", "public");
        store.acquire("test", &Unrecorded::default()).await.unwrap();
        store
    }

    /// Runs SQL as somebody else.
    pub async fn sql(&self, sql: &str) {
        self.pool.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
    }

    /// One value, as somebody else.
    pub async fn get<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await.unwrap()
    }
}

/// A cluster of one test, which may be stopped, frozen and started again. Its database is empty at first.
pub struct OwnPostgres {
    dir: tempfile::TempDir,
    pub url: String,
    /// The cluster's life hangs on the thread that starts it: that one takes orders.
    orders: Option<std::sync::mpsc::SyncSender<(bool, std::sync::mpsc::SyncSender<()>)>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl OwnPostgres {
    pub fn start() -> Self {
        let dir = state_dir();
        let path = dir.path().to_owned();
        let (orders, taken) = std::sync::mpsc::sync_channel::<(bool, std::sync::mpsc::SyncSender<()>)>(1);
        let thread = std::thread::spawn(move || {
            let lock = StateLock::acquire(&path).unwrap();
            let mut cluster = None;
            while let Ok((run, done)) = taken.recv() {
                drop(cluster.take());
                cluster = run.then(|| Cluster::start(&lock, &cluster_options()).unwrap());
                let _ = done.send(());
            }
        });
        let own = Self { url: url_text(dir.path()), dir, orders: Some(orders), thread: Some(thread) };
        own.order(true);
        own
    }

    fn order(&self, run: bool) {
        let (done, finished) = std::sync::mpsc::sync_channel(1);
        self.orders.as_ref().unwrap().send((run, done)).unwrap();
        finished.recv().expect("the cluster did not start");
    }

    /// Stops it; connections are cut.
    pub fn stop(&self) {
        self.order(false);
    }

    /// Starts it again.
    pub fn resume(&self) {
        self.order(true);
    }

    /// Freezes every process of it (or lets them go on): connections stay, nobody answers.
    pub fn freeze(&self, frozen: bool) {
        let pid_file = std::fs::read_to_string(self.dir.path().join("postgres/data/postmaster.pid")).unwrap();
        let postmaster = pid_file.lines().next().unwrap().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{postmaster}/task/{postmaster}/children")).unwrap();
        let signal = if frozen { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        for pid in std::iter::once(postmaster.as_str()).chain(children.split_whitespace()) {
            let pid = rustix::process::Pid::from_raw(pid.parse().unwrap()).unwrap();
            // One may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// One value; a connection each, because they are cut.
    pub async fn get<T>(&self, sql: &str) -> T
    where
        T: Send + Unpin + for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        let value = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut conn).await.unwrap();
        conn.close().await.unwrap();
        value
    }

    pub async fn sql(&self, sql: &str) {
        let mut conn = PgConnection::connect(&self.url).await.unwrap();
        conn.execute(AssertSqlSafe(sql.to_owned())).await.unwrap();
        conn.close().await.unwrap();
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        self.orders.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // A thread of its own: the test's runtime cannot be entered twice.
        let done = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(admin(sql));
        });
        let _ = done.join();
    }
}

/// The URL of the cluster of a state directory, as text.
pub fn url_text(dir: &Path) -> String {
    url_of(dir).expose().to_owned()
}
