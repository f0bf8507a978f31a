//! THE registration table of probe kinds: one row each. A new kind is one file beside this one, its `mod` line, its row.

use super::Kind;

mod http;
mod tcp;

/// Every kind that this version has.
pub const KINDS: &[&Kind] = &[&http::KIND, &tcp::KIND];

/// Schemes of the contract whose kinds come later: they answer "not built yet".
pub const LATER: &[&str] = &[
    "tls",
    "starttls+smtp",
    "starttls+imap",
    "starttls+pop3",
    "starttls+ftp",
    "starttls+xmpp",
    "udp",
    "icmp",
    "dns",
    "ws",
    "wss",
    "grpc",
    "grpcs",
    "postgres",
    "mysql",
    "redis",
    "mongodb",
    "amqp",
    "mqtt",
    "ssh",
    "domain",
    "heartbeat",
    "group",
    "exec",
];
