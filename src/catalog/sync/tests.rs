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
use crate::catalog::remember::{self, Remembered};
use crate::catalog::{CatalogStore, Entry, FileRow, Merged, Removal};
use crate::model::{IncidentUid, MonitorId, MonitorKey, MonitorState, SYSTEM_USER, Source, StoreFault};
use crate::settings::diagnostic::SourceText;
use crate::settings::model::{Environment, Settings, read};
use crate::shutdown::{self, Trigger};

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
    }
}

/// A file whose next reading is set by the test.
struct FakeFile {
    text: Mutex<Result<String, String>>,
    read: Mutex<Result<String, String>>,
    defaults: Mutex<Arc<crate::settings::defaults::Defaults>>,
    next: Mutex<Option<Arc<crate::settings::defaults::Defaults>>>,
}

impl FileSource for FakeFile {
    fn read(&self, force: bool) -> FileReading {
        let now = self.text.lock().unwrap().clone();
        let before = std::mem::replace(&mut *self.read.lock().unwrap(), now.clone());
        let outcome = match now {
            Ok(text) if force || before.as_ref() != Ok(&text) => {
                let settings = settings(&text);
                *self.next.lock().unwrap() = Some(settings.defaults);
                FileOutcome::Content(settings.monitors.into())
            }
            Ok(_) => FileOutcome::Unchanged,
            Err(why) if !force && before.as_ref() == Err(&why) => FileOutcome::StillRefused,
            Err(why) => FileOutcome::Refused(why),
        };
        FileReading { folders: Vec::new(), outcome }
    }

    fn read_row(&self, row: &MonitorRow) -> Result<Definition, String> {
        let defaults = Arc::clone(&self.defaults.lock().unwrap());
        crate::settings::monitor::read_row(row, &defaults)
    }

    fn apply(&self) -> Vec<String> {
        if let Some(next) = self.next.lock().unwrap().take() {
            *self.defaults.lock().unwrap() = next;
        }
        Vec::new()
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
    dismissed: Mutex<Vec<(MonitorId, IncidentUid)>>,
    modes: Mutex<HashMap<&'static str, Mode>>,
    calls: Mutex<Vec<(&'static str, Instant)>>,
    revision: AtomicUsize,
    notify: Notify,
    deaf: AtomicBool,
}

impl FakeStore {
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

    fn merge_now(&self, files: &[FileRow]) -> Merged {
        let mut merged = Merged::default();
        let (mut rows, mut archived) = (self.rows.lock().unwrap(), self.archived.lock().unwrap());
        let mut claimed = HashSet::new();
        for file in files {
            let has = |row: &&MonitorRow, key: &MonitorKey| {
                row.source == Source::File && row.key.as_deref() == Some(key.as_str())
            };
            let find = |key| rows.values().chain(archived.values()).find(|row| has(row, key)).cloned();
            let former = file.renamed_from.as_ref().filter(|former| !files.iter().any(|file| file.key == **former));
            let old = find(&file.key).or_else(|| find(former?));
            let taken = |id| rows.contains_key(&id) || archived.contains_key(&id);
            let fresh = Some(MonitorId::of_key(&file.key)).filter(|id| !taken(*id));
            let id = old.as_ref().map_or_else(|| fresh.unwrap_or(MonitorId(Uuid::new_v4())), |old| old.id);
            claimed.insert(id);
            let mut new = old.clone().unwrap_or_else(|| MonitorRow { id, source: Source::File, ..row(0) });
            (new.key, new.name, new.url) = (Some(file.key.to_string()), file.name.clone(), file.url.clone());
            (new.kind, new.spec, new.tags) = (Some(file.kind.clone()), file.spec.clone(), file.tags.clone());
            (new.interval_seconds, new.timeout_seconds) = (file.interval_seconds, file.timeout_seconds);
            new.is_active = file.is_active;
            let same = |old: &MonitorRow| (&old.key, &old.name, &old.url) == (&new.key, &new.name, &new.url);
            let was_archived = archived.remove(&id).is_some();
            if was_archived || !old.as_ref().is_some_and(same) {
                new.revision = self.next_revision();
            }
            rows.insert(id, new);
            merged.ids.insert(file.key.clone(), (id, SYSTEM_USER));
        }
        let leaves = |row: &&MonitorRow| row.source == Source::File && row.key.is_some() && !claimed.contains(&row.id);
        merged.archived = rows.values().filter(leaves).map(|row| row.id).collect();
        for id in &merged.archived {
            archived.insert(*id, rows.remove(id).unwrap());
        }
        merged
    }
}

impl CatalogStore for FakeStore {
    fn merge<'a>(&'a self, rows: &'a [FileRow]) -> BoxFuture<'a, Result<Merged, StoreFault>> {
        Box::pin(async move {
            self.call("merge").await?;
            Ok(self.merge_now(rows))
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

    fn revisions(&self) -> BoxFuture<'_, Result<Vec<(MonitorId, i64)>, StoreFault>> {
        Box::pin(async move {
            self.call("revisions").await?;
            Ok(self.rows.lock().unwrap().values().map(|row| (row.id, row.revision)).collect())
        })
    }

    fn mark_invalid<'a>(&'a self, reasons: &'a [(MonitorId, Option<String>)]) -> BoxFuture<'a, Result<(), StoreFault>> {
        Box::pin(async move {
            self.call("mark").await?;
            for (id, reason) in reasons {
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
    modes: Vec<(&'static str, Mode)>,
    remembered: Option<Remembered>,
    /// Room on the way to the followers.
    room: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self { toml: String::new(), rows: Vec::new(), modes: Vec::new(), remembered: None, room: 1000 }
    }
}

impl World {
    fn start(plan: Plan) -> Self {
        let store = Arc::new(FakeStore {
            rows: Mutex::default(),
            archived: Mutex::default(),
            dismissed: Mutex::default(),
            modes: Mutex::new(plan.modes.into_iter().collect()),
            calls: Mutex::default(),
            revision: AtomicUsize::new(0),
            notify: Notify::new(),
            deaf: AtomicBool::new(false),
        });
        plan.rows.into_iter().for_each(|row| store.put(row));
        let first = settings(&plan.toml);
        let file = Arc::new(FakeFile {
            text: Mutex::new(Ok(plan.toml.clone())),
            read: Mutex::new(Ok(plan.toml)),
            defaults: Mutex::new(first.defaults),
            next: Mutex::default(),
        });
        let folder = tempfile::tempdir().unwrap();
        let (to_updates, updates) = mpsc::channel(plan.room);
        let (folders, mut folders_end) = mpsc::channel(1);
        let (states, mut states_end) = mpsc::channel::<StatesRequest>(1);
        tokio::spawn(async move { while folders_end.recv().await.is_some() {} });
        tokio::spawn(async move {
            while let Some(request) = states_end.recv().await {
                let _ = request.send(HashMap::new());
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

    async fn reloaded(&self) -> Reloaded {
        let (ask, answer) = oneshot::channel();
        self.reload.send(ask).await.unwrap();
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
