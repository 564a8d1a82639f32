//! `quilt-wait`: waits for containers to end.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::{output, wait};
use quilt_record::error::report;

/// Wait until containers have ended, and print the exit status of each on a line
#[derive(Parser)]
#[command(name = "quilt-wait", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let all = || {
        cli.which.each("quilt-wait", &cli.root.locate()?, |instance, id| {
            let status = wait::wait(instance, id)?;
            output::put(format!("{status}\n").as_bytes())?;
            Ok(())
        })
    };
    report("quilt-wait", all())
}
