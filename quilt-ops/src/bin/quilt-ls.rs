//! `quilt-ls`: lists containers.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Form, Root};
use quilt_ops::list::{Filter, Label, list, table};
use quilt_ops::output::{put, put_json};
use quilt_ops::state::Status;
use quilt_record::error::report;

/// List containers: a table on a terminal, JSON lines otherwise
#[derive(Parser)]
#[command(name = "quilt-ls", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    form: Form,

    /// Names only
    #[arg(short, long, conflicts_with_all = ["json", "table"])]
    quiet: bool,

    /// Only those that run, paused ones among them
    #[arg(long, conflicts_with = "stopped")]
    running: bool,

    /// Only those that could be started
    #[arg(long)]
    stopped: bool,

    /// Only those with this label; more than one: with all of them
    #[arg(long = "label", value_name = "KEY[=VALUE]")]
    labels: Vec<Label>,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    report("quilt-ls", run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let status = cli.running.then_some(Status::Running).or(cli.stopped.then_some(Status::Stopped));
    let found = list(&cli.root.locate()?, &Filter { status, labels: cli.labels.clone() })?;
    if cli.quiet {
        put(found.iter().map(|s| format!("{}\n", s.id)).collect::<String>().as_bytes())?;
    } else if cli.form.is_table() {
        put(table(&found).as_bytes())?;
    } else {
        for summary in &found {
            put_json(summary)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
