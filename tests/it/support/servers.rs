//! Servers that tests talk to, most of them hostile.

pub mod dns;
pub mod http;
pub mod http2;
pub mod proxy;
pub mod tls;
