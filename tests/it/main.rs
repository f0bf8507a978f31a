//! The one integration-test binary: it links once. Real Postgres, real sockets on loopback, the real program.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(clippy::disallowed_methods, missing_docs, unreachable_pub, reason = "a test is not a library")]

mod backup;
mod blocks;
mod bounds;
mod brokers;
mod cli;
mod daemon;
mod databases;
mod dns;
mod doctor;
mod domain;
mod egress;
mod exec;
mod export;
mod grpc;
mod http;
mod icmp;
mod layers;
mod legacy;
mod links;
mod net;
mod ownership;
mod scenarios;
mod secrets;
mod settings;
mod ssh;
mod starttls;
mod store;
mod support;
mod tcp;
mod tls;
mod udp;
mod web;
mod ws;
