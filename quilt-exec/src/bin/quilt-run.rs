//! `quilt-run`: the last stage of `quilt run`, after `quilt-probe`: runs the record's one command, and removes the
//! container.

use std::ffi::CString;
use std::io::{BufRead, Read, Write};
use std::os::fd::RawFd;
use std::process::ExitCode;

use clap::Parser;
use quilt_exec::cli::{Attach, Options};
use quilt_exec::{ExecError, Heir, Signals, Target};
use quilt_record::error::complain;
use quilt_record::record::RECORD_MAX;
use quilt_record::units::Span;
use quilt_record::{Claim, Code, Error, Id, Instance, Record, Step, handover, readonly, stage, sys};
use serde::Deserialize;

const TOOL: &str = "quilt-run";

/// Run the one command of a record that comes in on standard input, then remove the container
///
/// The exit status is the command's own, as with quilt-exec.
#[derive(Parser)]
#[command(name = TOOL, version)]
struct Cli {
    /// `-`: read the record from standard input
    #[arg(value_name = "-", value_parser = ["-"], required = true)]
    record: String,

    /// Take the command's standard input from this descriptor
    #[arg(long, value_name = "N", default_value_t = 0)]
    stdin_fd: RawFd,

    /// Kill the command after this time: 30s, 250ms; the exit status is then 124
    #[arg(long, value_name = "TIME")]
    timeout: Option<Span>,
}

/// The record's `run`.
#[derive(Deserialize)]
struct Run {
    argv: Vec<String>,
    #[serde(default)]
    interactive: bool,
    #[serde(default)]
    tty: bool,
}

/// The program.
pub fn main() -> ExitCode {
    let result = readonly::reexec().map_err(ExecError::from).and_then(|()| run(&Cli::parse()));
    match result {
        Ok(status) => ExitCode::from(status),
        Err(failed) => {
            complain(TOOL, &failed.error);
            ExitCode::from(failed.status)
        }
    }
}

fn run(cli: &Cli) -> Result<u8, ExecError> {
    let signals = Signals::block()?;
    stage::enter()?;
    // Before anything is made, where the claim is known by then.
    let claim = std::env::var("QUILT_CLAIM").ok().and_then(|claim| claim.parse::<Claim>().ok());
    let mut heir = claim.map(Heir::post).transpose()?;
    let record = match incoming()? {
        Incoming::Record(record) => record,
        Incoming::End(status) => {
            heir.into_iter().for_each(Heir::dismiss);
            return Ok(status);
        }
    };
    let nothing =
        || Error::new(Code::Invalid, "read the record", "it has no `run`: quilt exec runs commands in others");
    let wanted: Run = record.get("run")?.ok_or_else(nothing)?;
    let heir = match heir.take() {
        Some(heir) => heir,
        None => Heir::post(record.claim()?)?,
    };
    let status = command(cli, &record.id()?, wanted, &signals);
    heir.remove()?;
    status
}

/// What comes in on standard input.
enum Incoming {
    /// A record of a container that is ready.
    Record(Record),
    /// The end of the pipeline, told by then: the exit status.
    End(u8),
}

fn incoming() -> Result<Incoming, ExecError> {
    let mut line = String::new();
    std::io::stdin().lock().take(RECORD_MAX).read_line(&mut line).step(|| "read the record")?;
    if line.is_empty() {
        let why = "standard input ended without one: the step before died";
        let error = Error::new(Code::Interrupted, "read the record", why);
        return Err(ExecError { status: error.code.status(), error });
    }
    let record = Record::parse(&line)?;
    // The stage that failed has said so.
    if let Some(failure) = record.error()? {
        return Ok(Incoming::End(failure.code.status()));
    }
    if let Some(end) = record.end()? {
        let _ = end.text.map(|text| std::io::stdout().write_all(text.as_bytes()));
        return Ok(Incoming::End(end.status));
    }
    if record.get("dry_run")?.unwrap_or(false) {
        handover::print(&record)?;
        return Ok(Incoming::End(0));
    }
    Ok(Incoming::Record(record))
}

fn command(cli: &Cli, id: &Id, run: Run, signals: &Signals) -> Result<u8, ExecError> {
    let target = Target::open(&Instance::locate(None)?, id)?;
    let attach = Attach { interactive: run.interactive, tty: run.tty, timeout: cli.timeout, receipt: None };
    let options = Options { attach, ..Options::default() };
    let argv = run.argv.into_iter().map(CString::new).collect::<Result<_, _>>();
    let argv = argv.map_err(|e| Error::new(Code::Invalid, "read the command", e.to_string()))?;
    let stdin = sys::duplicate_number(cli.stdin_fd).step(|| "take the input")?;
    quilt_exec::run(TOOL, &target, &options, argv, stdin, signals)
}
