//! `quilt-version`: which version this is, and of which format its records are.

use std::process::ExitCode;

use quilt_ops::output::put_json;
use quilt_record::error::report;
use quilt_record::record::FORMAT;
use serde::Serialize;

#[derive(Serialize)]
struct Version {
    version: &'static str,
    format: u64,
}

/// The program.
pub fn main() -> ExitCode {
    let version = Version { version: env!("CARGO_PKG_VERSION"), format: FORMAT };
    report("quilt-version", put_json(&version).map(|_| ExitCode::SUCCESS))
}
