//! What the tests stand on: databases, hostile servers, daemons.

pub mod daemon;
pub mod postgres;
pub mod servers;
pub mod source;
