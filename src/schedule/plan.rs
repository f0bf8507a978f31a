//! When a monitor is due. Pure: clocks come in as values.
//!
//! # Daylight saving time
//!
//! Cron expressions are read in their zone by croner 4, after Vixie cron. An expression whose second, minute and hour
//! are single numbers is a fixed time; any other (a list, range, step or star in one of the three) is a repetition.
//!
//! | the clock | fixed time | repetition |
//! |---|---|---|
//! | skips the time (spring) | runs once, at the first second after the gap | nothing in the gap; goes on after it |
//! | repeats the time (autumn) | runs once, the first time round | runs in both hours |

use std::time::Duration;

use chrono::{DateTime, Datelike as _, NaiveDate, SubsecRound as _, TimeDelta, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::errors::CronError;
use croner::parser::{CronParser, Seconds, Year};
use croner::time::Weekday;
use tokio::time::Instant;

use crate::model::{Cadence, Monitor, MonitorId};

/// Width of a slot, milliseconds. One wake-up serves all checks of a slot; see "Measured choices" in the design.
pub const SLOT_MS: u64 = 50;

/// Slots of one second.
pub const SLOTS_PER_SECOND: u64 = 1000 / SLOT_MS;

/// Longest cron expression, bytes: expressions come from rows of other people.
const MAX_EXPRESSION: usize = 256;

/// Cron occurrences counted as passed over at the most; a check that lasts longer than so many is long since overdue.
const MAX_COUNTED: usize = 10_000;

/// Time as the scheduler counts it: the wall clock at the start of the process plus monotonic time since. Slots are
/// numbered from 1970 on it, so phases are the same after a restart, and a step of the wall clock does not move them.
/// What the wall clock shows differs by an offset that only cron schedules and recorded times use.
#[derive(Clone, Debug)]
pub struct Timeline {
    start: Instant,
    origin_ms: u64,
    offset: TimeDelta,
}

impl Timeline {
    /// A timeline on which `start` is `wall`.
    #[must_use]
    pub fn new(wall: DateTime<Utc>, start: Instant) -> Self {
        // A clock before 1970 counts as 1970; the offset keeps what it showed.
        let origin_ms = u64::try_from(wall.timestamp_millis()).unwrap_or(0);
        Self { start, origin_ms, offset: wall - at_ms(origin_ms) }
    }

    /// The latest slot that is not after `now`.
    #[must_use]
    pub fn slot(&self, now: Instant) -> u64 {
        (self.origin_ms + millis(now.saturating_duration_since(self.start))) / SLOT_MS
    }

    /// When a slot begins; the start of the timeline for slots before it.
    #[must_use]
    pub fn instant(&self, slot: u64) -> Instant {
        let since = Duration::from_millis(slot.saturating_mul(SLOT_MS).saturating_sub(self.origin_ms));
        self.start.checked_add(since).unwrap_or(self.start)
    }

    /// What the wall clock shows at `now`, as far as it has not stepped unseen.
    #[must_use]
    pub fn wall(&self, now: Instant) -> DateTime<Utc> {
        let ms = self.origin_ms + millis(now.saturating_duration_since(self.start));
        at_ms(ms).checked_add_signed(self.offset).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// What the wall clock shows when a slot begins.
    #[must_use]
    pub fn wall_of(&self, slot: u64) -> DateTime<Utc> {
        at_ms(slot.saturating_mul(SLOT_MS)).checked_add_signed(self.offset).unwrap_or(DateTime::<Utc>::MAX_UTC)
    }

    /// The first slot that begins when the wall clock shows `wall` or more.
    #[must_use]
    pub fn slot_at(&self, wall: DateTime<Utc>) -> u64 {
        let ms = wall.checked_sub_signed(self.offset).map_or(0, |logical| logical.timestamp_millis());
        u64::try_from(ms).unwrap_or(0).div_ceil(SLOT_MS)
    }

    /// How far the wall clock is ahead of where the timeline has it.
    #[must_use]
    pub fn drift(&self, wall: DateTime<Utc>, now: Instant) -> TimeDelta {
        wall - self.wall(now)
    }

    /// Takes a step of the wall clock over. Slots stay where they are on the monotonic clock.
    pub fn shift(&mut self, by: TimeDelta) {
        self.offset = self.offset.checked_add(&by).unwrap_or(self.offset);
    }
}

/// When one monitor is due.
#[derive(Clone, Debug)]
pub enum Timing {
    /// Every `period` slots, where the slot number leaves `phase`.
    Every {
        /// Slots, at least one second's.
        period: u64,
        /// Below `period`.
        phase: u64,
    },
    /// At the occurrences of a cron expression.
    Cron(Box<CronTiming>),
}

/// A parsed cron expression in its zone.
#[derive(Clone, Debug)]
pub struct CronTiming {
    cron: Cron,
    zone: Tz,
}

impl Timing {
    /// The timing of a monitor.
    ///
    /// # Errors
    /// Why the cron expression is not one; settings refuse such a monitor before it gets here.
    pub fn of(monitor: &Monitor) -> Result<Self, String> {
        match &monitor.cadence {
            Cadence::Every(interval) => Ok(Self::every(monitor.id, *interval)),
            Cadence::Cron { expression, zone } => Self::cron(expression, *zone),
        }
    }

    /// An interval in the phase of its monitor.
    #[must_use]
    pub fn every(monitor: MonitorId, interval: Duration) -> Self {
        let period = (millis(interval) / SLOT_MS).max(SLOTS_PER_SECOND);
        Self::Every { period, phase: monitor.phase_hash() % period }
    }

    /// A cron expression of 5 or 6 fields (seconds first) in a zone.
    ///
    /// # Errors
    /// Why it is not one, for the person who wrote it.
    pub fn cron(expression: &str, zone: Tz) -> Result<Self, String> {
        Ok(Self::Cron(Box::new(CronTiming { cron: parse(expression)?, zone })))
    }

    /// The first slot after `slot` in which the monitor is due; none if there is never one.
    #[must_use]
    pub fn next_after(&self, slot: u64, timeline: &Timeline) -> Option<u64> {
        match self {
            Self::Every { period, phase } => {
                let passed = slot % period;
                let ahead = if passed < *phase { phase - passed } else { period - passed + phase };
                slot.checked_add(ahead)
            }
            Self::Cron(cron) => {
                let next = timeline.slot_at(cron.next_after(timeline.wall_of(slot))?);
                // An offset that is no multiple of a slot rounds up, never back onto the slot itself.
                Some(next.max(slot.saturating_add(1)))
            }
        }
    }

    /// How many slots the monitor had after `after`, up to and including `until`.
    #[must_use]
    pub fn passed(&self, after: u64, until: u64, timeline: &Timeline) -> u64 {
        match self {
            Self::Every { period, .. } => match self.next_after(after, timeline) {
                Some(first) if first <= until => 1 + (until - first) / period,
                _ => 0,
            },
            Self::Cron(_) => {
                let slots = std::iter::successors(Some(after), |slot| self.next_after(*slot, timeline));
                slots.skip(1).take_while(|slot| *slot <= until).take(MAX_COUNTED).count() as u64
            }
        }
    }
}

impl CronTiming {
    /// The first occurrence after a time.
    #[must_use]
    pub fn next_after(&self, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        // croner gives up on a fixed time in a gap longer than two hours (a zone that skips a day); it is found from
        // behind the gap.
        [0, 25, 49].into_iter().find_map(|hours| {
            let from = after.checked_add_signed(TimeDelta::hours(hours))?.trunc_subsecs(0).with_timezone(&self.zone);
            let next = self.cron.find_next_occurrence(&from, false).ok()?.with_timezone(&Utc);
            (next > after).then_some(next)
        })
    }
}

/// Where a planned cron slot belongs after the wall clock was set right by a little: the occurrence stays the same one.
#[must_use]
pub fn carry_over(slot: u64, before: &Timeline, after: &Timeline) -> u64 {
    after.slot_at(before.wall_of(slot).trunc_subsecs(0))
}

/// Whether a cron expression can be scheduled: 5 or 6 fields (seconds first), and it occurs at all.
///
/// # Errors
/// Why not, for the person who wrote it.
pub fn validate_cron(expression: &str) -> Result<(), String> {
    parse(expression).map(|_| ())
}

fn parse(expression: &str) -> Result<Cron, String> {
    if expression.len() > MAX_EXPRESSION {
        return Err(format!("a cron expression has at most {MAX_EXPRESSION} bytes"));
    }
    let fields = expression.split_whitespace().count();
    if !(5..=6).contains(&fields) {
        return Err(format!(
            "a cron expression has 5 fields (minute hour day month weekday) or 6 (second first), this one has {fields}"
        ));
    }
    let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build();
    let cron = parser.parse(expression).map_err(|error| explain(&error))?;
    if occurs(&cron) { Ok(cron) } else { Err("this cron expression never occurs".to_owned()) }
}

/// Whether some day fits. 41 years hold every pair of date and weekday, 29 February around 2100 included; croner alone
/// would search to the end of its calendar, and an expression may come from a row of somebody else.
fn occurs(cron: &Cron) -> bool {
    const DAYS: usize = 41 * 366;
    let Some(first) = NaiveDate::from_ymd_opt(2070, 1, 1) else { return false };
    first.iter_days().take(DAYS).any(|day| {
        let weekday = Weekday::from_days_from_sunday(day.weekday().num_days_from_sunday());
        let of_day = cron.pattern.day_match(day.year(), day.month(), day.day(), weekday);
        matches!((cron.pattern.month_match(day.month()), of_day), (Ok(true), Ok(true)))
    })
}

fn explain(error: &CronError) -> String {
    match error {
        CronError::IllegalCharacters(text) | CronError::InvalidPattern(text) | CronError::ComponentError(text) => {
            format!("not a cron expression: {}", text.trim_end_matches('.'))
        }
        other => format!("not a cron expression: {other}"),
    }
}

fn at_ms(ms: u64) -> DateTime<Utc> {
    i64::try_from(ms).ok().and_then(DateTime::from_timestamp_millis).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeZone as _;
    use proptest::prelude::*;

    fn utc(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    /// Occurrences after `from`, as the zone's clock with its offset shows them.
    fn occurrences(expression: &str, zone: Tz, from: &str, count: usize) -> Vec<String> {
        let Timing::Cron(cron) = Timing::cron(expression, zone).unwrap() else { panic!("not cron") };
        std::iter::successors(Some(utc(from)), |after| cron.next_after(*after))
            .skip(1)
            .take(count)
            .map(|time| time.with_timezone(&zone).format("%m-%d %H:%M:%S %z").to_string())
            .collect()
    }

    #[test]
    fn the_missing_hour() {
        use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin};
        // Berlin skips 02:00 to 03:00 on 29 March 2026. A fixed time runs once, behind the gap.
        assert_eq!(
            occurrences("30 2 * * *", Berlin, "2026-03-28T12:00:00Z", 2),
            ["03-29 03:00:00 +0200", "03-30 02:30:00 +0200"]
        );
        // A repetition has nothing in the gap.
        assert_eq!(
            occurrences("0 */30 * * * *", Berlin, "2026-03-29T00:00:00Z", 4),
            ["03-29 01:30:00 +0100", "03-29 03:00:00 +0200", "03-29 03:30:00 +0200", "03-29 04:00:00 +0200"]
        );
        assert_eq!(
            occurrences("30 2,14 * * *", Berlin, "2026-03-28T20:00:00Z", 2),
            ["03-29 14:30:00 +0200", "03-30 02:30:00 +0200"]
        );
        assert_eq!(
            occurrences("30 2 * * *", New_York, "2026-03-07T12:00:00Z", 2),
            ["03-08 03:00:00 -0400", "03-09 02:30:00 -0400"]
        );
        // Lord Howe moves by half an hour: 02:00 to 02:30 is missing on 4 October 2026.
        assert_eq!(
            occurrences("15 2 * * *", Lord_Howe, "2026-10-03T00:00:00Z", 2),
            ["10-04 02:30:00 +1100", "10-05 02:15:00 +1100"]
        );
    }

    #[test]
    fn the_repeated_hour() {
        use chrono_tz::{America::New_York, Australia::Lord_Howe, Europe::Berlin};
        // Berlin has 02:00 to 03:00 twice on 25 October 2026. A repetition runs in both.
        assert_eq!(
            occurrences("0 */30 * * * *", Berlin, "2026-10-24T23:45:00Z", 6),
            [
                "10-25 02:00:00 +0200",
                "10-25 02:30:00 +0200",
                "10-25 02:00:00 +0100",
                "10-25 02:30:00 +0100",
                "10-25 03:00:00 +0100",
                "10-25 03:30:00 +0100"
            ]
        );
        // A fixed time runs the first time round.
        assert_eq!(
            occurrences("30 2 * * *", Berlin, "2026-10-24T12:00:00Z", 2),
            ["10-25 02:30:00 +0200", "10-26 02:30:00 +0100"]
        );
        // Also when the search begins in the second hour.
        assert_eq!(occurrences("45 2 * * *", Berlin, "2026-10-25T01:10:00Z", 1), ["10-26 02:45:00 +0100"]);
        assert_eq!(
            occurrences("0 0 * * * *", New_York, "2026-11-01T04:30:00Z", 3),
            ["11-01 01:00:00 -0400", "11-01 01:00:00 -0500", "11-01 02:00:00 -0500"]
        );
        // Lord Howe repeats 01:30 to 02:00 on 5 April 2026.
        assert_eq!(
            occurrences("*/15 * * * *", Lord_Howe, "2026-04-04T14:29:00Z", 5),
            [
                "04-05 01:30:00 +1100",
                "04-05 01:45:00 +1100",
                "04-05 01:30:00 +1030",
                "04-05 01:45:00 +1030",
                "04-05 02:00:00 +1030"
            ]
        );
    }

    #[test]
    fn without_daylight_saving_every_hour_is_alike() {
        let found = occurrences("0 30 2 * * *", Tz::UTC, "2026-10-24T12:00:00Z", 3);
        assert_eq!(found, ["10-25 02:30:00 +0000", "10-26 02:30:00 +0000", "10-27 02:30:00 +0000"]);
        let office = occurrences("0 */5 8-18 * * Mon-Fri", Tz::UTC, "2026-11-20T18:50:30Z", 2);
        assert_eq!(office, ["11-20 18:55:00 +0000", "11-23 08:00:00 +0000"]);
    }

    #[test]
    fn a_zone_that_skips_a_day_does_not_end_a_schedule() {
        // Samoa had no 30 December 2011.
        let found = occurrences("0 12 30 * *", chrono_tz::Pacific::Apia, "2011-12-29T00:00:00Z", 1);
        assert_eq!(found, ["01-30 12:00:00 +1400"]);
    }

    #[test]
    fn expressions_are_checked() {
        for good in [
            "* * * * *",
            "* * * * * *",
            "0 */5 8-18 * * Mon-Fri",
            "0 0 29 2 *",
            "0 0 29 2 +1",
            "0 0 31 1,2 *",
            "0 0 L * *",
            "0 12 * * 5#2",
            "  0   0 1 JAN ? ",
        ] {
            assert_eq!(validate_cron(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("", "this one has 0"),
            ("* * * *", "this one has 4"),
            ("* * * * * * 2030", "this one has 7"),
            ("@daily", "this one has 1"),
            ("0 0 30 2 *", "never occurs"),
            ("0 0 31 4,6,9,11 *", "never occurs"),
            ("60 * * * *", "not a cron expression"),
            ("* 24 * * *", "not a cron expression"),
            ("a b c d e", "not a cron expression"),
            ("*/0 * * * *", "not a cron expression"),
            ("ä ö ü ß é", "not a cron expression"),
            ("5-1 * * * *", "not a cron expression"),
        ] {
            let message = validate_cron(bad).unwrap_err();
            assert!(message.contains(why), "{bad}: {message}");
        }
        assert!(validate_cron(&"1,".repeat(200)).unwrap_err().contains("256"));
    }

    #[test]
    fn intervals_have_a_phase_that_a_restart_keeps() {
        let id = MonitorId(uuid::Uuid::from_u128(77));
        let start = Instant::now();
        let wall = utc("2026-11-22T12:00:00.123Z");
        let timing = Timing::every(id, Duration::from_secs(30));
        let first = Timeline::new(wall, start);
        let due = first.wall_of(timing.next_after(first.slot(start), &first).unwrap());
        // Started again 10 minutes and some later, in another process.
        let second = Timeline::new(wall + TimeDelta::milliseconds(600_777), start);
        let again = second.wall_of(timing.next_after(second.slot(start), &second).unwrap());
        assert_eq!((again - due).num_milliseconds() % 30_000, 0);
        assert!(due > wall && due <= wall + TimeDelta::seconds(30));
        assert_eq!(due.timestamp_millis() % 50, 0);
    }

    #[test]
    fn a_step_moves_wall_times_and_no_slots() {
        let start = Instant::now();
        let mut line = Timeline::new(utc("2026-11-22T12:00:00Z"), start);
        let later = start + Duration::from_secs(60);
        let slot = line.slot(later);
        let drift = line.drift(utc("2026-11-22T13:01:00Z"), later);
        assert_eq!(drift, TimeDelta::hours(1));
        line.shift(drift);
        assert_eq!(line.slot(later), slot);
        assert_eq!(line.instant(slot), later);
        assert_eq!(line.wall(later), utc("2026-11-22T13:01:00Z"));
        assert_eq!(line.slot_at(utc("2026-11-22T13:01:00Z")), slot);
    }

    #[test]
    fn a_small_correction_keeps_the_occurrence() {
        let start = Instant::now();
        let before = Timeline::new(utc("2026-11-22T12:00:00Z"), start);
        let slot = before.slot_at(utc("2026-11-22T12:00:30Z"));
        for ms in [-1_999i64, -777, 312, 1_999] {
            let mut after = before.clone();
            after.shift(TimeDelta::milliseconds(ms));
            let moved = after.wall_of(carry_over(slot, &before, &after));
            let late = moved - utc("2026-11-22T12:00:30Z");
            assert!((0..50).contains(&late.num_milliseconds()), "{ms}: {late}");
        }
    }

    #[test]
    fn strange_clocks_do_no_harm() {
        let start = Instant::now();
        for wall in [DateTime::<Utc>::MIN_UTC, Utc.timestamp_opt(-5, 0).unwrap(), DateTime::<Utc>::MAX_UTC] {
            let mut line = Timeline::new(wall, start);
            let timing = Timing::cron("0 0 * * *", Tz::UTC).unwrap();
            let slot = line.slot(start + Duration::from_secs(5));
            let _ = (line.instant(slot), line.instant(u64::MAX), timing.next_after(slot, &line));
            line.shift(TimeDelta::MAX);
            let _ = (line.wall(start), line.wall_of(slot), line.slot_at(wall), timing.passed(slot, slot + 9, &line));
        }
    }

    proptest! {
        #[test]
        fn the_next_slot_is_the_first_in_phase(id: u128, seconds in 1u64..=86_400, slot in 0u64..1 << 40) {
            let timing = Timing::every(MonitorId(uuid::Uuid::from_u128(id)), Duration::from_secs(seconds));
            let line = Timeline::new(Utc.timestamp_opt(0, 0).unwrap(), Instant::now());
            let Timing::Every { period, phase } = timing else { unreachable!() };
            let next = timing.next_after(slot, &line).unwrap();
            prop_assert!(next > slot && next <= slot + period);
            prop_assert_eq!(next % period, phase);
            prop_assert_eq!(timing.passed(slot, next - 1, &line), 0);
            prop_assert_eq!(timing.passed(slot, next + 2 * period, &line), 3);
        }

        #[test]
        fn cron_goes_forward_and_matches(from in 1_500_000_000i64..2_500_000_000, hour in 0u32..24, step in 1u32..60) {
            let zone = Tz::Europe__Berlin;
            let Timing::Cron(cron) = Timing::cron(&format!("*/{step} {hour} * * *"), zone).unwrap() else { unreachable!() };
            let from = Utc.timestamp_opt(from, 250_000_000).unwrap();
            let next = cron.next_after(from).unwrap();
            let local = next.with_timezone(&zone);
            prop_assert!(next > from);
            prop_assert_eq!(chrono::Timelike::hour(&local), hour);
            prop_assert_eq!(chrono::Timelike::minute(&local) % step, 0);
        }

        #[test]
        fn no_expression_panics(text in "[0-9*,/LW#?+ -]{0,24}") {
            let _ = validate_cron(&text);
        }
    }
}
