//! `quilt-kill`: sends containers a signal.

use std::process::ExitCode;

use clap::Parser;
use nix::sys::signal::Signal;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::stop::{kill, signal};
use quilt_record::error::report;
use quilt_record::signals;

/// Send a signal to the init of containers, which passes it on to its command
///
/// A paused container gets it when it goes on (`quilt unpause`); but KILL ends it at once.
#[derive(Parser)]
#[command(name = "quilt-kill", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,

    /// The signal, by name or number; KILL ends all of the container
    #[arg(short, long, value_name = "SIGNAL", default_value = "KILL", value_parser = signal)]
    signal: Signal,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    let all = || cli.which.each("quilt-kill", &cli.root.locate()?, |instance, id| kill(instance, id, cli.signal));
    report("quilt-kill", all())
}
