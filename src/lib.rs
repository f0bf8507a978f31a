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
//! Imports point down only; `tests/it/layers.rs` reads every `use crate::` line against this table.
//!
//! | layer | modules |
//! |---|---|
//! | top | `main`, [`cli`], [`daemon`] |
//! | loops | `catalog::sync`, `catalog::watch`, `schedule::dispatch`, `schedule::jobs`, `probe::pool`, `verdict::stage`, `journal::recorder`, `web::server` |
//! | adapters | `probe::kinds`, [`store`], `settings::{file, model, monitor, defaults}` and what they are made of |
//! | ports | [`probe`] (the trait), [`catalog`] (the snapshot), [`journal`] (the trait), `schedule` and `verdict` (their types, `verdict::board`), [`clock`], [`shutdown`] |
//! | network | `probe::net`: sockets, resolver, guard, TLS |
//! | rules | `settings::{tree, document, reader, diagnostic, duration, size, limited}`, `catalog::{merge, diff}`, `schedule::{wheel, plan}`, `verdict::{expectation, judge, evidence, redact, text, machine}` |
//! | model | [`model`] |
//!
//! A loop never names another loop. Only `store` says sqlx. Only `web` and `probe` say hyper. Only `daemon` names
//! concrete types of two families.

pub mod catalog;
pub mod cli;
pub mod clock;
pub mod daemon;
pub mod journal;
pub mod model;
pub mod probe;
pub mod schedule;
pub mod settings;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod verdict;
pub mod web;
