//! What a heartbeat's pings, and their absence, mean. Pure: `now` is an argument.
//!
//! - The first ping is awaited silently. From then on the end of a run, good or failed, is a check, and so is silence: at
//!   the deadline, and once in every period after it, so that hours of silence weigh as many hours of pings would.
//! - A period is measured on the monotonic clock from the last end of a run. A cron schedule is read on the wall clock,
//!   whose steps move the deadline. A run that has started and is within `max_run` is not silent.
//! - While nobody listened, a ping may have been lost. Whoever pings in every period and was heard in the second half of
//!   none before the deadline may have been swallowed: it gets a whole period more, counted from when we listen again. A
//!   loss in the first half needs a sender that pings twice a period, which is heard again before the deadline. Of a cron
//!   schedule the occurrences in question are known: one that had begun when we listened again does not count. Runs that
//!   went on meanwhile may have ended unheard: they cannot overrun any more.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::Instant;
use uuid::Uuid;

use crate::model::{Failure, Fault, Heard, Observation, Run};
use crate::probe::driven::Heartbeat;
use crate::schedule::plan::CronTiming;
use crate::settings::duration::format;

/// Runs that go on at the same time; of more the oldest is forgotten.
const RUNS_MOST: usize = 32;
/// A grace that nobody has set is no longer than this.
const GRACE_MOST: Duration = Duration::from_secs(3600);
/// A difference of the wall clock that moves the deadline of a schedule, and one that is a step.
const CORRECTION: TimeDelta = TimeDelta::milliseconds(250);
const STEP: TimeDelta = TimeDelta::seconds(2);
/// Characters of a sender's text in a message, and in the evidence.
const QUOTE_MAX: usize = 160;

/// What a ping says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// A run begins.
    Start,
    /// It ended well.
    Success,
    /// It failed.
    Fail,
    /// It ended with this code; 0 is well.
    Exit(u8),
    /// Something to note, which changes nothing.
    Log,
}

/// A ping as it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Ping {
    /// What it says.
    pub signal: Signal,
    /// The run it is of.
    pub rid: Option<Uuid>,
    /// How long the run took, if the sender says so itself.
    pub took: Option<Duration>,
    /// What the sender wrote, cut to [`TEXT_BYTES`].
    pub text: Box<str>,
}

/// Bytes of a ping's body that are read; healthchecks.io's default.
pub const TEXT_BYTES: usize = 10_000;

/// The same moment on both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// The wall clock.
    pub at: DateTime<Utc>,
    /// The monotonic one.
    pub instant: Instant,
}

impl Now {
    /// When the wall clock shows `at`, if it does not step; at once when that is past.
    fn until(self, at: DateTime<Utc>) -> Instant {
        self.instant + (at - self.at).to_std().unwrap_or_default()
    }
}

/// How often a sender is expected.
pub enum Rhythm {
    /// Within so long of the last time.
    Period(Duration),
    /// At the occurrences of a schedule.
    Cron(Box<CronTiming>),
}

/// When silence becomes a check.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Silence {
    at: Instant,
    /// The occurrence of the schedule that is waited for.
    expected: Option<DateTime<Utc>>,
}

/// A run, beside its [`Run`].
struct Going {
    started: Instant,
    /// None: its end may have come while nobody listened.
    overruns: Option<Instant>,
}

/// What was last seen, for another check of the same while an incident is confirmed or a recovery is watched.
struct Latest {
    fault: Option<Fault>,
    took: Duration,
    again: Option<(Instant, u16)>,
}

/// A check to be made: what was seen, and which attempt it is.
pub struct Beat {
    /// What was seen.
    pub observation: Observation,
    /// 1, or more for another look at the same.
    pub attempt: u16,
}

/// One heartbeat.
pub struct Pulse {
    rhythm: Rhythm,
    grace: Option<Duration>,
    max_run: Option<Duration>,
    silence: Option<Silence>,
    runs: Vec<Going>,
    latest: Option<Latest>,
}

impl Pulse {
    /// A heartbeat that begins to listen, knowing what it has heard before.
    #[must_use]
    pub fn new(rules: &Heartbeat, rhythm: Rhythm, heard: Option<&Heard>, now: Now) -> Self {
        let (grace, max_run) = (rules.grace, rules.max_run);
        let mut pulse = Self { rhythm, grace, max_run, silence: None, runs: Vec::new(), latest: None };
        pulse.listen(heard, now);
        pulse
    }

    /// Whether the wall clock matters to it.
    #[must_use]
    pub const fn follows_the_wall(&self) -> bool {
        matches!(self.rhythm, Rhythm::Cron(_))
    }

    /// It listens again after a time in which a ping may have been lost.
    pub fn listen(&mut self, heard: Option<&Heard>, now: Now) {
        let Some(heard) = heard else { return };
        self.runs = heard.runs.iter().map(|run| going_since(run, now)).collect();
        // The clock may have stepped back meanwhile.
        let last = heard.last.min(now.at);
        self.silence = match &self.rhythm {
            Rhythm::Period(period) if now.at - last >= delta(*period / 2) => self.silence_from(now.at, now),
            Rhythm::Period(_) => self.silence_from(last, now),
            Rhythm::Cron(cron) => {
                let begun = cron.next_after(last).is_some_and(|expected| expected < now.at);
                self.silence_from(if begun { now.at } else { last }, now)
            }
        };
    }

    /// When [`Self::expire`] has something to say.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let again = self.latest.as_ref().and_then(|latest| latest.again).map(|(at, _)| at);
        let overruns = self.runs.iter().filter_map(|run| run.overruns);
        self.silent_at().into_iter().chain(again).chain(overruns).min()
    }

    /// A run that is within its time is not silent.
    fn silent_at(&self) -> Option<Instant> {
        let silence = self.silence?.at;
        Some(self.runs.iter().filter_map(|run| run.overruns).fold(silence, Instant::max))
    }

    /// A ping came in. None: nothing is checked by it.
    pub fn ping(&mut self, heard: &mut Option<Box<Heard>>, ping: &Ping, now: Now) -> Option<Beat> {
        let ended = match ping.signal {
            Signal::Log => return None,
            Signal::Start => {
                self.started(heard, ping.rid, now);
                return None;
            }
            Signal::Success | Signal::Exit(0) => None,
            Signal::Fail => Some("the job reported a failure".to_owned()),
            Signal::Exit(code) => Some(format!("the job ended with exit code {code}")),
        };
        let known = heard.get_or_insert_with(|| Box::new(Heard { last: now.at, runs: Vec::new() }));
        known.last = now.at;
        let run = known.runs.iter().rposition(|run| run.rid == ping.rid);
        let run = run.map(|place| (known.runs.remove(place), self.forget(place)));
        let measured = run.as_ref().and_then(|(_, going)| going.as_ref()).map(|going| now.instant - going.started);
        self.silence = self.silence_from(now.at, now);
        let fault = ended.map(|what| Fault::new(Failure::HeartbeatFailed, with_quote(what, &ping.text)));
        let mut beat = self.beat(fault, ping.took.or(measured).unwrap_or_default(), now);
        let seen = &mut beat.observation;
        if let Signal::Exit(code) = ping.signal {
            seen.note("exit_code", code);
        }
        if let Some((run, _)) = run {
            seen.note("started_at", run.started_at.to_rfc3339());
        }
        if let Some(rid) = ping.rid {
            seen.note("rid", rid.to_string());
        }
        if !ping.text.trim().is_empty() {
            seen.note("text", &*ping.text);
        }
        Some(beat)
    }

    fn forget(&mut self, place: usize) -> Option<Going> {
        (place < self.runs.len()).then(|| self.runs.remove(place))
    }

    fn started(&mut self, heard: &mut Option<Box<Heard>>, rid: Option<Uuid>, now: Now) {
        let first = heard.is_none();
        let known = heard.get_or_insert_with(|| Box::new(Heard { last: now.at, runs: Vec::new() }));
        // A run that is started again has not ended, and begins anew.
        let old = known.runs.iter().position(|run| run.rid == rid).or((known.runs.len() >= RUNS_MOST).then_some(0));
        if let Some(place) = old {
            known.runs.remove(place);
            self.forget(place);
        }
        known.runs.push(Run { rid, started_at: now.at });
        self.runs.push(Going { started: now.instant, overruns: self.max_run.map(|most| now.instant + most) });
        if first {
            self.silence = self.silence_from(now.at, now);
        }
    }

    /// The first thing that is due by now; none when nothing is.
    pub fn expire(&mut self, heard: &mut Option<Box<Heard>>, now: Now) -> Option<Beat> {
        if let Some(place) = self.runs.iter().position(|run| run.overruns.is_some_and(|at| at <= now.instant)) {
            return Some(self.overran(heard, place, now));
        }
        if let Some(silence) = self.silence
            && self.silent_at().is_some_and(|at| at <= now.instant)
        {
            return Some(self.missed(heard.as_deref(), silence, now));
        }
        let latest = self.latest.as_mut()?;
        let (_, attempt) = latest.again.take_if(|(at, _)| *at <= now.instant)?;
        let (fault, took) = (latest.fault.clone(), latest.took);
        Some(Beat { attempt, ..self.beat(fault, took, now) })
    }

    fn overran(&mut self, heard: &mut Option<Box<Heard>>, place: usize, now: Now) -> Beat {
        let took = self.forget(place).map_or(Duration::ZERO, |going| now.instant - going.started);
        let run = heard.as_mut().filter(|known| place < known.runs.len()).map(|known| known.runs.remove(place));
        // That is the check of this period.
        self.silence = self.silence_from(now.at, now);
        let most = format(self.max_run.unwrap_or_default());
        let since = run.map(|run| format!(" of {}", stamp(run.started_at))).unwrap_or_default();
        let message = format!("the run{since} has not ended within {most} (max_run)");
        let mut beat = self.beat(Some(Fault::new(Failure::HeartbeatOverran, message)), took, now);
        if let Some(rid) = run.and_then(|run| run.rid) {
            beat.observation.note("rid", rid.to_string());
        }
        beat
    }

    fn missed(&mut self, heard: Option<&Heard>, silence: Silence, now: Now) -> Beat {
        let last = heard.map(|heard| format!(" since {}", stamp(heard.last))).unwrap_or_default();
        let message = match (&self.rhythm, silence.expected) {
            (Rhythm::Cron(_), Some(expected)) => {
                let grace = format(self.grace_after(expected));
                format!("no ping{last}; one was expected at {} and {grace} later at the latest", stamp(expected))
            }
            (Rhythm::Period(period), _) => {
                let grace = format(self.grace_after(now.at));
                format!("no ping{last}; one is expected every {}, {grace} later at the latest", format(*period))
            }
            (Rhythm::Cron(_), None) => format!("no ping{last}"),
        };
        self.silence = match (&self.rhythm, silence.expected) {
            (Rhythm::Period(period), _) => {
                let next = silence.at + *period;
                let at = if next > now.instant { next } else { now.instant + *period };
                Some(Silence { at, expected: None })
            }
            (Rhythm::Cron(_), expected) => {
                let next = self.silence_from(expected.unwrap_or(now.at), now);
                next.filter(|next| next.at > now.instant).or_else(|| self.silence_from(now.at, now))
            }
        };
        self.beat(Some(Fault::new(Failure::HeartbeatMissed, message)), Duration::ZERO, now)
    }

    fn beat(&mut self, fault: Option<Fault>, took: Duration, now: Now) -> Beat {
        let mut observation = Observation::new(now.at);
        observation.timings.total = took;
        observation.fault.clone_from(&fault);
        self.latest = Some(Latest { fault, took, again: None });
        Beat { observation, attempt: 1 }
    }

    /// The state machine wants another check of what was last seen so long from now, unless there is news before.
    pub fn again(&mut self, after: Duration, attempt: u16, now: Now) {
        if let Some(latest) = &mut self.latest {
            latest.again = Some((now.instant + after, attempt));
        }
    }

    /// The wall clock shows something else than `before`, which it would show had it not stepped.
    pub fn realign(&mut self, heard: Option<&Heard>, before: DateTime<Utc>, now: Now) {
        let drift = now.at - before;
        let (Rhythm::Cron(cron), Some(silence)) = (&self.rhythm, self.silence) else { return };
        if drift.abs() <= CORRECTION {
            return;
        }
        let (Some(expected), Some(heard)) = (silence.expected, heard) else { return };
        let last = heard.last.min(now.at);
        let from = if drift > STEP && expected < now.at {
            // Nobody saw the time in which it would have come.
            now.at
        } else if drift < -STEP {
            last
        } else {
            let at = now.until(end(expected, self.grace_after(expected)));
            self.silence = Some(Silence { at, ..silence });
            return;
        };
        let again = cron.next_after(from).map(|_| from).unwrap_or(last);
        self.silence = self.silence_from(again, now);
    }

    /// When silence since `from` is one too long.
    fn silence_from(&self, from: DateTime<Utc>, now: Now) -> Option<Silence> {
        match &self.rhythm {
            Rhythm::Period(period) => {
                Some(Silence { at: now.until(end(from, *period + self.grace_after(from))), expected: None })
            }
            Rhythm::Cron(cron) => {
                let expected = cron.next_after(from)?;
                let at = now.until(end(expected, self.grace_after(expected)));
                Some(Silence { at, expected: Some(expected) })
            }
        }
    }

    fn grace_after(&self, expected: DateTime<Utc>) -> Duration {
        self.grace.unwrap_or_else(|| {
            let until_next = match &self.rhythm {
                Rhythm::Period(period) => Some(*period),
                Rhythm::Cron(cron) => cron.next_after(expected).and_then(|next| (next - expected).to_std().ok()),
            };
            until_next.unwrap_or(GRACE_MOST).min(GRACE_MOST)
        })
    }
}

fn going_since(run: &Run, now: Now) -> Going {
    let age = (now.at - run.started_at).to_std().unwrap_or_default();
    Going { started: now.instant.checked_sub(age).unwrap_or(now.instant), overruns: None }
}

fn stamp(at: DateTime<Utc>) -> String {
    at.format("%F %T UTC").to_string()
}

fn delta(duration: Duration) -> TimeDelta {
    TimeDelta::from_std(duration).unwrap_or(TimeDelta::MAX)
}

/// Saturates at the time itself, which only durations of many thousand years reach.
fn end(from: DateTime<Utc>, after: Duration) -> DateTime<Utc> {
    from.checked_add_signed(delta(after)).unwrap_or(from)
}

/// The last line that says something tells most about a failure.
fn with_quote(what: String, text: &str) -> String {
    match text.lines().map(str::trim).rfind(|line| !line.is_empty()) {
        Some(line) => format!("{what}: {}", line.chars().take(QUOTE_MAX).collect::<String>()),
        None => what,
    }
}

#[cfg(test)]
mod tests;
