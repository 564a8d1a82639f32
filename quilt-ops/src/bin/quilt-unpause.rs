//! `quilt-unpause`: lets containers go on.

use std::process::ExitCode;

use clap::Parser;
use quilt_ops::cli::{Root, Targets};
use quilt_ops::pause::unpause;
use quilt_record::error::{classify, report};
use quilt_record::{Code, signals};

/// Let paused containers go on
#[derive(Parser)]
#[command(name = "quilt-unpause", version)]
struct Cli {
    #[command(flatten)]
    root: Root,

    #[command(flatten)]
    which: Targets,
}

/// The program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    signals::block();
    let all = || {
        cli.which.each("quilt-unpause", &cli.root.locate()?, |instance, id| match unpause(instance, id) {
            // Of all, those are meant that run.
            Err(e) if cli.which.all && classify(&e).code == Code::NotFound => Ok(()),
            done => done,
        })
    };
    report("quilt-unpause", all())
}
