//! Servers that tests talk to, most of them hostile.

pub mod dialogue;
pub mod dns;
pub mod http;
pub mod openssl;
pub mod tls;
