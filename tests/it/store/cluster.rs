//! The private cluster: made, killed, recovered, refused.

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use lamplighter::store::cluster::{Binaries, Cluster, ClusterError, ClusterOptions, StateLock};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use sqlx::{Connection as _, Executor as _, PgConnection};

use crate::support::postgres::{cluster_options, state_dir, url_text};

fn pid(raw: u32) -> Pid {
    Pid::from_raw(i32::try_from(raw).unwrap()).unwrap()
}

/// Gone, or waiting for an init that does not reap.
fn is_over(pid: u32) -> bool {
    std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default().is_empty()
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(30), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn run(url: &str, sql: &'static str) -> Option<i64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut conn = PgConnection::connect(url).await.ok()?;
        if sql.starts_with("SELECT") {
            return sqlx::query_scalar(sql).fetch_one(&mut conn).await.ok();
        }
        conn.execute(sql).await.ok().map(|_| 0)
    })
}

#[test]
fn it_starts_survives_kill_9_and_stops() {
    let dir = state_dir();
    let lock = StateLock::acquire(dir.path()).unwrap();
    let began = Instant::now();
    let mut cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    println!("first start {:?}", began.elapsed());
    let url = cluster.url().expose().to_owned();
    assert_eq!(url, url_text(dir.path()));
    run(&url, "CREATE TABLE kept (n bigint)").unwrap();
    run(&url, "INSERT INTO kept VALUES (42)").unwrap();
    assert!(cluster.exited().is_none());

    // The postmaster is killed: noticed, and the next start recovers although the pid file is stale.
    kill_process(pid(cluster.pid()), Signal::KILL).unwrap();
    wait_until("the death is noticed", || cluster.exited().is_some());
    drop(cluster);
    assert!(dir.path().join("postgres/data/postmaster.pid").exists());
    let began = Instant::now();
    let mut cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    println!("start after kill -9 {:?}", began.elapsed());
    assert_eq!(run(&url, "SELECT n FROM kept"), Some(42));

    // A clean end removes the pid file; a pid file of a stranger's process is no obstacle.
    let postmaster = pid(cluster.pid());
    cluster.stop();
    assert!(test_kill_process(postmaster).is_err());
    let pid_file = dir.path().join("postgres/data/postmaster.pid");
    assert!(!pid_file.exists());
    std::fs::write(&pid_file, format!("{}\n/x\n1\n5432\n/x\n\n\nready\n", std::process::id())).unwrap();
    let cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    assert_eq!(run(&url, "SELECT n FROM kept"), Some(42));
    drop(cluster);
}

#[test]
fn half_an_initdb_is_cleared_away() {
    let top = state_dir();
    // So long that the socket needs a place of its own.
    let dir = top.path().join("x".repeat(90));
    let lock = StateLock::acquire(&dir).unwrap();
    drop(Cluster::start(&lock, &cluster_options()).unwrap());
    // As a kill in the middle leaves it: no data yet, and a folder beside it.
    let folder = dir.join("postgres");
    std::fs::rename(folder.join("data"), folder.join("data.new")).unwrap();
    std::fs::remove_file(folder.join("data.new/PG_VERSION")).unwrap();
    let cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    assert_eq!(run(cluster.url().expose(), "SELECT 1::bigint"), Some(1));
    assert!(!folder.join("data.new").exists());
    let socket =
        std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap().lines().nth(4).unwrap().to_owned();
    assert!(socket.starts_with("/tmp/lamplighter-"), "{socket}");
    drop(cluster);
    std::fs::remove_dir_all(socket).unwrap();
}

/// Run by the test below in a process of its own, so that it can be killed.
#[test]
#[ignore = "not a test by itself: the parent that is killed"]
fn parent_that_is_killed() {
    let Ok(dir) = std::env::var("LAMPLIGHTER_TEST_STATE") else { return };
    let lock = StateLock::acquire(dir.as_ref()).unwrap();
    let cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    println!("pid={}", cluster.pid());
    loop {
        std::thread::park();
    }
}

#[test]
fn it_dies_with_its_parent_and_a_second_run_is_refused() {
    let dir = state_dir();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["store::cluster::parent_that_is_killed", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("LAMPLIGHTER_TEST_STATE", dir.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let postmaster = lines
        .find_map(|line| line.unwrap().rsplit_once("pid=").and_then(|(_, pid)| pid.parse::<u32>().ok()))
        .expect("the parent started no cluster");

    let refused = StateLock::acquire(dir.path()).unwrap_err();
    assert!(matches!(&refused, ClusterError::Running { pid, .. } if *pid == parent.id()), "{refused}");
    assert!(refused.to_string().contains(&parent.id().to_string()));

    let url = url_text(dir.path());
    run(&url, "CREATE TABLE kept (n bigint)").unwrap();
    parent.kill().unwrap();
    parent.wait().unwrap();
    // At once, while the old postmaster may still be stopping.
    let lock = StateLock::acquire(dir.path()).unwrap();
    let cluster = Cluster::start(&lock, &cluster_options()).unwrap();
    assert!(is_over(postmaster), "the child outlived its parent");
    assert_eq!(run(&url, "SELECT count(*) FROM kept"), Some(0));
    drop(cluster);
}

#[test]
fn what_is_missing_is_named() {
    let dir = state_dir();
    let lock = StateLock::acquire(dir.path()).unwrap();
    let nowhere = ClusterOptions { bin_dir: Some("/nonexistent".into()), ..cluster_options() };
    let error = Cluster::start(&lock, &nowhere).unwrap_err();
    assert!(matches!(error, ClusterError::NoBinaries(_)) && error.exit_code() == 69, "{error}");
    for install in ["apt-get install postgresql", "dnf install postgresql-server", "apk add postgresql"] {
        assert!(error.to_string().contains(install), "{error}");
    }

    let data = dir.path().join("postgres/data");
    std::fs::create_dir_all(&data).unwrap();
    std::fs::write(data.join("PG_VERSION"), "9\n").unwrap();
    let error = Cluster::start(&lock, &cluster_options()).unwrap_err();
    assert_eq!(error.exit_code(), 73, "{error}");
    assert!(!Binaries::find(&cluster_options()).is_empty());

    if rustix::process::geteuid().is_root() {
        let missing = ClusterOptions { run_as: Some("no-such-user".to_owned()), ..cluster_options() };
        let error = Cluster::start(&lock, &missing).unwrap_err();
        assert!(matches!(error, ClusterError::NoUser(_)), "{error}");
        let closed = tempfile::tempdir_in("/tmp").unwrap();
        std::fs::set_permissions(closed.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
        let lock = StateLock::acquire(&closed.path().join("state")).unwrap();
        let error = Cluster::start(&lock, &cluster_options()).unwrap_err();
        assert!(matches!(&error, ClusterError::OutOfReach { path, .. } if path == closed.path()), "{error}");
        assert_eq!(error.exit_code(), 73);
    }
}

/// A command of root's on the state directory of a service, and the service after it.
#[test]
fn as_root_a_command_leaves_all_to_the_owner_of_the_directory() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (dir, nobody) = (state_dir(), 65534);
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    chown(dir.path(), Some(nobody), Some(nobody)).unwrap();
    let lock = StateLock::acquire(dir.path()).unwrap();
    let error = Cluster::start(&lock, &cluster_options()).unwrap_err();
    assert!(matches!(&error, ClusterError::OutOfReach { path, .. } if path == dir.path()), "{error}");
    let as_owner = ClusterOptions { as_owner: true, ..cluster_options() };
    let cluster = Cluster::start(&lock, &as_owner).unwrap();
    run(cluster.url().expose(), "CREATE TABLE kept (n bigint)").unwrap();
    drop(cluster);
    for name in ["lock", "postgres", "postgres/start.log", "postgres/data", "postgres/data/PG_VERSION"] {
        assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().uid(), nobody, "{name}");
    }

    // The owner may have put links there: they lead root nowhere.
    let elsewhere = dir.path().join("elsewhere");
    std::fs::write(&elsewhere, "root's").unwrap();
    let log = dir.path().join("postgres/start.log");
    std::fs::remove_file(&log).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &log).unwrap();
    drop(Cluster::start(&lock, &as_owner).unwrap());
    drop(lock);
    std::fs::remove_file(dir.path().join("lock")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, dir.path().join("lock")).unwrap();
    let error = StateLock::acquire(dir.path()).unwrap_err();
    assert_eq!(error.exit_code(), 73, "{error}");
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "root's");
    assert_eq!(std::fs::metadata(&elsewhere).unwrap().uid(), 0);
}

#[test]
fn data_of_another_major_version_are_refused() {
    let dir = state_dir();
    let lock = StateLock::acquire(dir.path()).unwrap();
    drop(Cluster::start(&lock, &cluster_options()).unwrap());
    std::fs::write(dir.path().join("postgres/data/PG_VERSION"), "13\n").unwrap();
    let error = Cluster::start(&lock, &cluster_options()).unwrap_err();
    assert!(matches!(error, ClusterError::OtherMajor { found: 13, .. }) && error.exit_code() == 73, "{error}");
    assert!(error.to_string().contains("db dump"), "{error}");
}
