//! What the tests stand on: databases, hostile servers, daemons.

pub mod daemon;
pub mod nginx;
pub mod postgres;
pub mod probing;
pub mod servers;
