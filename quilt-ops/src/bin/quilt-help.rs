//! `quilt-help`: the verbs on one screen, or one verb's own help.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use quilt_ops::output::put;
use quilt_record::error::report;
use quilt_record::stage::bin_dir;
use quilt_record::{Code, Error};

const HELP: &str = "\
quilt: verified-ready Linux containers in milliseconds, without a daemon

  quilt create IMAGE --name NAME [OPTIONS] [-- COMMAND...]   make a container and wait until it is ready
  quilt exec NAME COMMAND...                                 run a command in it
  quilt run IMAGE [OPTIONS] -- COMMAND...                    create, run one command, remove

  quilt start NAME...          start stopped containers      quilt ls                   list containers
  quilt stop NAME...           stop them; files stay         quilt inspect NAME...      all that is known
  quilt restart NAME...        stop and start                quilt probe NAME           is it ready and healthy
  quilt kill [-s SIG] NAME...  send a signal                 quilt logs [-f] NAME       output of its command
  quilt pause NAME...          hold them still               quilt unpause NAME...      and let them go on
  quilt rm [-f] NAME...        remove; -f also what runs     quilt wait NAME...         wait for its end
  quilt update NAME... LIMITS  change limits at once         quilt stats [NAME...]      what containers use
  quilt top NAME               its processes

  quilt gc [--dry-run]         clear away what killed commands have left
  quilt repair [NAME...]       make the network whole again after a flushed firewall or a deleted bridge
  quilt version                the version, as JSON
  quilt help VERB              the options of a verb

IMAGE is a .tar, .tar.gz or .tar.zst of a root file system, or a directory (used in place, never written to).
Each step of a create is a tool too: quilt-unpack, quilt-netns, quilt-cgroup, quilt-spawn, quilt-probe (--help).
Exit statuses: 2 usage; 10 to 22 by the kind of failure (docs/architecture.md); exec and run: the command's own.
";

/// The program.
pub fn main() -> ExitCode {
    let verb = std::env::args_os().nth(1).and_then(|verb| verb.into_string().ok()).filter(|v| !v.starts_with('-'));
    let result = match verb.as_deref() {
        None => put(HELP.as_bytes()).map(|_| ExitCode::SUCCESS),
        Some(verb) => Err(one(verb)),
    };
    report("quilt-help", result.map_err(Into::into))
}

/// Becomes the help of the tool that a verb is; returns only if there is none.
fn one(verb: &str) -> Error {
    let (tool, mode) = match verb {
        "create" | "create-production" => ("spec", None),
        "run" => ("spec", Some("--run")),
        "start" | "restart" => ("spec", Some("--start")),
        verb => (verb, None),
    };
    if tool.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
        let _ = Command::new(bin_dir().join(format!("quilt-{tool}"))).args(mode).arg("--help").exec();
    }
    Error::new(Code::NotFound, "", format!("no verb {verb:?}: see `quilt help`"))
}
