//! `quilt-top`: the processes of a container.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Form, Root};
use quilt_ops::output::{put, put_json};
use quilt_ops::top::{table, top};
use quilt_record::Id;
use quilt_record::error::report;

/// List the processes of a container, with their pids inside and on the host: a table on a terminal, JSON lines otherwise
#[derive(Parser)]
#[command(name = "quilt-top", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// The container's name
    #[arg(value_name = "NAME")]
    id: Id,

    #[command(flatten)]
    form: Form,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    report("quilt-top", run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let processes = top(&cli.root.locate()?, &cli.id)?;
    if cli.form.is_table() {
        put(table(&processes).as_bytes())?;
    } else {
        for process in &processes {
            if !put_json(process)? {
                break;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
