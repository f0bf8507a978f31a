//! What is counted: checks on their way through the real pool and the real stage by way of the journal to the rows for COPY.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use lamplighter::catalog::{Changes, Entry, Snapshot, Update, merge};
use lamplighter::clock::{SystemWall, Wall};
use lamplighter::journal::Journal;
use lamplighter::journal::disk::DiskJournal;
use lamplighter::model::{MonitorId, MonitorState, Record, Source, UserId, Verdict};
use lamplighter::probe::net::{EgressOptions, Net, NetOptions};
use lamplighter::probe::pool::Pool;
use lamplighter::schedule::{Done, Due};
use lamplighter::settings::definition::Located;
use lamplighter::settings::diagnostic::SourceText;
use lamplighter::settings::model::{self, Environment};
use lamplighter::shutdown;
use lamplighter::store::copy;
use lamplighter::verdict::board::Board;
use lamplighter::verdict::pings::Pings;
use lamplighter::verdict::stage::Stage;
use tokio::sync::mpsc;
use tokio::time::Instant;
use uuid::Uuid;

const MONITORS: usize = 100;
/// Rows of one COPY.
const BATCH: usize = 500;
/// Never full: thinning is not what a check costs.
const JOURNAL_BYTES: u64 = 1 << 30;

/// The journal on disk, which also keeps what it writes, for COPY. The recorder would read it from the disk.
struct Kept {
    journal: DiskJournal,
    records: Mutex<Vec<Record>>,
}

impl Journal for Kept {
    fn append(&self, records: Vec<Record>) {
        self.write(vec![records]);
    }

    fn write(&self, groups: Vec<Vec<Record>>) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).extend(groups.iter().flatten().cloned());
        self.journal.write(groups);
    }
}

impl Kept {
    fn open(state: &Path, wall: &dyn Wall) -> Result<Self, String> {
        let journal = DiskJournal::open(state, JOURNAL_BYTES, wall.now()).map_err(|error| error.to_string())?;
        Ok(Self { journal, records: Mutex::default() })
    }

    fn take(&self) -> Vec<Record> {
        std::mem::take(&mut *self.records.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Makes so many checks, one after the other on one thread: in parallel, chance would decide how many are ready in one
/// wake-up.
pub(crate) fn run(checks: u32, port: u16) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| error.to_string())?.block_on(pass(checks, entries(port)?))
}

/// Monitors as a file defines them.
fn entries(port: u16) -> Result<Vec<Arc<Entry>>, String> {
    let table = |number: usize| {
        format!(
            "[[monitor]]\nid = \"m{number}\"\nurl = \"http://127.0.0.1:{port}/health/{number}\"\n\
             headers = {{ Accept = \"text/html\" }}\n\
             expect = {{ status = [\"2xx\"], latency_below = \"9s\", body_contains = \"well\" }}\n"
        )
    };
    let text: String = (0..MONITORS).map(table).collect();
    let environment = Environment { variable: &|_| None, credentials: None };
    let settings = model::read(&[SourceText::new("monitors".to_owned(), text)], Path::new("."), environment, &[]);
    let settings = settings.map_err(|refusal| refusal.to_string())?;
    let owner = UserId(Uuid::nil());
    let build = |definition: &Located| {
        let id = MonitorId(Uuid::new_v4());
        Arc::new(merge::build(definition, id, owner, Source::File))
    };
    Ok(settings.monitors.iter().map(build).collect())
}

fn net() -> Result<Net, String> {
    Net::new(NetOptions {
        resolvers: Vec::new(),
        ca_files: Vec::new(),
        egress: EgressOptions::default(),
        user_agent: "Lamplighter/0.1".to_owned(),
        max_body: 1 << 20,
    })
}

async fn pass(checks: u32, entries: Vec<Arc<Entry>>) -> Result<(), String> {
    let wall: Arc<dyn Wall> = Arc::new(SystemWall);
    let state = tempfile::tempdir().map_err(|error| error.to_string())?;
    let journal = Arc::new(Kept::open(state.path(), &*wall)?);
    let (due, due_end) = mpsc::channel(16);
    let (finished, finished_end) = mpsc::channel(16);
    let (done, mut done_end) = mpsc::channel(16);
    let (updates, updates_end) = mpsc::channel(1);
    let (_states, states_end) = mpsc::channel(1);
    let (_trigger, stop) = shutdown::channel();
    let net = Arc::new(ArcSwap::from_pointee(net()?));
    let gaps = Arc::clone(&journal) as Arc<dyn Journal>;
    let pool = Pool { net, wall: Arc::clone(&wall), journal: gaps, finished, grace: Duration::from_secs(1) };
    let (to_pings, pinged) = mpsc::channel(1);
    let stage = Stage {
        finished: finished_end,
        updates: updates_end,
        states: states_end,
        done,
        journal: Arc::clone(&journal) as Arc<dyn Journal>,
        wall,
        board: Arc::new(Board::default()),
        pings: Arc::new(Pings::new(to_pings)),
        pinged,
        covers: tokio::sync::watch::channel(Arc::default()).1,
    };
    let added = entries.iter().map(|entry| (Arc::clone(entry), MonitorState::default())).collect();
    let monitors: HashMap<_, _> = entries.iter().map(|entry| (entry.monitor.id, Arc::clone(entry))).collect();
    let changes = Arc::new(Changes { added, ..Changes::default() });
    let update = Update { snapshot: Arc::new(Snapshot { generation: 1, monitors }), changes };
    updates.send(update).await.map_err(|error| error.to_string())?;
    tokio::spawn(pool.run(due_end, stop));
    tokio::spawn(stage.run());

    let (mut made, mut bytes) = (0, 0);
    for entry in entries.iter().cycle().take(checks as usize) {
        let next = Due { entry: Arc::clone(entry), attempt: 1, due_at: Instant::now() };
        due.send(next).await.map_err(|error| error.to_string())?;
        let _: Done = done_end.recv().await.ok_or("the stage has ended")?;
        made += 1;
        if made % BATCH == 0 {
            bytes += encode(&journal.take())?;
        }
    }
    if bytes == 0 {
        return Err(format!("{checks} checks make no whole batch of {BATCH}"));
    }
    Ok(())
}

/// As the store does; gives the size.
fn encode(records: &[Record]) -> Result<usize, String> {
    let checks: Vec<_> = records
        .iter()
        .filter_map(|record| match record {
            Record::Check(check) => Some(check),
            _ => None,
        })
        .collect();
    match checks.iter().find(|check| check.verdict != Verdict::Up) {
        Some(check) => Err(format!("a check went wrong, so that another path was counted: {check:?}")),
        None if checks.len() < BATCH => Err(format!("{} of {BATCH} checks were recorded", checks.len())),
        None => Ok(copy::encode(&checks, "us-east-1").len()),
    }
}
