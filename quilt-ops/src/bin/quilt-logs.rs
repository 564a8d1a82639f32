//! `quilt-logs`: what a container's command has written.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::Root;
use quilt_ops::logs::logs;
use quilt_record::Id;
use quilt_record::error::report;

/// Print the output of a container's command (`-- COMMAND` of its create), as far as it is kept
#[derive(Parser)]
#[command(name = "quilt-logs", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// Go on with what is added, until the container ends
    #[arg(short, long)]
    follow: bool,

    /// The container's name
    #[arg(value_name = "NAME")]
    id: Id,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = || -> anyhow::Result<ExitCode> {
        logs(&cli.root.locate()?, &cli.id, cli.follow)?;
        Ok(ExitCode::SUCCESS)
    };
    report("quilt-logs", result())
}
