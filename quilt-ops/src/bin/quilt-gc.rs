//! `quilt-gc`: clears away what killed commands have left.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::Root;
use quilt_ops::gc::Collector;
use quilt_ops::purge::purge;
use quilt_record::error::report;
use quilt_record::{Instance, signals};

/// Clear away what killed commands have left; prints a line of JSON for each thing
#[derive(Parser)]
#[command(name = "quilt-gc", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// Change nothing; print what would be removed
    #[arg(long, conflicts_with = "purge")]
    dry_run: bool,

    /// Remove the whole instance: all containers, images, bridges, cgroups, firewall rules and state
    #[arg(long, requires = "yes")]
    purge: bool,

    /// Yes, remove all of it
    #[arg(long, requires = "purge")]
    yes: bool,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    report("quilt-gc", run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let instance = cli.root.locate()?;
    if !cli.dry_run && instance.state().exists() {
        Instance::prepare(cli.root.root.as_deref())?;
    }
    let mut failed = Collector::new(&instance, cli.dry_run).run()?;
    if cli.purge && failed.is_none() {
        failed = purge(&instance).map(|()| None)?;
    }
    Ok(failed.map_or(ExitCode::SUCCESS, |code| ExitCode::from(code.status())))
}
