//! `quilt-spec`: see the library.

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use nix::sys::signal::Signal;
use quilt_record::record::FORMAT;
use quilt_record::{Claim, Code, End, Error, Record, error, handover, sys};
use quilt_spec::cli::{CreateCli, RunCli, StartCli};
use quilt_spec::spec::Refusal;

/// In a pipeline, ends this process when the wrapper dies: it may be waiting for a spec on standard input for ever.
fn die_with_the_wrapper() {
    let Some(wrapper) = std::env::var("QUILT_PIPE").ok().and_then(|pid| pid.parse::<u32>().ok()) else { return };
    let asked = sys::set_parent_death_signal(Some(Signal::SIGTERM));
    if asked.is_err() || std::os::unix::process::parent_id() != wrapper {
        std::process::exit(Code::Interrupted.status().into());
    }
}

/// The program.
pub fn main() -> ExitCode {
    die_with_the_wrapper();
    let mut args: Vec<_> = std::env::args_os().collect();
    let mut take = |word: &str| args.get(1).is_some_and(|arg| arg == word).then(|| args.remove(1)).is_some();
    // The wrapper's: to be quilt-unpack as well, which saves a process.
    let unpack = take("--unpack");
    let verb = match (take("--run"), take("--start")) {
        (true, _) => "run",
        (_, true) => "start",
        _ => "create",
    };
    let command = match verb {
        "run" => RunCli::command().mut_arg("command", |arg| arg.help("The command and its arguments")),
        "start" => StartCli::command(),
        _ => CreateCli::command(),
    };
    let mut command = command.name("quilt").bin_name(format!("quilt {verb}"));
    let matches = match command.try_get_matches_from_mut(args) {
        Ok(matches) => matches,
        Err(error) => return end(verb, &error),
    };
    let record = match verb {
        "run" => RunCli::from_arg_matches(&matches).map(|cli| claim().and_then(|claim| cli.record(claim))),
        "start" => StartCli::from_arg_matches(&matches).map(|cli| Ok(quilt_spec::start::record(&cli.name)?)),
        _ => CreateCli::from_arg_matches(&matches).map(|cli| claim().and_then(|claim| cli.record(claim))),
    };
    match record {
        Ok(Ok(record)) if unpack => quilt_spec::unpack::go_on(record).unwrap_or_else(|failure| fail(&failure)),
        Ok(Ok(record)) => pass_on(&record, ExitCode::SUCCESS),
        Ok(Err(Refusal::Failure(failure))) => fail(&failure),
        Ok(Err(Refusal::Usage(why))) => end(verb, &command.error(clap::error::ErrorKind::ValueValidation, why)),
        Err(error) => end(verb, &error),
    }
}

fn fail(failure: &Error) -> ExitCode {
    error::complain("quilt-spec", failure);
    let mut record = Record::default();
    record.set("format", &FORMAT);
    record.set("error", &failure.failure("quilt-spec"));
    pass_on(&record, ExitCode::from(failure.code.status()))
}

/// The claim that the wrapper made, so that it can undo by it.
fn claim() -> Result<Option<Claim>, Refusal> {
    let Ok(claim) = std::env::var("QUILT_CLAIM") else { return Ok(None) };
    claim.parse().map(Some).map_err(|e| Refusal::Usage(format!("QUILT_CLAIM: {e}")))
}

/// Ends the pipeline with help, or with a usage error.
fn end(verb: &str, error: &clap::Error) -> ExitCode {
    let (status, text) = if error.use_stderr() { (2, None) } else { (0, Some(error.to_string())) };
    if text.is_none() {
        let _ = write!(std::io::stderr(), "{error}");
    }
    if std::env::var_os("QUILT_PIPE").is_some() {
        let last = if verb == "run" { "run" } else { "probe" };
        let mut record = Record::default();
        record.set("format", &FORMAT);
        record.set("end", &End { last: last.to_owned(), status, text });
        return pass_on(&record, ExitCode::from(status));
    }
    if let Some(text) = text {
        let _ = write!(std::io::stdout(), "{text}");
    }
    ExitCode::from(status)
}

fn pass_on(record: &Record, status: ExitCode) -> ExitCode {
    let printed = handover::print(record);
    match printed {
        Ok(()) => status,
        Err(error) => {
            // In a pipeline the next stage has told what it died of, or the one after it does.
            if std::env::var_os("QUILT_PIPE").is_none() {
                error::complain("quilt-spec", &error);
            }
            ExitCode::from(Code::Interrupted.status())
        }
    }
}
