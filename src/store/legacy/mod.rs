//! The upgrade of an integer-keyed database (contract, section 6): `lamplighter migrate legacy`.
//!
//! The new tables grow in a schema of their own, in batches by id, while the old application reads and writes on; triggers
//! note which rows it writes. When all is there, one short transaction moves the old tables to the schema `legacy` and the
//! new ones in their place. Every step is a transaction that also says how far it got, so a run that was killed at any
//! moment is gone on with by the next.

mod begin;
mod catch_up;
mod convert;
mod copy;
mod dropping;
mod load;
mod plan;
mod report;
mod session;
mod shape;
mod statements;
mod switch;

use std::time::Duration;

use sqlx::Connection as _;

pub use dropping::{Dropped, DroppedTable};
pub use report::{ColumnReport, Copied, OtherTable, TableReport, UpgradeReport};

use super::classify::{Found, classify};
use super::fault::{describe, sqlstate};
use super::{StartError, Store};
use session::{Session, State};

/// Statements for any database of ours.
pub(super) const STATEMENTS: &[&[&str]] = &[shape::STATEMENTS, begin::STATEMENTS];
/// Statements for a database whose upgrade was begun, and for one where reports were copied.
#[doc(hidden)]
pub const BEGUN_STATEMENTS: &[&[&str]] = &[
    session::STATEMENTS,
    begin::BEGUN_STATEMENTS,
    load::BEGUN_STATEMENTS,
    catch_up::BEGUN_STATEMENTS,
    switch::BEGUN_STATEMENTS,
    report::BEGUN_STATEMENTS,
    dropping::BEGUN_STATEMENTS,
];
#[doc(hidden)]
pub const COPY_STATEMENTS: &[&str] = copy::COPY_STATEMENTS;

/// How long a step that locks out readers or writers waits for its lock; everybody else queues behind it.
const LOCK_MS: u32 = 400;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(250);
/// Tries of a step that needs a lock: two minutes and more of a table that is never free.
const TRIES: usize = 400;

/// What is asked of an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpgradeOptions {
    /// The zone of times without one, by its IANA name; none: UTC, or what the upgrade was begun with.
    pub timezone: Option<String>,
    /// Reports become checks as well.
    pub copy_reports: bool,
    /// The old tables go, when the upgrade is finished.
    pub drop_legacy: bool,
}

/// What is told while it works.
#[derive(Clone, Copy, Debug)]
pub enum Step<'a> {
    /// A piece of work begins; `total` 0: nobody knows how much it is.
    Begin {
        /// What is done.
        what: &'a str,
        /// How many units.
        total: u64,
        /// Of what.
        unit: &'static str,
    },
    /// So much of it is done.
    At(u64),
    /// Something else worth a line.
    Note(&'a str),
}

/// Who is told.
pub type Watch<'a> = dyn FnMut(Step<'_>) + Send + 'a;

/// Why an upgrade cannot begin or go on. Nothing is lost by any of them: the next run goes on.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    /// As of every command.
    #[error(transparent)]
    Start(StartError),
    /// What stands in the way, a line each.
    #[error("{}", .0.join("\n"))]
    Problems(Vec<String>),
    /// No such zone.
    #[error("--timezone {0:?}: there is no such zone; names are those of the IANA database, such as Europe/Berlin")]
    Zone(String),
    /// Other options than the upgrade was begun with.
    #[error(
        "this upgrade was begun with --timezone {0}, and goes on with it only; to begin anew with another, DROP SCHEMA lamplighter_new, lamplighter_upgrade CASCADE first, which touches no old row"
    )]
    OtherZone(String),
    /// One upgrade a database.
    #[error(
        "in this database the upgrade of schema {0:?} was begun; finish that one, and drop its old tables (--drop-legacy), first"
    )]
    OtherSchema(String),
    /// There is nothing to upgrade.
    #[error("{0}")]
    Nothing(String),
    /// The old tables are never free.
    #[error(
        "the old tables are in use {0}, and were not free for a moment in two minutes; end that and run this again, it goes on"
    )]
    Busy(String),
    /// The server refuses, or is away.
    #[error("{}", describe(.0))]
    Sql(#[from] sqlx::Error),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl UpgradeError {
    /// Exit code of the command (contract, section 1).
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Problems(_) | Self::OtherSchema(_) | Self::Nothing(_) => 78,
            Self::Zone(_) | Self::OtherZone(_) => 64,
            Self::Busy(_) => 69,
            Self::Sql(error) => match StartError::of(error) {
                StartError::Unreachable(_) => 69,
                _ => 1,
            },
            Self::Failed(_) => 1,
        }
    }
}

/// Somebody holds a lock, or it took too long with ours: try again.
fn is_busy(error: &sqlx::Error) -> bool {
    // lock_not_available, query_canceled by statement_timeout, deadlock_detected
    matches!(sqlstate(error).as_deref(), Some("55P03" | "57014" | "40P01"))
}

impl Store {
    /// What [`Self::upgrade`] would do, with counts; changes nothing. All is made and counted inside a transaction that is
    /// rolled back, so what would stand in the way is found too.
    ///
    /// # Errors
    /// Every [`UpgradeError`].
    pub async fn upgrade_dry_run(
        &self,
        options: &UpgradeOptions,
        watch: &mut Watch<'_>,
    ) -> Result<UpgradeReport, UpgradeError> {
        let mut conn = session::connect(self, watch).await?;
        let mut session = Session { conn: &mut conn, house: self.schema.to_string() };
        let result = self.dry_run(&mut session, options).await;
        // A courtesy; the server notices either way.
        let _ = conn.close().await;
        result
    }

    async fn dry_run(
        &self,
        session: &mut Session<'_>,
        options: &UpgradeOptions,
    ) -> Result<UpgradeReport, UpgradeError> {
        if let Some(state) = session.state().await? {
            same_options(&state, options)?;
            if let Some(mut report) = stored(&state)? {
                if options.drop_legacy {
                    report.dropped = Some(session.drop_legacy(&report, state.legacy_made, true).await?);
                }
                return Ok(report);
            }
            if options.drop_legacy {
                return Err(not_finished());
            }
            let planned = session.planned(&state).await?;
            return session.report(&planned, &state).await;
        }
        if options.drop_legacy {
            return Err(nothing_to_drop());
        }
        must_be_legacy(&classify(session.conn, &self.schema).await.map_err(UpgradeError::Start)?)?;
        let shape = session.check(options).await?;
        let mut tx = session.conn.begin().await?;
        let mut inside = Session { conn: &mut tx, house: session.house.clone() };
        let result = count_in(&mut inside, options, &shape).await;
        // When this fails the connection is gone, and all of it with it.
        let _ = tx.rollback().await;
        result
    }

    /// Upgrades the database, or goes on with it; says where every row of every old table went.
    ///
    /// # Errors
    /// Every [`UpgradeError`]; what was done stays done, and the next call goes on.
    pub async fn upgrade(
        &self,
        options: &UpgradeOptions,
        watch: &mut Watch<'_>,
    ) -> Result<UpgradeReport, UpgradeError> {
        let mut conn = session::connect(self, watch).await?;
        let mut session = Session { conn: &mut conn, house: self.schema.to_string() };
        let result = self.upgrade_in(&mut session, options, watch).await;
        // A courtesy; the server notices either way.
        let _ = conn.close().await;
        result
    }

    async fn upgrade_in(
        &self,
        session: &mut Session<'_>,
        options: &UpgradeOptions,
        watch: &mut Watch<'_>,
    ) -> Result<UpgradeReport, UpgradeError> {
        let state = match session.state().await? {
            Some(state) => state,
            None => match self.begin(session, options).await? {
                Some(state) => state,
                None => return self.only_copy(session, watch).await,
            },
        };
        same_options(&state, options)?;
        if options.drop_legacy && !state.finished {
            return Err(not_finished());
        }
        if !state.switched {
            session.renew().await?;
            fill(session, &state, watch).await?;
        }
        self.complete(session, options, watch).await
    }

    /// None: it is no old database, but one whose reports can be copied.
    async fn begin(&self, session: &mut Session<'_>, options: &UpgradeOptions) -> Result<Option<State>, UpgradeError> {
        if options.drop_legacy {
            return Err(nothing_to_drop());
        }
        let found = classify(session.conn, &self.schema).await.map_err(UpgradeError::Start)?;
        if options.copy_reports && found == (Found::Ours { pending: 0 }) {
            return Ok(None);
        }
        must_be_legacy(&found)?;
        let shape = session.check(options).await?;
        let mut tx = session.conn.begin().await?;
        let mut inside = Session { conn: &mut tx, house: session.house.clone() };
        match inside.begin(options, &shape).await {
            Ok(state) => {
                tx.commit().await?;
                Ok(Some(state))
            }
            Err(error) => {
                let _ = tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn only_copy(&self, session: &mut Session<'_>, watch: &mut Watch<'_>) -> Result<UpgradeReport, UpgradeError> {
        let copied = session.copy_reports(&self.region, watch).await?;
        Ok(UpgradeReport { schema: self.schema.to_string(), copied: Some(copied), ..UpgradeReport::default() })
    }

    /// What follows the switch.
    async fn complete(
        &self,
        session: &mut Session<'_>,
        options: &UpgradeOptions,
        watch: &mut Watch<'_>,
    ) -> Result<UpgradeReport, UpgradeError> {
        let state = session.state().await?;
        let state = state.ok_or_else(|| UpgradeError::Failed("the state of the upgrade is gone".to_owned()))?;
        let mut report = match stored(&state)? {
            Some(report) => report,
            None => {
                session.follow().await?;
                session.run("ANALYZE users, monitors, incidents, status_reports").await?;
                let planned = session.planned(&state).await?;
                watch(Step::Begin { what: "counting every row", total: 0, unit: "tables" });
                session.report(&planned, &state).await?
            }
        };
        if state.copy_reports || options.copy_reports {
            report.copied = Some(session.copy_reports(&self.region, watch).await?);
        }
        session.finish(&report).await?;
        if options.drop_legacy {
            report.dropped = Some(session.drop_legacy(&report, state.legacy_made, false).await?);
        }
        Ok(report)
    }
}

/// A dry run: begins, and counts what is there.
async fn count_in(
    session: &mut Session<'_>,
    options: &UpgradeOptions,
    shape: &shape::Shape,
) -> Result<UpgradeReport, UpgradeError> {
    let state = session.begin(options, shape).await?;
    let planned = session.planned(&state).await?;
    session.report(&planned, &state).await
}

/// From the old tables to the switch.
async fn fill(session: &mut Session<'_>, state: &State, watch: &mut Watch<'_>) -> Result<(), UpgradeError> {
    let planned = session.planned(state).await?;
    session.capture(&planned).await?;
    loop {
        session.load(&planned, watch).await?;
        if session.catch_up(&planned, watch).await? && session.switch(&planned, watch).await? {
            return Ok(());
        }
        watch(Step::Note("an old table was emptied meanwhile: beginning anew"));
    }
}

fn must_be_legacy(found: &Found) -> Result<(), UpgradeError> {
    match found {
        Found::Legacy => Ok(()),
        Found::Empty => Err(UpgradeError::Nothing("the database is empty: there is nothing to upgrade".to_owned())),
        Found::Adoptable => Err(UpgradeError::Nothing(
            "this database has uuid keys already; `lamplighter migrate` or the daemon's next start adopts it"
                .to_owned(),
        )),
        Found::Ours { .. } => {
            Err(UpgradeError::Nothing("this database has been upgraded, or needs no upgrade".to_owned()))
        }
        other => Err(UpgradeError::Start(other.as_error().unwrap_or(StartError::Legacy))),
    }
}

/// Not in one go: somebody looks at the report first.
fn not_finished() -> UpgradeError {
    UpgradeError::Nothing(
        "the upgrade is not finished: run it without --drop-legacy, and look at its report first".to_owned(),
    )
}

fn nothing_to_drop() -> UpgradeError {
    UpgradeError::Nothing("no upgrade was finished here, or its old tables are dropped already".to_owned())
}

fn same_options(state: &State, options: &UpgradeOptions) -> Result<(), UpgradeError> {
    match &options.timezone {
        Some(zone) if *zone != state.zone => Err(UpgradeError::OtherZone(state.zone.clone())),
        _ => Ok(()),
    }
}

/// The report of an upgrade that is finished.
fn stored(state: &State) -> Result<Option<UpgradeReport>, UpgradeError> {
    match &state.report {
        Some(report) if state.finished => serde_json::from_value(report.clone())
            .map(Some)
            .map_err(|error| UpgradeError::Failed(format!("the report of the upgrade cannot be read: {error}"))),
        _ => Ok(None),
    }
}
