//! Stub.
use super::super::Kind;
pub(super) const KIND: Kind =
    Kind { name: "http", schemes: &["http", "https"], keys: &[], prepare: |_, _| None, example: "" };
