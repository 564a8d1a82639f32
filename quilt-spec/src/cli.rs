//! The command lines of `quilt create`, `quilt run` and `quilt start`.

use std::fs::File;
use std::io::{Read, stdin};
use std::path::{Path, PathBuf};

use clap::{Args, Parser};
use quilt_record::record::RECORD_MAX;
use quilt_record::{Code, Error, Id, Record, Step};

use crate::spec::{Refusal, Run, Spec};
use crate::{env, json, wants};

/// The options of a create.
#[derive(Args, Debug)]
pub struct Flags {
    #[command(flatten)]
    unpack: wants::Unpack,

    /// The container's name: `[a-zA-Z0-9][a-zA-Z0-9_.-]*`, at most 63 bytes [default: a new one]
    #[arg(long, value_name = "NAME", help_heading = "Container")]
    name: Option<Id>,

    /// A label, for finding it again; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE", help_heading = "Container", value_parser = label)]
    labels: Vec<(String, String)>,

    /// Take everything from a spec or a record (`-`: standard input); what is given as flags goes over it
    #[arg(short = 'f', long, value_name = "FILE", help_heading = "Container")]
    file: Option<PathBuf>,

    #[command(flatten)]
    netns: wants::Netns,
    #[command(flatten)]
    cgroup: wants::Cgroup,
    #[command(flatten)]
    spawn: wants::Spawn,

    /// Environment variables from a file: NAME=VALUE or NAME per line, `#` for comments; --env goes over it
    #[arg(long = "env-file", value_name = "FILE", help_heading = "Process")]
    env_files: Vec<PathBuf>,

    #[command(flatten)]
    probe: wants::Probe,
}

/// Make a container from an image and answer when it is ready.
///
/// Prints the container's record, one line of JSON. If anything fails, everything is undone.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 110,
    override_usage = "quilt create [OPTIONS] IMAGE [-- COMMAND...]",
    after_help = "\
Examples:
  quilt create ./agent.tar.gz --name agent-1 --memory 512 --cpu 50 --health-check 'echo ready'
  quilt exec agent-1 python3 -c 'print(1+1)'      # then as many commands as you like
  quilt create / --name try                       # the host's own tree, copy on write
  quilt create ./web.tar.zst --name web --user www-data -- nginx -g 'daemon off;'
  quilt create ./agent.tar.gz --dry-run           # every mount, cgroup write and netlink message
  quilt create -f spec.json --name agent-2        # a spec, or the record of another container
  quilt create ./a.tar --stop-after netns > r.json && quilt create -f r.json"
)]
pub struct CreateCli {
    #[command(flatten)]
    flags: Flags,

    /// Stop after this stage and print the record; `create -f` goes on from there
    #[arg(long = "stop-after", value_name = "STAGE", help_heading = "Container",
        value_parser = quilt_record::record::STAGES)]
    until: Option<String>,

    /// Change nothing: print the record with the plan of every stage
    #[arg(long, help_heading = "Container")]
    dry_run: bool,
}

/// Make a container, run one command in it when it is ready, and remove it.
///
/// Exits as the command does (125 if Quilt itself failed). The container is gone however this ends.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 110,
    override_usage = "quilt run [OPTIONS] IMAGE -- COMMAND...",
    after_help = "\
Examples:
  quilt run ./agent.tar.gz -- make test
  quilt run ./agent.tar.gz -it -- bash            # with a terminal
  tar c . | quilt run ./agent.tar.gz -i -w /tmp -- sh -c 'tar x && make'"
)]
pub struct RunCli {
    #[command(flatten)]
    flags: Flags,

    /// Give the command this standard input
    #[arg(short, long, help_heading = "Command")]
    interactive: bool,

    /// Give the command a terminal of its own
    #[arg(short, long, help_heading = "Command")]
    tty: bool,
}

/// Start stopped containers: the record that they were created by is replayed.
///
/// Each keeps its files, address and limits, and is ready when this returns; its record is printed.
#[derive(Parser, Debug)]
#[command(
    version,
    max_term_width = 110,
    override_usage = "quilt start NAME...\n       quilt start --all",
    after_help = "\
Examples:
  quilt stop agent-1 && quilt start agent-1
  quilt start --all                               # after a reboot"
)]
pub struct StartCli {
    /// The container's name
    pub name: Id,
}

impl CreateCli {
    /// The record.
    pub fn record(self, claim: Option<quilt_record::Claim>) -> Result<Record, Refusal> {
        let (mut spec, file) = self.flags.spec()?;
        spec.until = self.until;
        spec.dry_run = self.dry_run;
        spec.record(file, claim)
    }
}

impl RunCli {
    /// The record, with the command as its `run`.
    pub fn record(self, claim: Option<quilt_record::Claim>) -> Result<Record, Refusal> {
        if self.flags.probe.keep_failed {
            return Err(Refusal::Usage("run removes its container: --keep-failed is for create".to_owned()));
        }
        let (mut spec, file) = self.flags.spec()?;
        let argv = std::mem::take(&mut spec.spawn.command);
        if argv.is_empty() {
            return Err(Refusal::Usage("no command: give it after the image, `-- COMMAND...`".to_owned()));
        }
        spec.run = Some(Run { argv, interactive: self.interactive, tty: self.tty });
        let mut file = file.unwrap_or_default();
        // A container of one command is always a new one.
        file.remove("claim");
        spec.record(Some(file), claim)
    }
}

impl Flags {
    fn spec(self) -> Result<(Spec, Option<Record>), Refusal> {
        let file = self.file.as_deref().map(read_spec).transpose()?;
        let mut spawn = self.spawn;
        spawn.env.iter().try_for_each(|entry| env::check_name(entry)).map_err(Refusal::Usage)?;
        let files = self.env_files.iter().map(|path| env::read_file(path)).collect::<Result<Vec<_>, _>>()?;
        spawn.env = files.into_iter().flatten().chain(spawn.env).collect();
        spawn.take_seccomp()?;
        let spec = Spec {
            name: self.name,
            labels: self.labels,
            unpack: self.unpack,
            netns: self.netns,
            cgroup: self.cgroup,
            spawn,
            probe: self.probe,
            ..Spec::default()
        };
        Ok((spec, file))
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    if name.is_empty() {
        return Err("a label has a name: write KEY=VALUE".to_owned());
    }
    Ok((name.to_owned(), value.to_owned()))
}

fn read_spec(path: &Path) -> Result<Record, Error> {
    let step = || match path.to_str() {
        Some("-") => "read the spec from standard input".to_owned(),
        _ => format!("read the spec {}", path.display()),
    };
    let mut text = String::new();
    let read = if path == Path::new("-") {
        stdin().lock().take(RECORD_MAX + 1).read_to_string(&mut text)
    } else {
        File::open(path).step(step)?.take(RECORD_MAX + 1).read_to_string(&mut text)
    };
    if read.step(step)? as u64 > RECORD_MAX {
        return Err(Error::new(Code::Invalid, step(), format!("it is larger than {} MiB", RECORD_MAX >> 20)));
    }
    Record::parse(&json::on_one_line(&text)).map_err(|e| Error { step: step(), ..e })
}
