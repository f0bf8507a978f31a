use proptest::prelude::*;

use super::*;
use crate::model::Verdict;
use crate::schedule::plan::Timing;

const MINUTE: Duration = Duration::from_secs(60);

fn rules(period: Option<Duration>, grace: Option<Duration>, max_run: Option<Duration>) -> Heartbeat {
    Heartbeat { period, grace, max_run, token: None }
}

/// Both clocks, moved together.
struct Clocks(Now);

impl Clocks {
    fn new() -> Self {
        // 2023-11-14 22:13:20 UTC; away from the beginning of the monotonic clock.
        let at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        Self(Now { at, instant: Instant::now() + MINUTE * 100_000 })
    }

    fn pass(&mut self, time: Duration) -> Now {
        self.0 = Now { at: self.0.at + time, instant: self.0.instant + time };
        self.0
    }
}

fn period(grace: Option<Duration>, max_run: Option<Duration>, now: Now) -> Pulse {
    let rules = rules(Some(MINUTE * 60), grace, max_run);
    Pulse::new(&rules, Rhythm::Period(MINUTE * 60), None, now)
}

fn cron(expression: &str, grace: Option<Duration>, heard: Option<&Heard>, now: Now) -> Pulse {
    let Ok(Timing::Cron(timing)) = Timing::cron(expression, chrono_tz::UTC) else { panic!("{expression}") };
    Pulse::new(&rules(None, grace, None), Rhythm::Cron(timing), heard, now)
}

fn ping(signal: Signal, rid: Option<u128>, text: &str) -> Ping {
    Ping { signal, rid: rid.map(Uuid::from_u128), took: None, text: text.into() }
}

fn message(beat: &Beat) -> &str {
    beat.observation.fault.as_ref().map_or("", |fault| &fault.message)
}

fn wait(pulse: &Pulse, now: Now) -> Option<u64> {
    pulse.due().map(|due| due.saturating_duration_since(now.instant).as_secs())
}

#[test]
fn a_grace_that_nobody_set_is_the_period_and_an_hour_at_the_most() {
    let now = Clocks::new().0;
    let mut heard = None;
    let mut pulse = period(None, None, now);
    assert!(pulse.due().is_none());
    assert!(pulse.ping(&mut heard, &ping(Signal::Success, None, ""), now).is_some());
    assert_eq!(wait(&pulse, now), Some(7200));
    let mut short = Pulse::new(&rules(Some(MINUTE), None, None), Rhythm::Period(MINUTE), heard.as_deref(), now);
    assert_eq!(wait(&short, now), Some(120));
    short.ping(&mut heard, &ping(Signal::Success, None, ""), now);
    assert_eq!(wait(&short, now), Some(120));
    // 22:15 is 100 s away, and the one after it comes 5 minutes later.
    assert_eq!(wait(&cron("*/5 * * * *", None, heard.as_deref(), now), now), Some(400));
    assert_eq!(wait(&cron("15 22 * * *", None, heard.as_deref(), now), now), Some(3700));
    assert_eq!(wait(&cron("15 22 * * *", Some(MINUTE), heard.as_deref(), now), now), Some(160));
}

#[test]
fn runs_overlap_and_are_told_apart() {
    let mut clocks = Clocks::new();
    let mut heard = None;
    let mut pulse = period(None, Some(MINUTE * 30), clocks.0);
    for (pass, rid) in [(0, Some(1)), (10, Some(2)), (10, None)] {
        let now = clocks.pass(MINUTE * pass);
        assert!(pulse.ping(&mut heard, &ping(Signal::Start, rid, ""), now).is_none());
    }
    let now = clocks.pass(MINUTE * 5);
    let beat = pulse.ping(&mut heard, &ping(Signal::Success, Some(2), ""), now).unwrap();
    assert_eq!(beat.observation.timings.total, MINUTE * 15);
    let beat = pulse.ping(&mut heard, &ping(Signal::Exit(7), None, "a\n\nno space left\n"), now).unwrap();
    assert_eq!(beat.observation.timings.total, MINUTE * 5);
    assert_eq!(message(&beat), "the job ended with exit code 7: no space left");
    let beat = pulse.ping(&mut heard, &ping(Signal::Success, Some(9), ""), now).unwrap();
    assert_eq!(beat.observation.timings.total, Duration::ZERO, "its start was not heard");
    // The first goes on, and overruns.
    assert_eq!(wait(&pulse, now), Some(300));
    let now = clocks.pass(MINUTE * 5);
    let beat = pulse.expire(&mut heard, now).unwrap();
    assert_eq!(message(&beat), "the run of 2023-11-14 22:13:20 UTC has not ended within 30m (max_run)");
    assert_eq!(beat.observation.timings.total, MINUTE * 30);
    assert!(heard.as_ref().unwrap().runs.is_empty() && pulse.expire(&mut heard, now).is_none());
}

#[test]
fn a_sender_that_only_starts_does_not_fill_the_memory() {
    let now = Clocks::new().0;
    let mut heard = None;
    let mut pulse = period(None, Some(MINUTE), now);
    for rid in 0..100 {
        pulse.ping(&mut heard, &ping(Signal::Start, Some(rid), ""), now);
        pulse.ping(&mut heard, &ping(Signal::Start, Some(rid), ""), now);
    }
    let runs = &heard.as_ref().unwrap().runs;
    assert_eq!((runs.len(), pulse.runs.len()), (RUNS_MOST, RUNS_MOST));
    assert_eq!(runs.last().unwrap().rid, Some(Uuid::from_u128(99)));
}

#[test]
fn a_time_in_which_nobody_listened_is_not_held_against_the_sender() {
    let mut clocks = Clocks::new();
    let heard = Heard { last: clocks.0.at, runs: Vec::new() };
    for (away, left) in [(0, 7200), (29, 7200 - 29 * 60), (31, 7200), (119, 7200), (100_000, 7200)] {
        let mut clocks = Clocks::new();
        let now = clocks.pass(MINUTE * away);
        let rules = rules(Some(MINUTE * 60), None, None);
        let pulse = Pulse::new(&rules, Rhythm::Period(MINUTE * 60), Some(&heard), now);
        assert_eq!(wait(&pulse, now), Some(left), "{away} minutes");
    }
    // 22:15 and 22:20; back at 22:14 the next one counts, at 22:16 the one after it.
    let grace = Some(Duration::from_secs(30));
    let now = clocks.pass(Duration::from_secs(40));
    assert_eq!(wait(&cron("*/5 * * * *", grace, Some(&heard), now), now), Some(90));
    let now = clocks.pass(MINUTE * 2);
    assert_eq!(wait(&cron("*/5 * * * *", grace, Some(&heard), now), now), Some(270));
    // The clock was wrong by years when it was last heard.
    let future = Heard { last: clocks.0.at + MINUTE * 1_000_000, runs: Vec::new() };
    assert_eq!(wait(&cron("*/5 * * * *", grace, Some(&future), now), now), Some(270));
    let rules = rules(Some(MINUTE * 60), None, None);
    assert_eq!(wait(&Pulse::new(&rules, Rhythm::Period(MINUTE * 60), Some(&future), now), now), Some(7200));
}

#[test]
fn what_is_said_of_silence() {
    let mut clocks = Clocks::new();
    let mut heard = Some(Box::new(Heard { last: clocks.0.at, runs: Vec::new() }));
    let mut pulse = cron("15 22 * * *", Some(MINUTE), heard.as_deref(), clocks.0);
    let now = clocks.pass(Duration::from_secs(160));
    let beat = pulse.expire(&mut heard, now).unwrap();
    let expected =
        "no ping since 2023-11-14 22:13:20 UTC; one was expected at 2023-11-14 22:15:00 UTC and 1m later at the latest";
    assert_eq!(message(&beat), expected);
    assert_eq!(wait(&pulse, now), Some(86_400), "the next day");
    let mut pulse = period(Some(MINUTE * 5), None, now);
    pulse.listen(heard.as_deref(), now);
    let beat = pulse.expire(&mut heard, clocks.pass(MINUTE * 63)).unwrap();
    assert_eq!(
        message(&beat),
        "no ping since 2023-11-14 22:13:20 UTC; one is expected every 1h, 5m later at the latest"
    );
}

proptest! {
    /// Whoever pings within its period and grace is never called silent, and whoever does not is, once a period.
    #[test]
    fn silence_is_neither_missed_nor_made_up(waits in proptest::collection::vec(1u64..400, 1..40)) {
        let (period_s, grace_s) = (100u64, 20u64);
        let mut clocks = Clocks::new();
        let mut heard = None;
        let length = Duration::from_secs(period_s);
        let rules = rules(Some(length), Some(Duration::from_secs(grace_s)), None);
        let mut pulse = Pulse::new(&rules, Rhythm::Period(length), None, clocks.0);
        pulse.ping(&mut heard, &ping(Signal::Success, None, ""), clocks.0);
        for wait in waits {
            let mut bad = 0;
            for _ in 0..wait {
                let now = clocks.pass(Duration::from_secs(1));
                while let Some(beat) = pulse.expire(&mut heard, now) {
                    prop_assert_eq!(beat.observation.fault.as_ref().map(|fault| fault.failure.verdict()), Some(Verdict::Down));
                    bad += 1;
                }
            }
            let expected = if wait < period_s + grace_s { 0 } else { 1 + (wait - period_s - grace_s) / period_s };
            prop_assert_eq!(bad, expected, "after {} s", wait);
            pulse.ping(&mut heard, &ping(Signal::Success, None, ""), clocks.0);
            prop_assert!(pulse.due().is_some_and(|due| due > clocks.0.instant));
        }
    }

    /// Whatever comes in whatever order, what is kept for a restart and what is kept in memory go together.
    #[test]
    fn both_memories_agree(steps in proptest::collection::vec((0u8..6, 0u128..4, 0u64..200), 0..200)) {
        let mut clocks = Clocks::new();
        let mut heard = None;
        let mut pulse = period(None, Some(MINUTE), clocks.0);
        for (what, rid, pass) in steps {
            let now = clocks.pass(Duration::from_secs(pass));
            let rid = (rid > 0).then_some(rid);
            match what {
                0 | 1 => drop(pulse.ping(&mut heard, &ping(Signal::Start, rid, ""), now)),
                2 => drop(pulse.ping(&mut heard, &ping(Signal::Success, rid, ""), now)),
                3 => drop(pulse.ping(&mut heard, &ping(Signal::Exit(1), rid, ""), now)),
                4 => pulse.listen(heard.as_deref(), now),
                _ => while pulse.expire(&mut heard, now).is_some() {},
            }
            prop_assert_eq!(heard.as_ref().map_or(0, |heard| heard.runs.len()), pulse.runs.len());
            prop_assert_eq!(heard.is_some(), pulse.silence.is_some());
        }
    }
}
