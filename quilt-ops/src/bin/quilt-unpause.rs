//! `quilt-unpause`: lets containers go on.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::pause::unpause;
use quilt_record::error::report;
use quilt_record::signals;

/// Let paused containers go on
#[derive(Parser)]
#[command(name = "quilt-unpause", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    let all = || cli.which.each_running("quilt-unpause", &cli.root.locate()?, unpause);
    report("quilt-unpause", all())
}
