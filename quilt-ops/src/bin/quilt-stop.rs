//! `quilt-stop`: stops containers, which can be started again.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::stop::stop;
use quilt_record::error::report;
use quilt_record::signals;
use quilt_record::units::Span;

/// Stop containers: TERM to the init, then the end of all of it; files and address stay
#[derive(Parser)]
#[command(name = "quilt-stop", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,

    /// How long to wait between the two [default: the container's --stop-timeout, 10s]
    #[arg(short, long, value_name = "DURATION")]
    time: Option<Span>,

    /// Leave one whose init lives alone: only clear up after the dead (for quilt start)
    #[arg(long, hide = true)]
    if_dead: bool,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    let limit = cli.time.map(|span| span.0);
    let all =
        || cli.which.each("quilt-stop", &cli.root.locate()?, |instance, id| stop(instance, id, limit, cli.if_dead));
    report("quilt-stop", all())
}
