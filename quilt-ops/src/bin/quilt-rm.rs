//! `quilt-rm`: removes containers; undoes the claim of a pipeline.

use std::process::ExitCode;

use clap::Parser;
use nix::unistd::geteuid;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::remove::{remove, undo_claim};
use quilt_record::error::{classify, complain, report};
use quilt_record::{Claim, Id, signals};

/// Remove containers, with their files, logs and addresses
#[derive(Parser)]
#[command(name = "quilt-rm", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    /// Kill what runs or is being created
    #[arg(short, long)]
    force: bool,

    /// Undo what a pipeline did under this claim, and exit with STATUS: for the wrapper and the stages
    #[arg(long, conflicts_with = "all", hide = true)]
    claim: Option<Claim>,

    /// What to exit with after undoing a claim
    #[arg(long, requires = "claim", default_value_t = 0, hide = true)]
    status: u8,

    /// The containers' names
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "claim"], conflicts_with = "all")]
    ids: Vec<Id>,

    /// All containers
    #[arg(long)]
    all: bool,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    if let Some(claim) = cli.claim {
        return undo(&cli, claim);
    }
    let which = Targets { ids: cli.ids, all: cli.all };
    let all = || which.each("quilt-rm", &cli.root.locate()?, |instance, id| remove(instance, id, cli.force));
    report("quilt-rm", all())
}

/// The status is that of the failure that is undone, so that the pipeline's says what went wrong.
fn undo(cli: &Cli, claim: Claim) -> ExitCode {
    // Nobody but root has made anything, and the stage has said that it wants root.
    if !geteuid().is_root() {
        return ExitCode::from(cli.status);
    }
    let undone = cli.root.locate().map_err(Into::into).and_then(|i| undo_claim(&i, claim, cli.ids.first(), cli.force));
    let Err(error) = undone else { return ExitCode::from(cli.status) };
    let error = classify(&error);
    complain("quilt-rm", &error);
    ExitCode::from(if cli.status == 0 { error.code.status() } else { cli.status })
}
