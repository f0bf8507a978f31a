//! From the sources to what is in force: read, look whether they are complete, ask the store whether the guard lets them
//! through, and only then apply. One reading at a time: who asks meanwhile is answered by the next one.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use super::follower::{Follower, PATIENCE, off_loop};
use super::{FileOutcome, FileReading, NewContent, ReloadRequest};
use crate::catalog::merge;
use crate::catalog::plan::{Archiving, Guard};
use crate::catalog::{CatalogStore, Merged, Reloaded};
use crate::model::MonitorKey;
use crate::settings::definition::{Edits, Located};

/// Who asks for a reload is taken in while fewer wait for their answer.
const MOST_ASKED: usize = 64;
/// Sources that look cut off, and that nobody asked to read, must be the same after so long. Programs that write a file
/// piece by piece pause for less.
const CONFIRM: Duration = Duration::from_secs(2);

/// New and valid sources that wait for the store.
pub(super) struct Candidate {
    pub(super) edition: u64,
    pub(super) definitions: Arc<[Located]>,
    pub(super) force: bool,
    /// Whether the store has been asked.
    pub(super) asked: bool,
    /// Decided without the store then.
    pub(super) by: Instant,
    /// When the reading began.
    began: Instant,
}

impl Candidate {
    /// Over it, when this guard is over what is in force.
    pub(super) const fn guard(&self, in_force: Guard) -> Guard {
        if self.force { Guard::Force } else { Guard::Reload { had: in_force.had() } }
    }
}

/// Whether a monitor is not there any more, under its key or as a former one.
fn loses(before: &[Located], now: &[Located]) -> bool {
    let edits = Edits::between(before, now);
    let heirs: HashSet<&MonitorKey> =
        edits.changed.iter().filter_map(|located| located.renamed_from.as_ref()).collect();
    edits.gone.iter().any(|key| !heirs.contains(key))
}

impl<S: CatalogStore> Follower<S> {
    /// Whether the sources may be read now.
    pub(super) const fn may_read(&self) -> bool {
        self.candidate.is_none() && self.publish_by.is_none()
    }

    /// Takes in everybody who asks by now; the reading that answers them begins after that.
    pub(super) async fn reread_for(&mut self, first: ReloadRequest, others: &mut mpsc::Receiver<ReloadRequest>) {
        let mut force = first.force;
        self.asked.push(first.answer);
        while self.asked.len() < MOST_ASKED
            && let Ok(request) = others.try_recv()
        {
            force |= request.force;
            self.asked.push(request.answer);
        }
        self.reread(true, force).await;
    }

    /// Reads the sources again. Who asked is answered here, or with the decision, or with the publication.
    pub(super) async fn reread(&mut self, asked: bool, force: bool) {
        if asked {
            self.links.report.reloads().begin();
        }
        let began = Instant::now();
        let (file, before) = (Arc::clone(&self.file), Arc::clone(&self.definitions));
        let read = move || {
            let reading = file.read(asked);
            let cut = match &reading.outcome {
                FileOutcome::Content(content) if !asked => content.cut || loses(&before, &content.definitions),
                _ => false,
            };
            (reading, cut)
        };
        let (outcome, cut) = match spawn_blocking(read).await {
            Ok((FileReading { folders, outcome }, cut)) => {
                let _ = self.links.folders.send(folders).await;
                (outcome, cut)
            }
            // A file that our reader cannot bear is a bad one.
            Err(error) => (FileOutcome::Refused(format!("reading the sources failed: {error}")), false),
        };
        // What looks cut off is no reload yet.
        let is_new = match &outcome {
            FileOutcome::Content(content) => !cut || self.is_confirmed(content),
            FileOutcome::Refused(_) => true,
            FileOutcome::Unchanged | FileOutcome::StillRefused => false,
        };
        if is_new && !asked {
            self.links.report.reloads().begin();
        }
        match outcome {
            FileOutcome::Content(_) if !is_new => {}
            FileOutcome::Content(content) => self.propose(content, force, began).await,
            FileOutcome::Unchanged => {
                self.unconfirmed = None;
                let now = self.links.wall.now();
                self.links.report.edit(|report| {
                    report.file_error = None;
                    if asked || report.last_reload_ok != Some(true) {
                        report.reloaded(true, now);
                    }
                });
                self.tell_held(None);
                self.answer(&Reloaded { applied: true, ..Reloaded::default() });
            }
            FileOutcome::StillRefused => {
                let error = self.links.report.get().file_error;
                self.answer(&Reloaded { error, ..Reloaded::default() });
            }
            FileOutcome::Refused(findings) => {
                log::error!("the configuration is not applied, the one before stays:\n{findings}");
                self.unconfirmed = None;
                self.tell_held(None);
                self.refused(Reloaded { error: Some(findings), ..Reloaded::default() });
            }
        }
    }

    /// Whether sources that look cut off were the same some time ago; if not, they are read again later.
    fn is_confirmed(&mut self, content: &NewContent) -> bool {
        let now = Instant::now();
        let at = match self.unconfirmed {
            Some((digest, at)) if digest == content.digest => at,
            _ => now + CONFIRM,
        };
        self.unconfirmed = Some((content.digest, at));
        if at <= now {
            return true;
        }
        self.reread_at = Some(at);
        false
    }

    /// New and valid sources: the store says whether the guard lets them through.
    async fn propose(&mut self, content: NewContent, force: bool, began: Instant) {
        self.unconfirmed = None;
        self.editions += 1;
        // A store that is known to be away is not waited for.
        let patience = if self.retry_at.is_some() { Duration::ZERO } else { PATIENCE };
        let by = Instant::now() + patience;
        log::debug!(took:? = began.elapsed(); "the configuration is new and valid");
        let definitions = content.definitions;
        let candidate = Candidate { edition: self.editions, definitions, force, asked: false, by, began };
        self.candidate = Some(candidate);
        if patience.is_zero() {
            self.decide_without_store().await;
        }
    }

    /// Applies sources that wait, or refuses them, by the rows that the file had the last time somebody looked.
    pub(super) async fn decide_without_store(&mut self) {
        let Some(candidate) = self.candidate.take() else { return };
        let (keys, definitions) = (Arc::clone(&self.keys), Arc::clone(&candidate.definitions));
        let guard = candidate.guard(self.guard);
        match off_loop(move || merge::guarded_by_keys(&keys, &definitions, guard)).await {
            Some(archiving) => self.refuse(&archiving),
            None => self.accept(candidate, None).await,
        }
    }

    /// Sources that wait are in force from now on. Without a merge their rows follow when the store is there.
    pub(super) async fn accept(&mut self, candidate: Candidate, merged: Option<Merged>) {
        log::debug!(since_read_began:? = candidate.began.elapsed(); "the rows are as it says");
        self.reload_began = Some(candidate.began);
        let needs_restart = self.file.apply();
        for part in &needs_restart {
            log::warn!("{part} has changed, which takes effect at the next start");
        }
        let now = self.links.wall.now();
        self.links.report.edit(|report| {
            (report.file_error, report.needs_restart) = (None, needs_restart);
            report.reloaded(true, now);
        });
        let guard = candidate.guard(self.guard);
        let before = std::mem::replace(&mut self.definitions, candidate.definitions);
        self.edition = candidate.edition;
        // Said once, for this content: what comes later is guarded again.
        self.guard = match guard {
            Guard::Reload { had } => Guard::Again { had },
            guard => guard,
        };
        // The plans may be others, and so may the defaults.
        self.due.owners = true;
        self.rows.weigh_again();
        let rows = self.rows.all();
        match merged {
            Some(merged) => {
                self.due.merge = false;
                self.merged(merged, Some(before)).await;
            }
            None => {
                self.due.merge = true;
                self.tell_held(None);
                self.make_file_entries(None).await;
                // Freeing 100,000 of them takes longer than a check may wait.
                drop(spawn_blocking(move || drop(before)));
            }
        }
        self.reread_rows(rows).await;
        self.publish_by = Some(candidate.by.max(Instant::now()));
    }

    /// The guard does not let sources through.
    pub(super) fn refuse(&mut self, archiving: &Archiving) {
        let text = format!(
            "this would archive {archiving}, and is not applied: the configuration before stays. If it is meant, run \
             `lamplighter reload --force`"
        );
        log::error!("{text}");
        self.file.refuse(&text);
        self.tell_held(Some(archiving.clone()));
        let archiving = Some(archiving.clone());
        self.refused(Reloaded { error: Some(text), archiving, ..Reloaded::default() });
    }

    fn refused(&mut self, answer: Reloaded) {
        let now = self.links.wall.now();
        self.links.report.edit(|report| {
            report.file_error.clone_from(&answer.error);
            report.reloaded(false, now);
        });
        self.answer(&answer);
    }

    /// Tells what is not archived: by a reload that was refused, else by the last merge.
    pub(super) fn tell_held(&self, refused: Option<Archiving>) {
        let held = refused.or_else(|| self.guarded.clone());
        self.links.report.edit(|report| report.archive_held = held);
    }
}
