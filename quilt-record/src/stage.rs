//! What every stage of a create does around its own work: read the record, respect the claim, pass the record on,
//! and undo. A tool's `main` is a call of [`run`].

mod input;
mod undo;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getppid};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::claim::{Claim, Work};
use crate::container::Container;
use crate::error::{Code, Error, classify, complain};
use crate::handover::{hand_over, print, print_text};
use crate::id::Id;
use crate::instance::Instance;
use crate::process::ProcessId;
use crate::record::{Record, STAGES, Section};
use crate::takeover::{claim_or_open, done_in_this_boot};
use crate::{signals, sys};

use input::{Input, merged, read_record, saved_or_new, usage};
pub use undo::{bin_dir, undo_command};
use undo::{fail, undo};

/// The options that every stage has.
#[derive(Args, Clone, Debug, Default)]
pub struct StageArgs {
    /// The container's name, where no record comes in: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 bytes
    #[arg(long, value_name = "NAME", help_heading = "Stage")]
    pub id: Option<Id>,

    /// Keep everything under DIR instead of /var/lib/quilt and /run/quilt: an instance of its own [env: QUILT_ROOT]
    #[arg(long, value_name = "DIR", help_heading = "Stage")]
    pub root: Option<PathBuf>,

    /// Take back what this stage did for the container (never fails for want of anything to take back)
    #[arg(long, help_heading = "Stage")]
    pub undo: bool,

    /// Change nothing; print the record with the `plan` of this stage, step by step
    #[arg(long, help_heading = "Stage")]
    pub dry_run: bool,

    /// What to print when it is done: the record, or the id alone (only for the last stage)
    #[arg(long, value_name = "WHAT", value_enum, default_value_t, hide = true)]
    pub answer: Answer,
}

/// What a stage prints when it is done.
#[derive(ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// The record, for the next stage.
    #[default]
    Record,
    /// The container's id, for a person or a script.
    Id,
}

/// What a stage's own work gets to see.
pub struct Context<'a, W> {
    /// The instance.
    pub instance: &'a Instance,
    /// The record as it came in.
    pub record: &'a Record,
    /// The container's id.
    pub id: Id,
    /// The claim.
    pub claim: Claim,
    /// The container's directory, locked; absent in a dry run.
    pub container: Option<&'a Container>,
    /// What is asked of this stage: the record's `want` under the flags given.
    pub want: &'a W,
}

/// What a stage's own work comes to.
pub enum Outcome<H> {
    /// It was done.
    Done(H),
    /// It was done, the answer is no, and the container is to be kept for looking at: only `probe --keep-failed`.
    Kept(H, Error),
    /// A dry run: what would be done.
    Plan(Vec<String>),
}

/// A stage: its name and its two directions.
pub struct Stage<W, H> {
    /// The key of its section; the tool is `quilt-NAME`.
    pub name: &'static str,
    /// Does it. In a dry run (no container) returns the plan.
    pub act: fn(&Context<'_, W>) -> anyhow::Result<Outcome<H>>,
    /// Takes it back by name: idempotent, does all it can, returns the first thing it could not do.
    pub undo: fn(&Instance, &Id, Claim) -> anyhow::Result<()>,
    /// Whether a record that has this stage's `have` already must go through it again: only `probe`.
    pub again: bool,
}

/// The pid of the wrapper whose pipeline this process is a stage of (`QUILT_PIPE`).
fn pipeline() -> Option<Pid> {
    std::env::var("QUILT_PIPE").ok()?.parse().ok().map(Pid::from_raw)
}

/// Whether this process is a stage of a pipeline.
pub fn in_pipeline() -> bool {
    pipeline().is_some()
}

/// Readies the process to be a stage: signals blocked; in a pipeline, TERM when the wrapper dies.
pub fn enter() -> Result<(), Error> {
    signals::block();
    if let Some(wrapper) = pipeline() {
        sys::set_parent_death_signal(Some(Signal::SIGTERM)).map_err(|e| Error::os("ask for the parent's death", e))?;
        if getppid() != wrapper {
            // It died before we asked. Ask ourselves to stop, as it would have.
            let _ = nix::sys::signal::kill(Pid::this(), Signal::SIGTERM);
        }
    }
    Ok(())
}

/// Runs a stage that was called with `-` alone, as the wrapper does; `None` if it was called otherwise. There is nothing to
/// parse in that, and the parser with all its options need not be set up: 2 % of a create.
pub fn run_piped<W, H>(stage: &Stage<W, H>) -> Option<ExitCode>
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize + DeserializeOwned,
{
    let mut arguments = std::env::args_os().skip(1);
    let alone = arguments.next().is_some_and(|argument| argument == "-") && arguments.next().is_none();
    alone.then(|| run(stage, &StageArgs::default(), true, &W::default()))
}

/// Runs a stage on a record that this process has made, as if it had come through a pipe.
pub fn run_on<W, H>(stage: &Stage<W, H>, record: Record) -> ExitCode
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize + DeserializeOwned,
{
    report(stage, &StageArgs::default(), Input::Record(record), &W::default())
}

/// Runs a stage. `from_stdin` says whether the record comes from standard input (`-`); `flags` is what the command
/// line asks, which goes over what the record asks.
pub fn run<W, H>(stage: &Stage<W, H>, args: &StageArgs, from_stdin: bool, flags: &W) -> ExitCode
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize + DeserializeOwned,
{
    report(stage, args, if from_stdin { Input::Pipe } else { Input::Saved }, flags)
}

fn report<W, H>(stage: &Stage<W, H>, args: &StageArgs, input: Input, flags: &W) -> ExitCode
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize + DeserializeOwned,
{
    let (mut record, mut begun) = (Record::default(), false);
    match attempt(stage, args, input, flags, &mut record, &mut begun) {
        Ok(status) => status,
        Err(error) => fail(stage, args, &mut record, begun, &classify(&error)),
    }
}

fn attempt<W, H>(
    stage: &Stage<W, H>,
    args: &StageArgs,
    input: Input,
    flags: &W,
    record: &mut Record,
    begun: &mut bool,
) -> anyhow::Result<ExitCode>
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize + DeserializeOwned,
{
    enter()?;
    let from_stdin = !matches!(input, Input::Saved);
    if !from_stdin && args.id.is_none() {
        usage(stage.name);
    }
    if from_stdin {
        *record = match input {
            Input::Record(record) => record,
            _ => read_record()?,
        };
        if let Some(failure) = record.error()? {
            // Whoever failed has told.
            let _ = print(record);
            return Ok(ExitCode::from(failure.code.status()));
        }
        if let Some(end) = record.end()? {
            match end.text {
                _ if end.last != stage.name => print(record)?,
                Some(text) => print_text(&text)?,
                None => {}
            }
            return Ok(ExitCode::from(end.status));
        }
    }
    let dry = args.dry_run || record.get("dry_run")?.unwrap_or(false);
    let instance = if dry { Instance::locate(args.root.as_deref())? } else { Instance::prepare(args.root.as_deref())? };
    if args.undo {
        return undo(stage, args, &instance, from_stdin, record);
    }
    if !from_stdin {
        *record = saved_or_new(stage.name, args, &instance)?;
    }
    let until: Option<String> = record.get("until")?;
    if pipeline().is_some() && until.as_deref().is_some_and(|last| order(stage.name) > order(last)) {
        print(record)?;
        return Ok(ExitCode::SUCCESS);
    }
    let want: W = merged(record, stage.name, flags)?;
    if !stage.again && !dry && done_in_this_boot(record, stage.name)? {
        pass_on(record)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (id, claim) = (record.id()?, record.claim()?);
    let container =
        if dry { None } else { Some(claim_or_open(stage.name, stage.again, &instance, record, wrapper()?)?) };
    *begun = true;
    signals::check()?;
    let context = Context { instance: &instance, record, id, claim, container: container.as_ref(), want: &want };
    let outcome = (stage.act)(&context);
    finish(stage, args, want, outcome?, container, record)
}

/// Saves the section, settles the claim if this was the last stage, and passes the record on.
fn finish<W: Serialize, H: Serialize>(
    stage: &Stage<W, H>,
    args: &StageArgs,
    want: W,
    outcome: Outcome<H>,
    container: Option<Container>,
    record: &mut Record,
) -> anyhow::Result<ExitCode> {
    let (section, refusal) = match outcome {
        Outcome::Done(have) => (Section { want, have: Some(have), plan: None }, None),
        Outcome::Kept(have, error) => (Section { want, have: Some(have), plan: None }, Some(error)),
        Outcome::Plan(plan) => (Section { want, have: None, plan: Some(plan) }, None),
    };
    record.set(stage.name, &section);
    if let Some(container) = &container {
        let text = serde_json::to_string(&section)?;
        container.write_section(stage.name, &text)?;
    }
    signals::check()?;
    if let Some(error) = &refusal {
        record.set("error", &error.failure(&tool(stage.name)));
    }
    let until: Option<String> = record.get("until")?;
    let last = until.as_deref().unwrap_or(STAGES[STAGES.len() - 1]);
    match container {
        // The next stage wants the lock as soon as it has the record.
        container if last != stage.name => {
            drop(container);
            pass_on(record)?;
        }
        container => {
            match args.answer {
                Answer::Id if refusal.is_none() => print_text(&format!("{}\n", record.id()?))?,
                _ => print(record)?,
            }
            // Only once the answer is out: until then a reader that went away undoes it.
            if let Some(container) = container
                && pipeline().is_some()
            {
                container.set_work(record.claim()?, Work::Settled)?;
            }
        }
    }
    Ok(match refusal {
        None => ExitCode::SUCCESS,
        Some(error) => {
            complain(&tool(stage.name), &error);
            ExitCode::from(error.code.status())
        }
    })
}

/// Does a stage within this process, for programs that use Quilt as a library: takes the lock, acts, saves the section
/// and sets it in `record`. The claim stays marked as this process's: whoever calls settles it after the last stage, or
/// undoes all. Like every stage it forks, so the process must have one thread.
pub fn perform<W, H>(stage: &Stage<W, H>, instance: &Instance, record: &mut Record) -> anyhow::Result<()>
where
    W: Serialize + DeserializeOwned + Default,
    H: Serialize,
{
    let want: W = merged(record, stage.name, &W::default())?;
    if !stage.again && done_in_this_boot(record, stage.name)? {
        return Ok(());
    }
    let myself = ProcessId::of(Pid::this().as_raw())?;
    let container = claim_or_open(stage.name, stage.again, instance, record, Some(myself))?;
    let (id, claim) = (record.id()?, record.claim()?);
    let context = Context { instance, record, id, claim, container: Some(&container), want: &want };
    let (have, refusal) = match (stage.act)(&context)? {
        Outcome::Done(have) => (Some(have), None),
        Outcome::Kept(have, error) => (Some(have), Some(error)),
        Outcome::Plan(_) => (None, None),
    };
    let section = Section { want, have, plan: None };
    record.set(stage.name, &section);
    container.write_section(stage.name, &serde_json::to_string(&section)?)?;
    match refusal {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

/// Passes the record on; in a pipeline, into the next stage's hands.
fn pass_on(record: &Record) -> Result<(), Error> {
    if pipeline().is_some() { hand_over(record) } else { print(record) }
}

/// The identity of the wrapper, in a pipeline.
fn wrapper() -> Result<Option<ProcessId>, Error> {
    let Some(pid) = pipeline() else { return Ok(None) };
    let gone = |_| Error::new(Code::Interrupted, "", "the caller died");
    ProcessId::of(pid.as_raw()).map(Some).map_err(gone)
}

/// The place of a stage; one that is not in the list (`run`) comes after all.
fn order(stage: &str) -> usize {
    STAGES.iter().position(|s| *s == stage).unwrap_or(STAGES.len())
}

/// The name of a stage's program.
fn tool(stage: &str) -> String {
    format!("quilt-{stage}")
}
