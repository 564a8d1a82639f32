//! `quilt-version`: which version this is, and of which format its records are.

use std::process::ExitCode;

use quilt_ops::output::put_json;
use quilt_record::error::report;
use quilt_record::record::FORMAT;

fn main() -> ExitCode {
    let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "format": FORMAT });
    report("quilt-version", put_json(&version).map(|_| ExitCode::SUCCESS))
}
