//! `quilt-update`: changes the limits of containers.

use std::process::ExitCode;

use clap::{CommandFactory, Parser, error::ErrorKind};
use quilt_cgroup::Want;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::update::update;
use quilt_record::error::report;
use quilt_record::signals;

/// Change the limits of containers, while they run
///
/// What is not mentioned stays as it is; max (or all) lifts a limit. A container that is stopped gets them when it is
/// started. If one of the limits cannot be had, none is changed.
#[derive(Parser)]
#[command(name = "quilt-update", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,

    #[command(flatten)]
    changes: Want,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if cli.changes == Want::default() {
        Cli::command().error(ErrorKind::MissingRequiredArgument, "no limit is given: see --help").exit();
    }
    signals::block();
    let all = || {
        let each = |instance: &_, id: &_| update(instance, id, &cli.changes);
        cli.changes.check()?;
        cli.which.each("quilt-update", &cli.root.locate()?, each)
    };
    report("quilt-update", all())
}
