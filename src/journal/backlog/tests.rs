use chrono::TimeDelta;
use uuid::Uuid;

use super::*;
use crate::model::{Check, Resolution, ResolveReason, Timings, Verdict};

fn at(second: i64) -> DateTime<Utc> {
    DateTime::<Utc>::UNIX_EPOCH + TimeDelta::seconds(second)
}

fn check(monitor: u128, second: i64) -> Record {
    Record::Check(Check {
        monitor: MonitorId(Uuid::from_u128(monitor)),
        verdict: Verdict::Up,
        failure: None,
        message: None,
        status_code: None,
        timings: Timings::default(),
        address: None,
        http_version: None,
        certificate: None,
        details: None,
        attempt: 1,
        checked_at: at(second),
    })
}

fn resolve(monitor: u128) -> Record {
    Record::Resolve(Resolution {
        uid: Uuid::from_u128(monitor).into(),
        monitor: MonitorId(Uuid::from_u128(monitor)),
        resolved_at: at(0),
        reason: ResolveReason::Recovered,
    })
}

#[tokio::test(start_paused = true)]
async fn a_record_waits_a_quarter_second_for_company() {
    let backlog = Backlog::new(1 << 20);
    let start = Instant::now();
    backlog.append(vec![check(1, 1)]);
    assert_eq!(backlog.next().await.map(|records| records.len()), Some(1));
    assert_eq!(start.elapsed(), BATCH_WAIT);
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_does_not_wait() {
    let backlog = Backlog::new(usize::MAX);
    for second in 0..BATCH_RECORDS as i64 {
        backlog.append(vec![check(1, second)]);
    }
    let start = Instant::now();
    assert_eq!(backlog.next().await.map(|records| records.len()), Some(BATCH_RECORDS));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_full_backlog_thins_checks_to_gaps_and_keeps_transitions() {
    let cost = check(1, 0).cost();
    let backlog = Backlog::new(cost * 10);
    backlog.append(vec![check(1, 0), resolve(1), Record::State(MonitorId(Uuid::from_u128(1)), Box::default())]);
    for second in 1..100 {
        backlog.append(vec![check(1, second)]);
    }
    let depth = backlog.depth();
    assert!(depth.bytes <= cost * 10, "{depth:?}");
    backlog.close();
    let records = backlog.next().await.unwrap();
    assert_eq!(backlog.next().await, None);
    assert!(matches!(records[0], Record::Resolve(_)), "transitions come first");
    assert!(matches!(records[1], Record::State(..)));
    let Record::Gap(gap) = &records[2] else { panic!("{records:?}") };
    let Record::Check(first) = &records[3] else { panic!("{records:?}") };
    assert_eq!((gap.from_at, gap.to_at, gap.reason), (at(0), first.checked_at, GapReason::StoreFull));
    let kept = records.iter().filter(|record| record.is_thinnable()).count();
    assert_eq!(kept as u64 + depth.thinned, 100);
}

#[tokio::test(start_paused = true)]
async fn closed_and_empty_ends() {
    let backlog = Backlog::new(1 << 20);
    backlog.close();
    assert_eq!(backlog.next().await, None);
}

fn id(number: u128) -> MonitorId {
    MonitorId(Uuid::from_u128(number))
}

fn gap(monitor: u128, from: i64, to: i64) -> Record {
    let reason = GapReason::ResolverUnavailable;
    Record::Gap(Gap { monitor: Some(id(monitor)), from_at: at(from), to_at: at(to), reason })
}

fn state(monitor: u128) -> Record {
    Record::State(id(monitor), Box::default())
}

async fn rest(backlog: &Backlog) -> Vec<Vec<Record>> {
    let mut batches = Vec::new();
    while let Some(records) = backlog.next().await {
        batches.push(records);
    }
    batches
}

#[tokio::test(start_paused = true)]
async fn gaps_of_unknown_checks_do_not_outgrow_the_limit() {
    let limit = gap(1, 0, 0).cost() * 10;
    let backlog = Backlog::new(limit);
    for second in 0..10_000 {
        backlog.append(vec![gap(1 + second as u128 % 3, 0, second)]);
    }
    let depth = backlog.depth();
    assert!(depth.bytes <= limit && depth.records <= 10, "{depth:?}");
    backlog.close();
    let records = rest(&backlog).await.concat();
    let end = |monitor| {
        records.iter().filter(move |r| r.monitor() == Some(id(monitor))).filter_map(|record| match record {
            Record::Gap(gap) => Some(gap.to_at),
            _ => None,
        })
    };
    assert_eq!([1, 2, 3].map(|monitor| end(monitor).max()), [9_999, 9_997, 9_998].map(|s| Some(at(s))));
}

#[tokio::test(start_paused = true)]
async fn what_was_thinned_comes_in_batches_of_whole_monitors() {
    let backlog = Backlog::new(0);
    let monitors = BATCH_RECORDS as u128;
    for monitor in 1..=monitors {
        backlog.append(vec![check(monitor, 0), resolve(monitor), state(monitor)]);
        backlog.append(vec![check(monitor, 1), resolve(monitor), state(monitor)]);
    }
    assert_eq!(backlog.depth().records, 3 * BATCH_RECORDS, "two transitions and a state each");
    backlog.close();
    let batches = rest(&backlog).await;
    let mut seen = std::collections::HashSet::new();
    for records in &batches {
        assert!(records.len() <= BATCH_RECORDS, "{}", records.len());
        let kept: Vec<&Record> = records.iter().filter(|record| !matches!(record, Record::Gap(_))).collect();
        for group in kept.chunks(3) {
            assert!(matches!(group, [Record::Resolve(_), Record::Resolve(_), Record::State(..)]), "{group:?}");
            assert!(seen.insert(group[0].monitor()), "once");
        }
    }
    let gaps = batches.iter().flatten().filter(|record| matches!(record, Record::Gap(_))).count();
    assert_eq!((seen.len(), gaps), (BATCH_RECORDS, BATCH_RECORDS));
    assert_eq!(backlog.depth().records, 0);
}

#[tokio::test(start_paused = true)]
async fn a_monitor_with_more_transitions_than_a_batch_keeps_their_order() {
    let backlog = Backlog::new(0);
    for _ in 0..BATCH_RECORDS + 1 {
        backlog.append(vec![resolve(1), state(1)]);
    }
    backlog.close();
    let batches = rest(&backlog).await;
    assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [BATCH_RECORDS, 2]);
    assert_eq!(batches[1], [resolve(1), state(1)]);
}

/// A check of monitor 1 is lost, those of monitor 2 stay.
fn with_a_lost_check() -> Backlog {
    let backlog = Backlog::new(check(2, 1).cost() * 10);
    backlog.append(vec![check(1, 0)]);
    for second in 1..=10 {
        backlog.append(vec![check(2, second)]);
    }
    assert_eq!(backlog.depth().thinned, 1);
    backlog
}

fn lost(to: i64) -> Record {
    Record::Gap(Gap { monitor: Some(id(1)), from_at: at(0), to_at: at(to), reason: GapReason::StoreFull })
}

#[tokio::test(start_paused = true)]
async fn whatever_comes_next_of_a_monitor_ends_its_lost_checks() {
    for (next, end) in [(check(1, 7), 7), (gap(1, 5, 9), 5), (state(1), 0), (resolve(1), 0)] {
        let backlog = with_a_lost_check();
        assert_eq!(backlog.next().await.map(|records| records.len()), Some(10));
        backlog.append(vec![next.clone()]);
        assert_eq!(backlog.next().await, Some(vec![lost(end), next]));
        backlog.close();
        assert_eq!(backlog.next().await, None, "once");
    }
}

#[tokio::test(start_paused = true)]
async fn lost_checks_of_a_monitor_that_is_silent_are_shown_in_the_end() {
    let backlog = with_a_lost_check();
    assert_eq!(backlog.next().await.map(|records| records.len()), Some(10));
    let start = Instant::now();
    assert_eq!(backlog.next().await, Some(vec![lost(0)]));
    assert!(start.elapsed() <= LOST_LATEST);
}
