//! `quilt-exec`: run a command in a running container.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use quilt_exec::{ExecError, Options, Receipt, Signals, Target, cli};
use quilt_record::error::complain;
use quilt_record::instance::require_root;
use quilt_record::{Code, Error, Id, Instance, readonly};

const TOOL: &str = "quilt-exec";

/// Run a command in a running container
///
/// The options end at the first word after the name. The exit status is the command's own; 128+n if signal n killed it;
/// 124 if its time was up; 125 if Quilt failed; 126 if the command cannot be invoked; 127 if it is not there.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Cli {
    #[command(flatten)]
    options: Options,

    /// Use the instance under DIR instead of /var/lib/quilt and /run/quilt [env: QUILT_ROOT]
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,

    /// The container
    #[arg(value_name = "NAME")]
    id: Id,

    /// The command and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

/// The program.
pub fn main() -> ExitCode {
    let result = readonly::reexec().map_err(ExecError::from).and_then(|()| {
        let cli = Cli::parse();
        let receipt = cli.options.attach.receipt.clone();
        exec(cli).inspect_err(|failed| receipt.iter().for_each(|file| Receipt::of_failure(TOOL, failed, file)))
    });
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failed) => {
            complain(TOOL, &failed.error);
            ExitCode::from(failed.status)
        }
    }
}

fn exec(cli: Cli) -> Result<u8, ExecError> {
    require_root()?;
    let signals = Signals::block()?;
    let instance = Instance::locate(cli.root.as_deref())?;
    let target = Target::open(&instance, &cli.id)?;
    let nul = |e: std::ffi::NulError| Error::new(Code::Invalid, "read the command", e.to_string());
    let argv = cli::arguments(cli.command).map_err(nul)?;
    quilt_exec::run(TOOL, &target, &cli.options, argv, std::io::stdin(), &signals)
}
