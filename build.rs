//! A new file in `migrations/` must reach the binary: `sqlx::migrate!` by itself notices changes of known files only.
#![allow(clippy::print_stdout, reason = "how a build script speaks to cargo")]

fn main() {
    println!("cargo:rerun-if-changed=migrations");
}
