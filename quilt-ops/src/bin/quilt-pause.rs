//! `quilt-pause`: holds containers still.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::pause::pause;
use quilt_record::error::report;
use quilt_record::signals;

/// Hold containers still: every process in them stops where it is, until unpause
///
/// Commands that `quilt exec` runs in them stop as well; new ones are refused. It is no error if one is paused already.
/// Nothing inside is told, clocks go on, and connections may time out.
#[derive(Parser)]
#[command(name = "quilt-pause", version)]
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
    let all = || cli.which.each_running("quilt-pause", &cli.root.locate()?, pause);
    report("quilt-pause", all())
}
