//! `quilt-probe`: whether a container is ready.

use std::process::ExitCode;

use clap::Parser;
use quilt_record::stage::{self, StageArgs};
use quilt_record::{Id, error, readonly};

const TOOL: &str = "quilt-probe";

/// See whether containers are ready: their processes, namespaces, network and health checks
///
/// Prints the record with what was seen, one line for each container. The exit status is 0 if all are ready, and 19 if
/// one is not.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Cli {
    #[command(flatten)]
    stage: StageArgs,

    /// The containers; `-` reads a record from standard input
    #[arg(value_name = "NAME", conflicts_with = "id")]
    names: Vec<String>,

    #[command(flatten)]
    want: quilt_probe::Want,
}

/// The program.
pub fn main() -> ExitCode {
    if let Err(error) = readonly::reexec() {
        error::complain(TOOL, &error);
        return ExitCode::from(error.code.status());
    }
    if let Some(status) = stage::run_piped(&quilt_probe::STAGE) {
        return status;
    }
    let cli = Cli::parse();
    if cli.names.is_empty() || cli.names == ["-"] {
        return stage::run(&quilt_probe::STAGE, &cli.stage, !cli.names.is_empty(), &cli.want);
    }
    let ids: Vec<Id> = match cli.names.iter().map(|name| name.parse()).collect() {
        Ok(ids) => ids,
        Err(why) => <Cli as clap::CommandFactory>::command().error(clap::error::ErrorKind::ValueValidation, why).exit(),
    };
    let mut worst = ExitCode::SUCCESS;
    for id in ids {
        let one = stage::run(&quilt_probe::STAGE, &StageArgs { id: Some(id), ..cli.stage.clone() }, false, &cli.want);
        if worst == ExitCode::SUCCESS {
            worst = one;
        }
    }
    worst
}
