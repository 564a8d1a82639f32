//! quilt-spawn: starts the container's init in namespaces and a root of its own.

use std::process::ExitCode;

use clap::Parser;

use quilt_record::Error;
use quilt_record::error::complain;
use quilt_record::stage::{self, StageArgs};

/// Starts a container's init: namespaces, root, /dev, /proc, /sys, confinement. Needs what quilt-unpack, quilt-netns and
/// quilt-cgroup made for the same container.
#[derive(Parser)]
#[command(name = "quilt-spawn", version)]
struct Cli {
    #[command(flatten)]
    stage: StageArgs,

    /// `-`: read the record from standard input
    #[arg(value_name = "-", value_parser = ["-"])]
    record: Option<String>,

    #[command(flatten)]
    want: quilt_spawn::Want,
}

/// The program.
pub fn main() -> ExitCode {
    if let Some(status) = stage::run_piped(&quilt_spawn::STAGE) {
        return status;
    }
    let mut cli = Cli::parse();
    cli.want.take_env(|name| std::env::var(name).ok());
    let here = |e| Error::os("find the working directory", e);
    let taken = cli.want.take_seccomp().and_then(|()| cli.want.take_dir(std::env::current_dir).map_err(here));
    if let Err(error) = taken {
        complain("quilt-spawn", &error);
        return ExitCode::from(error.code.status());
    }
    stage::run(&quilt_spawn::STAGE, &cli.stage, cli.record.is_some(), &cli.want)
}
