//! What the verbs' command lines have in common.

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use quilt_record::error::{classify, complain};
use quilt_record::{Code, Container, Error, Id, Instance, signals};

/// Which instance.
#[derive(Args, Clone, Debug, Default)]
pub struct Root {
    /// Work on the instance under DIR instead of /var/lib/quilt and /run/quilt [env: QUILT_ROOT]
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl Root {
    /// The instance; for root only. Creates nothing.
    pub fn locate(&self) -> Result<Instance, Error> {
        quilt_record::instance::require_root()?;
        Instance::locate(self.root.as_deref())
    }
}

/// Which containers.
#[derive(Args, Clone, Debug, Default)]
#[group(id = "which", required = true, multiple = false)]
pub struct Targets {
    /// The containers' names
    #[arg(value_name = "NAME")]
    pub ids: Vec<Id>,

    /// All containers
    #[arg(long)]
    pub all: bool,
}

impl Targets {
    /// Does `verb` to each. What fails gets a line of its own, and the others are still done; the status is that of the
    /// first failure.
    pub fn each(
        &self,
        tool: &str,
        instance: &Instance,
        mut verb: impl FnMut(&Instance, &Id) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        let listed;
        let ids = if self.all {
            listed = Container::list(instance)?;
            &listed
        } else {
            &self.ids
        };
        let mut first = None;
        for id in ids {
            // Signals are blocked in the verbs that change something: one is done or not begun.
            signals::check()?;
            if let Err(error) = verb(instance, id) {
                first.get_or_insert(complain_of(tool, id, &error));
            }
        }
        Ok(first.map_or(ExitCode::SUCCESS, |code| ExitCode::from(code.status())))
    }
}

impl Targets {
    /// The same for a verb on what runs: of `--all`, those are meant that do.
    pub fn each_running(
        &self,
        tool: &str,
        instance: &Instance,
        verb: impl Fn(&Instance, &Id) -> anyhow::Result<()>,
    ) -> anyhow::Result<ExitCode> {
        self.each(tool, instance, |instance, id| match verb(instance, id) {
            Err(e) if self.all && classify(&e).code == Code::NotFound => Ok(()),
            done => done,
        })
    }
}

/// How a list is printed.
#[derive(Args, Clone, Debug, Default)]
pub struct Form {
    /// JSON lines, wherever the output goes
    #[arg(long, conflicts_with = "table")]
    json: bool,

    /// The table, wherever the output goes
    #[arg(long)]
    table: bool,
}

impl Form {
    /// A table: on a terminal, unless it was said.
    pub fn is_table(&self) -> bool {
        self.table || (!self.json && stdout().is_terminal())
    }
}

/// Prints the line for one container that a verb failed on, which names it; the code.
pub fn complain_of(tool: &str, id: &Id, error: &anyhow::Error) -> Code {
    let mut error = classify(error);
    if !error.to_string().contains(id.as_str()) {
        error.step = if error.step.is_empty() { id.to_string() } else { format!("{id}: {}", error.step) };
    }
    complain(tool, &error);
    error.code
}
