//! On paused time; probes that misbehave.

use std::cell::RefCell;
use std::path::Path;

use futures_util::future::BoxFuture;

use super::*;
use crate::model::{Cadence, Flap, HttpFacts, Monitor, MonitorId, SYSTEM_USER, Source};
use crate::probe::net::{EgressOptions, NetOptions};
use crate::probe::{Prepared, Probe};
use crate::settings::diagnostic::Findings;
use crate::settings::reader::{Origin, TableReader};
use crate::settings::tree::Table;
use crate::shutdown;
use crate::verdict::expectation::{Accepts, Expectations};

const TIMEOUT: Duration = Duration::from_secs(10);

/// What a probe does.
#[derive(Clone, Copy)]
enum Act {
    Answers,
    AnswersAfter(Duration),
    PanicsAtOnce,
    PanicsLater,
    NeverEnds,
}

impl Probe for Act {
    fn probe<'a>(&'a self, context: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        assert!(!matches!(self, Self::PanicsAtOnce), "as the test wants");
        Box::pin(async {
            match self {
                Self::AnswersAfter(time) => tokio::time::sleep(*time).await,
                Self::PanicsLater => {
                    tokio::task::yield_now().await;
                    panic!("as the test wants");
                }
                Self::NeverEnds => std::future::pending().await,
                Self::Answers | Self::PanicsAtOnce => {}
            }
            Observation::new(context.started_at)
        })
    }
}

#[derive(Default)]
struct Kept(std::sync::Mutex<Vec<Record>>);

impl Journal for Kept {
    fn append(&self, records: Vec<Record>) {
        self.0.lock().unwrap().extend(records);
    }
}

struct Stopped;

impl Wall for Stopped {
    fn now(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }
}

fn entry(act: Act, expect: Expectations) -> Arc<Entry> {
    let monitor = Monitor {
        id: MonitorId(uuid::Uuid::from_u128(1)),
        owner: SYSTEM_USER,
        key: None,
        name: "m".into(),
        url: "http://m/".into(),
        kind: "http",
        source: Source::File,
        cadence: Cadence::Every(Duration::from_secs(30)),
        timeout: TIMEOUT,
        confirmations: 2,
        recoveries: 1,
        retry_interval: Duration::from_secs(10),
        flap: Flap::default(),
        active: true,
        tags: Box::default(),
        depends_on: Box::default(),
    };
    let prepared = Prepared { probe: Arc::new(act), expect: expect.shared() };
    Arc::new(Entry { monitor, prepared, fingerprint: 0, secrets: Arc::default() })
}

fn net() -> Arc<ArcSwap<Net>> {
    let net = Net::new(NetOptions {
        resolvers: vec!["127.0.0.1:9".parse().unwrap()],
        ca_files: Vec::new(),
        egress: EgressOptions::default(),
        user_agent: "test".to_owned(),
        max_body: 1024,
    });
    Arc::new(ArcSwap::from_pointee(net.unwrap()))
}

/// The one result of a check.
async fn result(act: Act) -> Finished {
    let (finished, mut results) = mpsc::channel(4);
    let journal = Arc::new(Kept::default());
    let pool = Pool {
        net: net(),
        wall: Arc::new(Stopped),
        finished,
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
        grace: TIMEOUT,
    };
    let (send, due) = mpsc::channel(1);
    let (_trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(pool.run(due, shutdown));
    let check = Due { entry: entry(act, Expectations::default()), attempt: 3, due_at: Instant::now() };
    assert!(send.send(check).await.is_ok());
    let result = results.recv().await.expect("a result comes");
    drop(send);
    running.await.unwrap();
    assert!(results.recv().await.is_none(), "one result a check");
    assert!(journal.0.lock().unwrap().is_empty(), "what ended is no gap");
    result
}

fn internal_message(finished: &Finished) -> &str {
    assert_eq!((finished.check.failure, finished.check.attempt), (Some(Failure::Internal), 3));
    finished.check.message.as_deref().unwrap()
}

#[tokio::test(start_paused = true)]
async fn every_check_gives_one_result_that_says_what_happened() {
    assert_eq!(result(Act::Answers).await.check.failure, None);
    for act in [Act::PanicsAtOnce, Act::PanicsLater] {
        assert!(internal_message(&result(act).await).contains("probe panicked"));
    }
    assert!(internal_message(&result(Act::NeverEnds).await).contains("overran"));
    let late = Act::AnswersAfter(TIMEOUT + STANDSTILL + Duration::from_millis(100));
    assert!(internal_message(&result(late).await).contains("stood still"));
}

fn reading_the_body() -> Expectations {
    let json = serde_json::json!({ "expect": { "body_contains": "ok" } });
    let own = Table::from_json(json.as_object().unwrap());
    let (findings, secrets) = (Findings::default(), RefCell::new(Vec::new()));
    let origin = Origin { trusted: true, env: &|_| None, base: Path::new("/"), credentials: None };
    let mut reader = TableReader::new(&own, None, "monitor", &origin, &findings, &secrets);
    let accepts =
        Accepts { status: true, body: true, headers: true, json: true, certificate: true, dns: false, domain: false };
    Expectations::read(&mut reader, accepts)
}

#[tokio::test]
async fn a_panic_in_judging_is_a_result() {
    let body_rule = reading_the_body();
    assert!(body_rule.reads_body());
    for (expect, body) in [(Expectations::default(), 0), (body_rule, HEAVY_BODY_BYTES + 1)] {
        let mut observation = Observation::new(DateTime::UNIX_EPOCH);
        observation.http = Some(HttpFacts { body: vec![b'x'; body].into(), ..HttpFacts::default() });
        let entry = entry(Act::Answers, expect);
        let judging = judged(entry, 3, observation, Instant::now(), |_, _, _| panic!("as the test wants"));
        let finished = judging.await.expect("a result comes");
        assert!(internal_message(&finished).contains("judging the check panicked"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_check_that_the_shutdown_cuts_off_is_a_gap_from_its_start() {
    let (finished, mut results) = mpsc::channel(4);
    let journal = Arc::new(Kept::default());
    let grace = Duration::from_secs(1);
    let pool = Pool {
        net: net(),
        wall: Arc::new(Stopped),
        finished,
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
        grace,
    };
    let (send, due) = mpsc::channel(2);
    let (trigger, shutdown) = shutdown::channel();
    let running = tokio::spawn(pool.run(due, shutdown));
    for act in [Act::AnswersAfter(grace / 2), Act::NeverEnds] {
        let check = Due { entry: entry(act, Expectations::default()), attempt: 1, due_at: Instant::now() };
        assert!(send.send(check).await.is_ok());
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    trigger.fire();
    running.await.unwrap();
    assert!(results.recv().await.is_some(), "who ends in time is heard");
    assert!(results.recv().await.is_none());
    let (monitor, at) = (MonitorId(uuid::Uuid::from_u128(1)), DateTime::UNIX_EPOCH);
    let gap = Gap { monitor: Some(monitor), from_at: at, to_at: at, reason: GapReason::NotRunning };
    assert_eq!(*journal.0.lock().unwrap(), [Record::Gap(gap)]);
}
