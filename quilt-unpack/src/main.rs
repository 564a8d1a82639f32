//! `quilt-unpack`: see the library's page.

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use quilt_record::error::complain;
use quilt_record::stage::{self, StageArgs};

/// Makes a container's root file system ready: unpacks the image (once), and makes the container's writable layer
#[derive(Parser)]
#[command(
    name = "quilt-unpack",
    version,
    override_usage = "quilt-unpack [OPTIONS] -\n       quilt-unpack [OPTIONS] --id NAME IMAGE",
    after_help = "`-` in place of IMAGE: read the record, with the image in it, from standard input."
)]
struct Cli {
    #[command(flatten)]
    stage: StageArgs,

    #[command(flatten)]
    want: quilt_unpack::Want,
}

/// The program.
pub fn main() -> ExitCode {
    if let Some(status) = stage::run_piped(&quilt_unpack::STAGE) {
        return status;
    }
    let mut cli = Cli::parse();
    let from_stdin = cli.want.image.as_deref() == Some(Path::new("-"));
    if from_stdin {
        cli.want.image = None;
    }
    if let Err(error) = cli.want.anchor() {
        complain("quilt-unpack", &error);
        return ExitCode::from(error.code.status());
    }
    stage::run(&quilt_unpack::STAGE, &cli.stage, from_stdin, &cli.want)
}
