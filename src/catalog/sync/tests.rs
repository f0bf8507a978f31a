//! The loop on paused time, over a store and a file that live in memory.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use uuid::Uuid;

use super::*;
use crate::catalog::limits::Owners;
use crate::catalog::merge;
use crate::catalog::plan::{Guard, Place, StoredRow, assign};
use crate::catalog::remember::{self, Remembered};
use crate::catalog::{CatalogStore, Entry, FileRow, Mark, MergeAnswer, Merged, Removal};
use crate::model::{IncidentUid, Keeping, MonitorId, MonitorKey, MonitorState, SYSTEM_USER, Source, StoreFault};
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{Environment, Settings, read};
use crate::shutdown::{self, Trigger};

mod guard;
mod plans;
mod pure;
mod rows;
mod store;

fn settings(toml: &str) -> Settings {
    let environment = Environment { variable: &|_| None, credentials: None };
    read(&[SourceText::new("c.toml", toml)], std::path::Path::new("/nowhere"), environment, &[]).unwrap()
}

fn monitors(ids: &[&str]) -> String {
    let each = ids.iter().map(|id| format!("[[monitor]]\nid = \"{id}\"\nurl = \"tcp://{id}.example:1\"\n"));
    each.collect()
}

fn key(text: &str) -> MonitorKey {
    text.parse().unwrap()
}

fn of_key(text: &str) -> MonitorId {
    MonitorId::of_key(&key(text))
}

fn id(number: u128) -> MonitorId {
    MonitorId(Uuid::from_u128(number))
}

fn row(number: u128) -> MonitorRow {
    MonitorRow {
        id: id(number),
        user_id: SYSTEM_USER,
        name: format!("row {number}"),
        url: "tcp://row.example:1".to_owned(),
        interval_seconds: 300,
        timeout_seconds: 10,
        is_active: true,
        kind: None,
        spec: serde_json::json!({}),
        tags: Vec::new(),
        source: Source::Database,
        key: None,
        revision: 0,
        invalid_reason: None,
        state: None,
        last_checked: None,
        created_at: None,
    }
}

/// What a reading gives besides monitors.
type FakeContent = (String, Arc<crate::settings::defaults::Defaults>, Arc<Keeping>);

/// A file whose next reading is set by the test.
struct FakeFile {
    text: Mutex<Result<String, String>>,
    read: Mutex<Result<String, String>>,
    defaults: Mutex<Arc<crate::settings::defaults::Defaults>>,
    keeping: Mutex<Arc<Keeping>>,
    next: Mutex<Option<FakeContent>>,
    in_force: Mutex<Option<String>>,
    hasher: std::hash::BuildHasherDefault<std::hash::DefaultHasher>,
}

impl FileSource for FakeFile {
    fn read(&self, asked: bool) -> FileReading {
        let now = self.text.lock().unwrap().clone();
        let before = std::mem::replace(&mut *self.read.lock().unwrap(), now.clone());
        let outcome = match now {
            Ok(text) if asked || self.in_force.lock().unwrap().as_ref() != Some(&text) => {
                let settings = settings(&text);
                *self.next.lock().unwrap() = Some((text.clone(), settings.defaults, settings.keeping));
                let mut digest = [0; 32];
                digest[..8].copy_from_slice(&std::hash::BuildHasher::hash_one(&self.hasher, &text).to_le_bytes());
                FileOutcome::Content(NewContent { definitions: settings.monitors.into(), digest, cut: false })
            }
            Ok(_) => FileOutcome::Unchanged,
            Err(why) if !asked && before.as_ref() == Err(&why) => FileOutcome::StillRefused,
            Err(why) => FileOutcome::Refused(why),
        };
        FileReading { folders: Vec::new(), outcome }
    }

    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String> {
        let defaults = Arc::clone(&self.defaults.lock().unwrap());
        crate::settings::monitor::read_row(row, &defaults)
    }

    fn read_held(&self, row: &MonitorRow, trusted: bool) -> Result<Definition, String> {
        if !trusted {
            return crate::settings::monitor::read_row(row, &crate::settings::defaults::Defaults::default());
        }
        let environment = Environment { variable: &|_| Some("expanded".to_owned()), credentials: None };
        crate::settings::monitor::read_own_row(row, std::path::Path::new("/nowhere"), environment)
    }

    fn apply(&self) -> Vec<String> {
        if let Some((text, defaults, keeping)) = self.next.lock().unwrap().take() {
            *self.keeping.lock().unwrap() = keeping;
            *self.defaults.lock().unwrap() = defaults;
            *self.in_force.lock().unwrap() = Some(text);
        }
        Vec::new()
    }

    fn keeping(&self) -> Arc<Keeping> {
        Arc::clone(&self.keeping.lock().unwrap())
    }

    fn refuse(&self, _: &str) {
        self.next.lock().unwrap().take();
    }
}

/// How the store answers a call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Well,
    Away,
    Refuses,
    Hangs,
}

struct FakeStore {
    rows: Mutex<HashMap<MonitorId, MonitorRow>>,
    archived: Mutex<HashMap<MonitorId, MonitorRow>>,
    /// `users.plan`.
    plans: Mutex<Owners>,
    dismissed: Mutex<Vec<(MonitorId, IncidentUid)>>,
    modes: Mutex<HashMap<&'static str, Mode>>,
    calls: Mutex<Vec<(&'static str, Instant)>>,
    revision: AtomicUsize,
    notify: Notify,
    deaf: AtomicBool,
    /// Somebody deletes this row as soon as the next call of this name has been answered.
    delete_after: Mutex<Option<(&'static str, MonitorId)>>,
}

impl FakeStore {
    fn answered(&self, name: &str) {
        if let Some((_, id)) = self.delete_after.lock().unwrap().take_if(|(call, _)| *call == name) {
            self.rows.lock().unwrap().remove(&id).unwrap();
            self.notify.notify_one();
        }
    }

    async fn call(&self, name: &'static str) -> Result<(), StoreFault> {
        self.calls.lock().unwrap().push((name, Instant::now()));
        let mode = {
            let modes = self.modes.lock().unwrap();
            modes.get(name).or_else(|| modes.get("all")).copied().unwrap_or(Mode::Well)
        };
        match mode {
            Mode::Well => Ok(()),
            Mode::Away => Err(StoreFault::Away("test".to_owned())),
            Mode::Refuses => Err(StoreFault::Refused("test".to_owned())),
            Mode::Hangs => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Err(StoreFault::Away("no answer within 60 s".to_owned()))
            }
        }
    }

    fn set(&self, name: &'static str, mode: Mode) {
        self.modes.lock().unwrap().insert(name, mode);
    }

    fn calls(&self, name: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(called, _)| *called == name).count()
    }

    fn next_revision(&self) -> i64 {
        i64::try_from(self.revision.fetch_add(1, Ordering::Relaxed)).unwrap() + 1
    }

    /// Writes a row as somebody else, without a notification.
    fn put(&self, mut row: MonitorRow) {
        row.revision = self.next_revision();
        self.rows.lock().unwrap().insert(row.id, row);
    }

    fn edit(&self, id: MonitorId, change: impl FnOnce(&mut MonitorRow)) {
        let mut row = self.rows.lock().unwrap().get(&id).cloned().unwrap();
        change(&mut row);
        self.put(row);
    }

    fn get(&self, id: MonitorId) -> Option<MonitorRow> {
        self.rows.lock().unwrap().get(&id).cloned()
    }

    fn merge_now(&self, files: &[FileRow], guard: Guard) -> MergeAnswer {
        let (mut merged, mut ids) = (Merged::default(), merge::Ids::new());
        let (mut rows, mut archived) = (self.rows.lock().unwrap(), self.archived.lock().unwrap());
        let of_file = |row: &&MonitorRow| row.source == Source::File && row.key.is_some();
        let stored = |row: &MonitorRow, archived| StoredRow { id: row.id, key: row.key.clone().unwrap(), archived };
        let living = rows.values().filter(of_file).map(|row| stored(row, false));
        let stored: Vec<StoredRow> = living.chain(archived.values().map(|row| stored(row, true))).collect();
        let keys = files.iter().map(|file| (file.key.as_str(), file.renamed_from.as_ref().map(MonitorKey::as_str)));
        let assignment = assign(&stored, keys);
        merged.guarded = assignment.guarded(&stored, guard);
        if let (Some(archiving), Guard::Reload { .. }) = (&merged.guarded, guard) {
            return MergeAnswer::Refused(archiving.clone());
        }
        for (file, place) in files.iter().zip(&assignment.places) {
            let old = match place {
                Place::Own(at) | Place::Renamed(at) => {
                    let id = stored[*at].id;
                    Some(rows.get(&id).or_else(|| archived.get(&id)).cloned().unwrap())
                }
                Place::New => None,
            };
            let taken = |id| rows.contains_key(&id) || archived.contains_key(&id);
            let fresh = Some(MonitorId::of_key(&file.key)).filter(|id| !taken(*id));
            let id = old.as_ref().map_or_else(|| fresh.unwrap_or(MonitorId(Uuid::new_v4())), |old| old.id);
            let mut new = old.clone().unwrap_or_else(|| MonitorRow { id, source: Source::File, ..row(0) });
            (new.key, new.name, new.url) = (Some(file.key.to_string()), file.name.to_string(), file.url.to_string());
            let tags = file.tags.iter().map(ToString::to_string).collect();
            (new.kind, new.spec, new.tags) = (Some(file.kind.to_owned()), file.spec(), tags);
            (new.interval_seconds, new.timeout_seconds) = (file.interval_seconds, file.timeout_seconds);
            new.is_active = file.is_active;
            let same = |old: &MonitorRow| (&old.key, &old.name, &old.url) == (&new.key, &new.name, &new.url);
            let was_archived = archived.remove(&id).is_some();
            if was_archived || !old.as_ref().is_some_and(same) {
                new.revision = self.next_revision();
                merged.written.push(id);
            }
            rows.insert(id, new);
            ids.insert(file.key.clone(), (id, SYSTEM_USER));
        }
        for gone in assignment.gone.iter().map(|at| &stored[*at]) {
            if merged.guarded.is_some() {
                merged.held.push(gone.id);
                ids.insert(key(&gone.key), (gone.id, SYSTEM_USER));
            } else {
                merged.archived.push(gone.id);
                archived.insert(gone.id, rows.remove(&gone.id).unwrap());
            }
        }
        merged.ids = Arc::new(ids);
        MergeAnswer::Done(merged)
    }
}

impl CatalogStore for FakeStore {
    fn merge(&self, rows: Arc<[FileRow]>, guard: Guard) -> BoxFuture<'_, Result<MergeAnswer, StoreFault>> {
        Box::pin(async move {
            self.call("merge").await?;
            let answer = self.merge_now(&rows, guard);
            self.answered("merge");
            Ok(answer)
        })
    }

    fn load<'a>(&'a self, only: Option<&'a [MonitorId]>) -> BoxFuture<'a, Result<Vec<MonitorRow>, StoreFault>> {
        Box::pin(async move {
            self.call(if only.is_some() { "load some" } else { "load all" }).await?;
            let rows = self.rows.lock().unwrap();
            Ok(rows.values().filter(|row| only.is_none_or(|ids| ids.contains(&row.id))).cloned().collect())
        })
    }

    fn dismissed(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, IncidentUid)>, StoreFault>> {
        Box::pin(async move {
            self.call("dismissed").await?;
            Ok(self.dismissed.lock().unwrap().clone())
        })
    }

    fn archived<'a>(&'a self, ids: &'a [MonitorId]) -> BoxFuture<'a, Result<Vec<MonitorId>, StoreFault>> {
        Box::pin(async move {
            self.call("archived").await?;
            let archived = self.archived.lock().unwrap();
            Ok(ids.iter().copied().filter(|id| archived.contains_key(id)).collect())
        })
    }

    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>> {
        Box::pin(async move {
            self.call("revisions").await?;
            Ok(self.rows.lock().unwrap().values().map(|row| (row.id, row.revision)).collect())
        })
    }

    fn owners<'a>(&'a self, plans: &'a [Arc<str>]) -> BoxFuture<'a, Result<Owners, StoreFault>> {
        Box::pin(async move {
            self.call("owners").await?;
            let asked = |plan: &str| plans.iter().any(|name| **name == *plan);
            let owners = self.plans.lock().unwrap();
            Ok(owners.iter().filter(|(_, plan)| asked(plan)).map(|(id, plan)| (*id, plan.clone())).collect())
        })
    }

    fn mark_invalid<'a>(&'a self, marks: &'a [Mark]) -> BoxFuture<'a, Result<(), StoreFault>> {
        Box::pin(async move {
            self.call("mark").await?;
            for Mark { id, reason, .. } in marks {
                if let Some(row) = self.rows.lock().unwrap().get_mut(id) {
                    row.invalid_reason.clone_from(reason);
                }
            }
            Ok(())
        })
    }

    fn changed(&self) -> BoxFuture<'_, Result<(), StoreFault>> {
        Box::pin(async move {
            if self.deaf.load(Ordering::Relaxed) {
                return Err(StoreFault::Away("cannot listen".to_owned()));
            }
            self.notify.notified().await;
            Ok(())
        })
    }
}

/// The loop with everything around it.
struct World {
    store: Arc<FakeStore>,
    file: Arc<FakeFile>,
    snapshot: Arc<arc_swap::ArcSwap<Snapshot>>,
    report: Arc<SharedReport>,
    file_wake: mpsc::Sender<()>,
    reload: mpsc::Sender<ReloadRequest>,
    minute: mpsc::Sender<()>,
    updates: mpsc::Receiver<Update>,
    trigger: Trigger,
    task: JoinHandle<()>,
    folder: tempfile::TempDir,
}

struct Plan {
    toml: String,
    rows: Vec<MonitorRow>,
    /// `users.plan`.
    plans: Owners,
    modes: Vec<(&'static str, Mode)>,
    remembered: Option<Remembered>,
    /// As in [`FakeStore`].
    delete_after: Option<(&'static str, MonitorId)>,
    /// Room on the way to the followers.
    room: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            toml: String::new(),
            rows: Vec::new(),
            plans: Owners::new(),
            modes: Vec::new(),
            remembered: None,
            delete_after: None,
            room: 1000,
        }
    }
}

impl World {
    fn start(plan: Plan) -> Self {
        let store = Arc::new(FakeStore {
            rows: Mutex::default(),
            archived: Mutex::default(),
            plans: Mutex::new(plan.plans),
            dismissed: Mutex::default(),
            modes: Mutex::new(plan.modes.into_iter().collect()),
            calls: Mutex::default(),
            revision: AtomicUsize::new(0),
            notify: Notify::new(),
            deaf: AtomicBool::new(false),
            delete_after: Mutex::new(plan.delete_after),
        });
        plan.rows.into_iter().for_each(|row| store.put(row));
        let first = settings(&plan.toml);
        let in_force = plan.toml.clone();
        let file = Arc::new(FakeFile {
            text: Mutex::new(Ok(plan.toml.clone())),
            read: Mutex::new(Ok(plan.toml)),
            defaults: Mutex::new(first.defaults),
            keeping: Mutex::new(first.keeping),
            next: Mutex::default(),
            in_force: Mutex::new(Some(in_force)),
            hasher: std::hash::BuildHasherDefault::default(),
        });
        let folder = tempfile::tempdir().unwrap();
        let (to_updates, updates) = mpsc::channel(plan.room);
        let (folders, mut folders_end) = mpsc::channel(1);
        let (states, mut states_end) = mpsc::channel::<StatesRequest>(1);
        tokio::spawn(async move { while folders_end.recv().await.is_some() {} });
        tokio::spawn(async move {
            while let Some(request) = states_end.recv().await {
                let StatesRequest::Ids(asked) = request else { panic!("there are none") };
                let _ = asked.send(Vec::new());
            }
        });
        let snapshot = Arc::new(arc_swap::ArcSwap::from_pointee(Snapshot::default()));
        let report = Arc::new(SharedReport::default());
        let links = Links {
            updates: vec![to_updates],
            snapshot: Arc::clone(&snapshot),
            report: Arc::clone(&report),
            folders,
            states,
            remember_at: remember::path(folder.path()),
            wall: Arc::new(crate::clock::SystemWall),
            recovered: Arc::default(),
        };
        let (file_wake, file_end) = mpsc::channel(1);
        let (reload, reload_end) = mpsc::channel(16);
        let (minute, minute_end) = mpsc::channel(1);
        let wakes = Wakes { file: file_end, reload: reload_end, minute: minute_end };
        let source: Arc<dyn FileSource> = Arc::clone(&file) as Arc<dyn FileSource>;
        let follower = Follower::new(source, Arc::clone(&store), links, plan.remembered);
        let (trigger, shutdown) = shutdown::channel();
        let content = FileContent { definitions: first.monitors.into(), folders: Vec::new() };
        let task = tokio::spawn(follower.run(content, wakes, shutdown));
        Self { store, file, snapshot, report, file_wake, reload, minute, updates, trigger, task, folder }
    }

    fn write(&self, toml: &str) {
        *self.file.text.lock().unwrap() = Ok(toml.to_owned());
    }

    fn ids(&self) -> HashSet<MonitorId> {
        self.snapshot.load().monitors.keys().copied().collect()
    }

    async fn update(&mut self) -> Update {
        timeout(Duration::from_secs(100), self.updates.recv()).await.expect("an update comes").unwrap()
    }

    /// No update comes although everything that is due was done.
    async fn quiet(&mut self) {
        let came = timeout(Duration::from_secs(8), self.updates.recv()).await;
        assert!(came.is_err(), "an update without need");
    }

    /// The same after updates that have come already.
    async fn quiet_after_update(&mut self) {
        while timeout(Duration::from_secs(8), self.updates.recv()).await.is_ok() {}
    }

    async fn reloaded(&self) -> Reloaded {
        self.reloaded_with(false).await
    }

    async fn reloaded_with(&self, force: bool) -> Reloaded {
        let (ask, answer) = oneshot::channel();
        self.reload.send(ReloadRequest { force, answer: ask }).await.unwrap();
        timeout(Duration::from_secs(100), answer).await.expect("an answer comes").unwrap()
    }

    /// The minute's comparison, and what follows.
    async fn minute(&self) {
        self.minute.send(()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    /// Ends the loop; how long it took.
    async fn end(self) -> (Duration, Option<Remembered>) {
        let began = Instant::now();
        self.trigger.fire();
        self.task.await.unwrap();
        (began.elapsed(), remember::read(&remember::path(self.folder.path())).unwrap())
    }
}
