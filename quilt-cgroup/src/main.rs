//! `quilt-cgroup`: a container's resource limits.

use std::process::ExitCode;

use clap::Parser;
use quilt_record::stage::{self, StageArgs};

/// Give a container its cgroups and limits
#[derive(Parser)]
#[command(name = "quilt-cgroup", version)]
struct Cli {
    #[command(flatten)]
    stage: StageArgs,

    /// `-`: read the record from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    record: Option<String>,

    #[command(flatten)]
    want: quilt_cgroup::Want,
}

/// The program.
pub fn main() -> ExitCode {
    if let Some(status) = stage::run_piped(&quilt_cgroup::STAGE) {
        return status;
    }
    let cli = Cli::parse();
    stage::run(&quilt_cgroup::STAGE, &cli.stage, cli.record.is_some(), &cli.want)
}
