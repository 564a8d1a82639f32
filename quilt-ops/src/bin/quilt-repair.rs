//! `quilt-repair`: makes the network whole again.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Form, Root, Targets};
use quilt_ops::repair;
use quilt_record::error::report;
use quilt_record::{Id, signals};

/// Make containers' network whole again; prints what was wrong
///
/// After somebody has flushed the firewall, deleted a bridge or an interface, or switched off forwarding, and after Quilt
/// was upgraded. What is whole stays as it is, and so do connections. What is not Quilt's to change is told, with the
/// command that helps.
#[derive(Parser)]
#[command(name = "quilt-repair", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// The containers whose own interfaces are looked at, after what all share [default: all that run]
    #[arg(value_name = "NAME", conflicts_with = "all")]
    ids: Vec<Id>,

    /// All containers that run
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    form: Form,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    report("quilt-repair", run(&cli))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let instance = cli.root.locate()?;
    let mut repaired = Vec::new();
    if instance.run().exists() {
        repaired = repair::shared(&instance)?;
    }
    // A bridge that was not whole is made so, and counts as whole from then on: none of those on it may be left out.
    let broken = repaired.iter().any(|one| one.repaired);
    let all = cli.all || cli.ids.is_empty() || broken;
    let which = Targets { ids: if all { Vec::new() } else { cli.ids.clone() }, all };
    let own = std::cell::RefCell::new(Vec::new());
    let status = which.each_running("quilt-repair", &instance, |instance, id| {
        own.borrow_mut().extend(repair::container(instance, id)?);
        Ok(())
    })?;
    repaired.extend(own.into_inner());
    repair::show(&repaired, cli.form.is_table())?;
    Ok(status)
}
