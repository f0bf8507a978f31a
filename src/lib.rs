//! Lamplighter: a self-hosted uptime-monitoring daemon.
//!
//! Data flows one way; a stage knows the next only by a channel or a table:
//!
//! ```text
//!  config file ─┐
//!               ├─> catalog ─> schedule ─> probe ─> verdict ─> journal ─> store (Postgres) ─> web
//!  Postgres ────┘
//! ```
//!
//! # Layers
//!
//! Imports point down only, and a module may name its own parents. `tests/it/layers.rs` reads this table and every path
//! in `src/`: a row covers the parts of what it names, and a family with parts in several rows lists all of them.
//!
//! | layer | modules |
//! |---|---|
//! | top | `main`, `cli`, `daemon`, `fuzzing` |
//! | loops | `catalog::sync`, `catalog::watch`, `schedule::dispatch`, `schedule::jobs`, `probe::pool`, `verdict::stage`, `journal::recorder`, `web`, `maintenance::keeper` |
//! | settings | over the table of probe kinds: `settings::again`, `settings::common`, `settings::defaults`, `settings::graph`, `settings::monitor`, `settings::model`, `settings::target`, `settings::example`, `settings::file`, `settings::maintenance`, `settings::slo` |
//! | adapters | `store`, `probe::kinds`, `probe::login`, `journal::backlog`, `journal::kept`, `journal::status`, `journal::disk`, `journal::log`, `journal::marks`, `journal::segment`, `journal::thin`, `journal::wire`, `journal::delayed`, `catalog::remember` |
//! | ports | traits and what they carry, with the rules over that: `probe`, `probe::talk`, `probe::authority`, `probe::fetch`, `probe::form`, `probe::request`, `catalog`, `catalog::merge`, `catalog::plan`, `catalog::limits`, `catalog::diff`, `journal`, `schedule`, `settings::definition`, `verdict`, `verdict::board`, `clock`, `shutdown`, `telemetry`, `telemetry::limit`, `telemetry::line`, `telemetry::queue`, `telemetry::sink`, `metrics`, `metrics::process`, `metrics::task`, `metrics::work`, `access`, `probe::exchange`, `verdict::pings`, `probe::scram`, `maintenance` |
//! | network | sockets, resolver, guard, TLS: `probe::net` |
//! | rules | `settings`, `settings::tree`, `settings::document`, `settings::pieces`, `settings::reader`, `settings::diagnostic`, `settings::duration`, `settings::size`, `settings::limited`, `settings::sections`, `schedule::wheel`, `schedule::plan`, `verdict::expectation`, `verdict::judge`, `verdict::machine`, `probe::driven`, `verdict::pulse`, `verdict::gathering`, `verdict::evidence`, `verdict::redact`, `verdict::text`, `probe::report`, `probe::advice`, `metrics::text`, `telemetry::filter`, `settings::proxy`, `maintenance::rule`, `maintenance::definition`, `maintenance::plan`, `uptime`, `slo`, `settings::history` |
//! | model | `model` |
//!
//! A loop never names another loop. An adapter never names another family's adapter. Only the top names `store`. Only
//! `store` says sqlx. Only `web` and `probe` say hyper.

pub mod access;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod daemon;
#[cfg(any(fuzzing, test))]
pub mod fuzzing;
pub mod journal;
pub mod maintenance;
pub mod metrics;
pub mod model;
pub mod probe;
pub mod schedule;
pub mod settings;
pub mod shutdown;
pub mod slo;
pub mod store;
pub mod telemetry;
pub mod uptime;
pub mod verdict;
pub mod web;
