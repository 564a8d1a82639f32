//! `quilt-inspect`: everything that is known about containers.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::in_force::InForce;
use quilt_ops::{output, state};
use quilt_record::error::report;

/// Print the record of each container, with its `status` and what is `in_force` of its confinement, as a line of JSON
#[derive(Parser)]
#[command(name = "quilt-inspect", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,

    /// Indent it for reading
    #[arg(long)]
    pretty: bool,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let all = || {
        cli.which.each("quilt-inspect", &cli.root.locate()?, |instance, id| {
            let (summary, record) = state::look(instance, id)?;
            let mut record = record?;
            record.set("status", &summary.status);
            // One that ends meanwhile has none.
            if let Some(Ok(in_force)) = summary.pid.map(InForce::of) {
                record.set("in_force", &in_force);
            }
            let text = record.to_string();
            let text = if cli.pretty {
                serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&text)?)?
            } else {
                text
            };
            output::put((text + "\n").as_bytes())?;
            Ok(())
        })
    };
    report("quilt-inspect", all())
}
