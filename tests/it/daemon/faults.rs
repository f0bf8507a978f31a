//! Postgres is there and does not do what it should: refuses, is read-only, slow, locked, cuts connections. No check is
//! late for it, and every result arrives, in order, once it is over.

use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, PgConnection};

use super::{MOST, monitor, on};
use crate::support::daemon::{Daemon, Home, has_code};
use crate::support::postgres::OwnPostgres;
use crate::support::target::{Target, until};

const MONITORS: usize = 5;
/// Results that every monitor has under each fault: longer than the deadlines of the shorter statements.
const CHECKS: usize = 7;

const TERMINATE: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()";
const IN_ORDER: &str = "SELECT count(*) FROM (SELECT checked_at < lag(checked_at) OVER (PARTITION BY monitor_id ORDER BY id) \
    AS late FROM monitor_checks) c WHERE late";

struct Scene {
    server: OwnPostgres,
    target: Target,
    daemon: Daemon,
}

impl Scene {
    /// A connection of the operator, past every fault.
    async fn operator(&self) -> PgConnection {
        let options: PgConnectOptions = self.server.url.parse().unwrap();
        let options = options.database("postgres").options([("default_transaction_read_only", "off")]);
        options.connect().await.unwrap()
    }

    async fn operate(&self, statements: &[&str]) {
        let mut conn = self.operator().await;
        for sql in statements {
            conn.execute(AssertSqlSafe((*sql).to_owned())).await.unwrap();
        }
        conn.close().await.unwrap();
    }

    async fn checks_go_on(&self, meanwhile: impl AsyncFn()) {
        let before: Vec<usize> = (0..MONITORS).map(|n| self.target.hits(&format!("/{n}"))).collect();
        until("checks go on", MOST, async || {
            meanwhile().await;
            let on = |(n, before): (usize, &usize)| self.target.hits(&format!("/{n}")) >= before + CHECKS;
            before.iter().enumerate().all(on).then_some(())
        })
        .await;
    }

    async fn told(&self, what: &str) {
        self.daemon.wait_ready(what, |status, body| status == 503 && has_code(body, "store_away")).await;
    }

    async fn caught_up(&self, what: &str) {
        let asked = self.target.all_answers();
        self.daemon.wait_ready(what, |status, _| status == 200).await;
        until(&format!("{what}: every result is there"), MOST, async || {
            let rows: i64 = self.server.get("SELECT count(*) FROM monitor_checks").await;
            (usize::try_from(rows).unwrap() >= asked).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_of_postgres_makes_a_check_late_or_loses_a_result() {
    let server = OwnPostgres::start();
    let target = Target::start().await;
    let monitors: String = (0..MONITORS).map(|n| monitor(&format!("m{n}"), &target.url(&format!("/{n}")))).collect();
    let home = Home::new(&on(&server.url, &monitors));
    let daemon = home.start();
    let mut scene = Scene { server, target, daemon };
    scene.caught_up("it began").await;
    let nothing = async || {};

    // Refuses connections, and the old ones are cut.
    scene.operate(&["ALTER DATABASE lamplighter WITH ALLOW_CONNECTIONS false", TERMINATE]).await;
    scene.told("connections are refused").await;
    scene.checks_go_on(nothing).await;
    scene.operate(&["ALTER DATABASE lamplighter WITH ALLOW_CONNECTIONS true"]).await;
    scene.caught_up("after connections were refused").await;

    // Read-only, as a standby that was not promoted yet.
    scene.operate(&["ALTER SYSTEM SET default_transaction_read_only = on", "SELECT pg_reload_conf()"]).await;
    scene.told("it is read-only").await;
    scene.checks_go_on(nothing).await;
    scene.operate(&["ALTER SYSTEM RESET default_transaction_read_only", "SELECT pg_reload_conf()"]).await;
    scene.caught_up("after it was read-only").await;

    // Slow: every batch takes longer than results take to make another.
    scene
        .server
        .sql(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.5); RETURN new; END'; \
             CREATE TRIGGER slow BEFORE INSERT ON recorded_batches FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    scene.checks_go_on(nothing).await;
    scene.server.sql("DROP TRIGGER slow ON recorded_batches; DROP FUNCTION slow()").await;
    scene.caught_up("after it was slow").await;

    // A person's lock on the biggest table.
    let mut person = PgConnection::connect(&scene.server.url).await.unwrap();
    person.execute("BEGIN; LOCK TABLE monitor_checks IN ACCESS EXCLUSIVE MODE").await.unwrap();
    scene.checks_go_on(nothing).await;
    person.execute("ROLLBACK").await.unwrap();
    person.close().await.unwrap();
    scene.caught_up("after a table was locked").await;

    // Connections are cut again and again, also between a COMMIT and its answer.
    let operator = tokio::sync::Mutex::new(scene.operator().await);
    scene
        .checks_go_on(async || {
            operator.lock().await.execute(TERMINATE).await.unwrap();
        })
        .await;
    scene.caught_up("after connections were cut").await;

    assert_eq!(scene.daemon.stop().await.code(), Some(0));
    let answers = i64::try_from(scene.target.all_answers()).unwrap();
    assert_eq!(scene.server.get::<i64>("SELECT count(*) FROM monitor_checks").await, answers, "each once");
    assert_eq!(scene.server.get::<i64>(IN_ORDER).await, 0, "in the order of happening");
    assert_eq!(scene.server.get::<i64>("SELECT count(*) FROM monitor_gaps").await, 0);
    assert_eq!(scene.server.get::<i64>("SELECT count(*) FROM incidents").await, 0);
    for (path, times) in scene.target.times() {
        // The first comes at once, not in the monitor's phase.
        for pair in times[1..].windows(2).skip(1) {
            let gap = (pair[1] - pair[0]).num_milliseconds();
            assert!((500..1800).contains(&gap), "{path} was asked after {gap} ms: {times:?}");
        }
    }
}
