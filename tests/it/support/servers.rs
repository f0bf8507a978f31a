//! Servers that misbehave on demand.

pub mod http;
