//! Heartbeats: what a ping, and silence, makes of them.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::probe::driven::{Driven, Group, Heartbeat, Member, PingToken, Require};
use crate::verdict::pulse::{Ping, Signal};

use super::*;

struct Beats(Heartbeat);

impl Probe for Beats {
    fn driven(&self) -> Driven<'_> {
        Driven::Pings(&self.0)
    }

    fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        unreachable!("nobody probes a heartbeat")
    }
}

/// Goes with tokio's clock, and can be set.
struct Running(Instant, AtomicI64);

impl Wall for Running {
    fn now(&self) -> DateTime<Utc> {
        let passed = TimeDelta::from_std(self.0.elapsed()).unwrap();
        at(0) + passed + TimeDelta::seconds(self.1.load(Ordering::Relaxed))
    }
}

const MINUTE: Duration = Duration::from_secs(60);

fn beats(number: u128, change: impl FnOnce(&mut Monitor, &mut Heartbeat)) -> Arc<Entry> {
    let mut rules = Heartbeat { period: Some(MINUTE), grace: Some(MINUTE / 6), max_run: None, token: None };
    let mut own = Monitor { kind: "heartbeat", url: "heartbeat:".into(), confirmations: 1, ..monitor(number) };
    change(&mut own, &mut rules);
    let prepared = Prepared { probe: Arc::new(Beats(rules)), expect: Expectations::default().shared() };
    Arc::new(Entry { monitor: own, prepared, fingerprint: 0, secrets: Arc::default() })
}

fn say(signal: Signal) -> Ping {
    Ping { signal, rid: None, took: None, text: "".into() }
}

async fn bench(entries: &[&Arc<Entry>]) -> (Bench, Arc<Running>) {
    let wall = Arc::new(Running(Instant::now(), AtomicI64::new(0)));
    let bench = Bench::start_by(Arc::clone(&wall) as Arc<dyn Wall>);
    let added = entries.iter().map(|entry| (Arc::clone(entry), MonitorState::default())).collect();
    bench.update(Changes { added, ..Changes::default() }).await;
    (bench, wall)
}

impl Bench {
    async fn ping(&self, number: u128, signal: Signal) -> Pinged {
        self.pings.deliver(&id(number).to_string(), say(signal)).await
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_ping_is_awaited_silently_and_then_silence_is_told_to_the_second() {
    let entry = beats(1, |_, _| {});
    let (bench, _) = bench(&[&entry]).await;
    tokio::time::sleep(MINUTE * 60).await;
    assert_eq!(bench.records(), [""; 0]);
    assert_eq!(bench.board.row(id(1)).unwrap().shown, Status::Pending);
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["up state:up"]);
    tokio::time::sleep(Duration::from_secs(69)).await;
    assert_eq!(bench.records(), [""; 0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.records(), ["down open:3670 state:down"]);
    let row = bench.board.row(id(1)).unwrap();
    assert_eq!(row.latest.unwrap().failure, Some(Failure::HeartbeatMissed));
    // One check a period, as pings would have made.
    tokio::time::sleep(MINUTE * 3).await;
    assert_eq!(bench.records(), ["down state:down"; 3]);
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["up resolve:recovered state:up"]);
    tokio::time::sleep(Duration::from_secs(69)).await;
    assert_eq!(bench.records(), [""; 0], "the period begins with the ping");
}

#[tokio::test(start_paused = true)]
async fn starts_and_logs_make_no_check_and_a_failure_makes_a_bad_one() {
    let entry = beats(1, |_, rules| rules.max_run = Some(MINUTE * 5));
    let (bench, _) = bench(&[&entry]).await;
    assert_eq!(bench.ping(1, Signal::Log).await, Pinged::Recorded);
    assert_eq!(bench.records(), [""; 0]);
    assert_eq!(bench.ping(1, Signal::Start).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["state:pending"], "a start survives as well");
    tokio::time::sleep(MINUTE * 4).await;
    assert_eq!(bench.records(), [""; 0], "a run within its time is not silent");
    assert_eq!(bench.ping(1, Signal::Exit(3)).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["down open:240 state:down"]);
    let latest = bench.board.row(id(1)).unwrap().latest.unwrap();
    assert_eq!((latest.failure, latest.response_time_ms), (Some(Failure::HeartbeatFailed), 240_000));
    assert_eq!(bench.ping(1, Signal::Start).await, Pinged::Recorded);
    tokio::time::sleep(MINUTE * 5 + Duration::from_secs(1)).await;
    assert_eq!(bench.records(), ["state:down", "down state:down"]);
    let latest = bench.board.row(id(1)).unwrap().latest.unwrap();
    assert_eq!((latest.failure, latest.response_time_ms), (Some(Failure::HeartbeatOverran), 300_000));
    assert_eq!(bench.ping(1, Signal::Exit(0)).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["up resolve:recovered state:up"]);
}

#[tokio::test(start_paused = true)]
async fn a_definition_may_want_more_than_one_look() {
    let entry = beats(1, |monitor, _| (monitor.confirmations, monitor.recoveries) = (2, 2));
    let (bench, _) = bench(&[&entry]).await;
    assert_eq!(bench.ping(1, Signal::Fail).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["down state:pending"]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.records(), ["down open:0 state:down"]);
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Recorded);
    assert_eq!(bench.records(), ["up state:down"]);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.records(), ["up resolve:recovered state:up"]);
    // News come before the second look.
    bench.ping(1, Signal::Fail).await;
    bench.ping(1, Signal::Success).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.records(), ["down state:up", "up state:up"]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_acknowledged_from_memory() {
    let entry = beats(1, |_, _| {});
    let (bench, _) = bench(&[&entry]).await;
    bench.journal.1.store(true, Ordering::Relaxed);
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Away);
    assert_eq!(bench.ping(1, Signal::Start).await, Pinged::Away);
    bench.journal.1.store(false, Ordering::Relaxed);
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Recorded);
}

#[tokio::test(start_paused = true)]
async fn a_restart_goes_on_and_does_not_accuse() {
    let entry = beats(1, |_, rules| rules.max_run = Some(MINUTE));
    let (bench, _) = bench(&[&entry]).await;
    bench.ping(1, Signal::Success).await;
    bench.ping(1, Signal::Start).await;
    let (ask, told) = tokio::sync::oneshot::channel();
    bench.states.send(StatesRequest::Of(vec![id(1)], ask)).await.unwrap();
    let (_, state) = told.await.unwrap().remove(0);
    assert_eq!(state.heard.as_ref().unwrap().runs.len(), 1);
    for (away, quiet) in [(20, 49), (40, 69), (4000, 69)] {
        let wall = Arc::new(Running(Instant::now(), AtomicI64::new(away)));
        let bench = Bench::start_by(wall);
        let added = vec![(Arc::clone(&entry), state.clone())];
        bench.update(Changes { added, ..Changes::default() }).await;
        tokio::time::sleep(Duration::from_secs(quiet)).await;
        assert_eq!(bench.records(), [""; 0], "{away}: a lost ping, and the end of the run, may have come meanwhile");
        tokio::time::sleep(Duration::from_secs(2)).await;
        let since = if away == 20 { 70 } else { away + 70 };
        assert_eq!(bench.records(), [format!("down open:{since} state:down")], "{away}");
    }
    let wall = Arc::new(Running(Instant::now(), AtomicI64::new(30)));
    let bench = Bench::start_by(wall);
    bench.update(Changes { added: vec![(Arc::clone(&entry), state)], ..Changes::default() }).await;
    bench.ping(1, Signal::Success).await;
    let latest = bench.board.row(id(1)).unwrap().latest.unwrap();
    assert_eq!(latest.response_time_ms, 30_000, "the run is timed over the restart");
}

#[tokio::test(start_paused = true)]
async fn pauses_removals_and_new_definitions() {
    let entry = beats(1, |_, _| {});
    let (bench, _) = bench(&[&entry]).await;
    bench.ping(1, Signal::Success).await;
    bench.records();
    let paused = beats(1, |monitor, _| monitor.active = false);
    bench.update(Changes { changed: vec![paused], ..Changes::default() }).await;
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Paused);
    tokio::time::sleep(MINUTE * 10).await;
    bench.records();
    bench.update(Changes { changed: vec![Arc::clone(&entry)], ..Changes::default() }).await;
    bench.records();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(bench.records(), [""; 0], "nobody listened in the pause");
    // The same rules under another name go on as they were.
    let renamed = beats(1, |monitor, _| monitor.name = "other".into());
    bench.update(Changes { changed: vec![renamed], ..Changes::default() }).await;
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(bench.records(), ["down open:670 state:down"]);
    let secret = beats(1, |_, rules| rules.token = Some(PingToken::of("0123456789abcdef")));
    bench.update(Changes { changed: vec![secret], ..Changes::default() }).await;
    assert_eq!(bench.ping(1, Signal::Success).await, Pinged::Unknown);
    assert_eq!(bench.pings.deliver("0123456789abcdef", say(Signal::Success)).await, Pinged::Recorded);
    bench.records();
    bench.update(Changes { removed: vec![(id(1), Removal::Deleted)], ..Changes::default() }).await;
    assert_eq!(bench.pings.deliver("0123456789abcdef", say(Signal::Success)).await, Pinged::Unknown);
    tokio::time::sleep(MINUTE * 10).await;
    assert_eq!(bench.records(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_follows_the_wall_clock() {
    // 22:13:20 UTC.
    let entry = beats(1, |monitor, rules| {
        rules.period = None;
        monitor.cadence = Cadence::Cron { expression: "30 22 * * *".into(), zone: chrono_tz::UTC, window: None };
    });
    let (bench, wall) = bench(&[&entry]).await;
    bench.ping(1, Signal::Success).await;
    bench.records();
    // Set forward over the time of the job: nobody saw that time.
    wall.1.store(1200, Ordering::Relaxed);
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(bench.records(), [""; 0]);
    // Set right again: 22:18, and the job is due at 22:30.
    wall.1.store(0, Ordering::Relaxed);
    tokio::time::sleep(MINUTE * 11).await;
    assert_eq!(bench.records(), [""; 0]);
    // 22:29:20 now, and 22:30:12 then: the grace has ended at 22:30:10.
    tokio::time::sleep(Duration::from_secs(52)).await;
    assert_eq!(bench.records(), ["down open:1010 state:down"]);
    assert_eq!(bench.board.row(id(1)).unwrap().latest.unwrap().checked_at, at(1010));
    tokio::time::sleep(MINUTE * 60 * 24).await;
    assert_eq!(bench.records(), ["down state:down"], "one check an occurrence");
}

#[tokio::test(start_paused = true)]
async fn whoever_stood_still_does_not_accuse() {
    let entry = beats(1, |_, _| {});
    let (bench, _) = bench(&[&entry]).await;
    bench.ping(1, Signal::Success).await;
    bench.records();
    tokio::time::sleep(Duration::from_secs(60)).await;
    tokio::time::advance(Duration::from_secs(30)).await;
    tokio::time::sleep(Duration::from_secs(69)).await;
    assert_eq!(bench.records(), [""; 0]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.records(), ["down open:160 state:down"]);
}

struct Members(Group);

impl Probe for Members {
    fn driven(&self) -> Driven<'_> {
        Driven::Members(&self.0)
    }

    fn probe<'a>(&'a self, _: &'a ProbeContext<'a>) -> BoxFuture<'a, Observation> {
        unreachable!("nobody probes a group")
    }
}

fn group(number: u128, members: &[&str], require: Require, change: impl FnOnce(&mut Monitor)) -> Arc<Entry> {
    let key = |text: &&str| Member::Key(text.parse().unwrap());
    let rules = Group { members: members.iter().map(key).collect(), require };
    let mut own = Monitor { kind: "group", url: "group:".into(), confirmations: 1, ..keyed(number) };
    own.cadence = Cadence::Every(MINUTE * 5);
    change(&mut own);
    let prepared = Prepared { probe: Arc::new(Members(rules)), expect: Expectations::default().shared() };
    Arc::new(Entry { monitor: own, prepared, fingerprint: 0, secrets: Arc::default() })
}

fn keyed(number: u128) -> Monitor {
    Monitor { key: Some(format!("m{number}").parse().unwrap()), confirmations: 1, ..monitor(number) }
}

fn status(bench: &Bench, number: u128) -> Status {
    bench.board.row(id(number)).unwrap().shown
}

#[tokio::test(start_paused = true)]
async fn a_group_follows_its_members_within_two_seconds() {
    let (a, b) = (entry(keyed(1)), entry(keyed(2)));
    let any = group(3, &["m1", "m2"], Require::Any, |_| {});
    // A group of a group.
    let all = group(4, &["m3", "m1"], Require::All, |_| {});
    let (mut bench, _) = bench(&[&a, &b, &any, &all]).await;
    tokio::time::sleep(MINUTE * 10).await;
    assert_eq!(bench.records(), [""; 0], "no member counts yet");
    let settle = || tokio::time::sleep(Duration::from_secs(2));
    bench.check(result(&a, 700, None)).await;
    bench.check(result(&b, 700, None)).await;
    settle().await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Up, Status::Up));
    bench.check(result(&a, 710, DOWN)).await;
    settle().await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Up, Status::Down));
    let latest = bench.board.row(id(4)).unwrap().latest.unwrap();
    assert_eq!(latest.failure, Some(Failure::MemberDown));
    assert_eq!(latest.message.as_deref(), Some("down: m1 (2 of 2 must work)"));
    bench.records();
    bench.check(result(&a, 720, DOWN)).await;
    settle().await;
    assert_eq!(bench.records(), ["down"], "what does not change the group is no check of it");
    bench.check(result(&b, 730, DOWN)).await;
    settle().await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Down, Status::Down));
    bench.records();
    tokio::time::sleep(MINUTE * 5).await;
    assert_eq!(bench.records().len(), 2, "each has a check at its interval");
    // Paused ones are left out, removed ones are unknown.
    let paused = entry(Monitor { active: false, ..keyed(1) });
    bench.update(Changes { changed: vec![paused], ..Changes::default() }).await;
    bench.check(result(&b, 1200, None)).await;
    settle().await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Up, Status::Up));
    bench.update(Changes { removed: vec![(id(1), Removal::Archived)], ..Changes::default() }).await;
    settle().await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Up, Status::Unknown));
    let (changed, removed) = (vec![], vec![(id(3), Removal::Deleted), (id(4), Removal::Deleted)]);
    bench.update(Changes { changed, removed, ..Changes::default() }).await;
    bench.records();
    tokio::time::sleep(MINUTE * 60).await;
    assert_eq!(bench.records(), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_row_names_monitors_of_its_owner_only() {
    let own = |number| Monitor { source: Source::Database, ..keyed(number) };
    let (a, b) = (entry(own(1)), entry(Monitor { owner: crate::model::UserId(Uuid::from_u128(9)), ..own(2) }));
    let mine = group(3, &["m1"], Require::All, |monitor| monitor.source = Source::Database);
    let other = group(4, &["m2"], Require::All, |monitor| monitor.source = Source::Database);
    let (mut bench, _) = bench(&[&a, &b, &mine, &other]).await;
    bench.check(result(&a, 0, None)).await;
    bench.check(result(&b, 0, None)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((status(&bench, 3), status(&bench, 4)), (Status::Up, Status::Unknown));
}
