//! Servers that tests talk to, most of them hostile.

pub mod dialogue;
pub mod dns;
pub mod http;
pub mod http2;
pub mod openssl;
pub mod proxy;
pub mod tls;
