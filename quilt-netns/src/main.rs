//! `quilt-netns`: a container's network namespace, interface, address, route and name files.

use std::process::ExitCode;

use clap::Parser;
use quilt_netns::{STAGE, Want};
use quilt_record::stage::{self, StageArgs};

/// Give a container its network: reads the record from standard input with `-`, else starts one for --id; prints it on.
#[derive(Parser)]
#[command(name = "quilt-netns", version)]
struct Cli {
    #[command(flatten)]
    stage: StageArgs,

    /// `-`: read the record from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    record: Option<String>,

    #[command(flatten)]
    want: Want,
}

/// The program.
pub fn main() -> ExitCode {
    if let Some(status) = stage::run_piped(&STAGE) {
        return status;
    }
    let cli = Cli::parse();
    stage::run(&STAGE, &cli.stage, cli.record.is_some(), &cli.want)
}
