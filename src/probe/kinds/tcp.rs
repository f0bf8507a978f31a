//! Stub.
use super::super::Kind;
pub(super) const KIND: Kind = Kind { name: "tcp", schemes: &["tcp"], keys: &[], prepare: |_, _| None, example: "" };
