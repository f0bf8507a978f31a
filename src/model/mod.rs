//! The nouns. No async, no clock, no I/O: values that every layer may name.

mod check;
mod failure;
mod gap;
mod history;
mod ids;
mod incident;
mod maintenance;
mod monitor;
mod observation;
mod record;
mod secret;
mod state;
mod store;

pub use check::{Check, check_time};
pub(crate) use check::{serialize_check_time, serialize_some_check_time};
pub use failure::{Failure, Layer, Owner};
pub use gap::{Gap, GapReason};
pub use history::{Keeping, Plan, Retention};
pub use ids::{BatchId, IncidentUid, MaintenanceId, MonitorId, MonitorKey, SYSTEM_USER, UserId};
pub use incident::{Evidence, Opening, Resolution, ResolveReason};
pub use maintenance::{Span, Under};
pub use monitor::{Cadence, Flap, Monitor, Source};
pub use observation::{
    Answer, CertificateFacts, ChainCertificate, ChainFacts, Details, Fault, HttpFacts, Observation, Phase, Timings,
    Weakness,
};
pub use record::{Batch, Record};
pub use secret::Secret;
pub use state::{Heard, MonitorState, Run, Status, Unobserved, Verdict};
pub use store::StoreFault;
