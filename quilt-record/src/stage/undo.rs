//! Taking back: after a failure, and on request (`--undo`).

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::unistd::geteuid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::input::usage;
use super::{Stage, StageArgs, order, pipeline, tool};
use crate::claim::Claim;
use crate::container::{Container, exists};
use crate::error::{Code, Error, classify, complain};
use crate::handover::{PASS_ON, print};
use crate::id::Id;
use crate::instance::Instance;
use crate::record::{FORMAT, Record, STAGES};

/// Reports the failure, and takes back: the whole claim in a pipeline, else this stage's own part, if it had `begun`: what
/// is there otherwise is another command's.
pub(super) fn fail<W, H>(
    stage: &Stage<W, H>,
    args: &StageArgs,
    record: &mut Record,
    begun: bool,
    error: &Error,
) -> ExitCode {
    let tool = tool(stage.name);
    if record.keys().next().is_none() {
        record.set("format", &FORMAT);
    }
    record.set("error", &error.failure(&tool));
    // A reader that is gone will not miss it.
    let _ = print(record);
    let in_run = record.get::<String>("until").is_ok_and(|until| until.as_deref() == Some("run"));
    if pipeline().is_none() || !told_by_another(stage.name, in_run, error) {
        complain(&tool, error);
    }
    if let (Ok(id), Ok(claim)) = (record.id(), record.claim()) {
        // Nobody but root has done anything.
        if pipeline().is_some() && geteuid().is_root() {
            return undo_all(&id, claim, args, error.code);
        }
        if begun
            && let Ok(instance) = Instance::locate(args.root.as_deref())
            && let Ok(container) = Container::open(&instance, &id)
            && container.holder().is_ok_and(|h| h.claim == claim)
            && container.lock(Duration::from_secs(10)).is_ok()
        {
            if let Err(left) = (stage.undo)(&instance, &id, claim) {
                complain(&tool, &classify(&left));
            }
            let only_mine = STAGES.iter().all(|s| matches!(container.read(&format!("{s}.json")), Ok(None)));
            if only_mine {
                let _ = container.remove(claim);
            }
        }
    }
    ExitCode::from(error.code.status())
}

/// Becomes `quilt-rm --claim`, which undoes what the pipeline did under the claim and exits with the failure's status:
/// a container that it was creating is removed, one that it was starting is stopped, a settled one is left alone.
pub(super) fn undo_all(id: &Id, claim: Claim, args: &StageArgs, code: Code) -> ExitCode {
    let status = format!("--status={}", code.status());
    let error = undo_command(args.root.as_deref(), claim).arg(status).arg("--").arg(id.as_str()).exec();
    complain("quilt", &Error::os("run quilt-rm to undo", error));
    ExitCode::from(code.status())
}

/// The start of the command that undoes what was done under a claim in the instance under `root`.
pub fn undo_command(root: Option<&Path>, claim: Claim) -> Command {
    let mut command = Command::new(bin_dir().join("quilt-rm"));
    command.arg("--claim").arg(claim.to_string());
    if let Some(root) = root {
        command.arg("--root").arg(root);
    }
    command
}

/// The directory of the tools: `QUILT_BIN`, else where this program is.
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("QUILT_BIN").filter(|d| !d.is_empty()) {
        return dir.into();
    }
    std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from)).unwrap_or_default()
}

pub(super) fn undo<W, H>(
    stage: &Stage<W, H>,
    args: &StageArgs,
    instance: &Instance,
    from_stdin: bool,
    record: &mut Record,
) -> anyhow::Result<ExitCode>
where
    W: Serialize + DeserializeOwned,
    H: Serialize + DeserializeOwned,
{
    let id = if from_stdin { record.id()? } else { args.id.clone().unwrap_or_else(|| usage(stage.name)) };
    let container = match Container::open(instance, &id) {
        Ok(container) => container,
        Err(e) if e.code == Code::NotFound => return Ok(ExitCode::SUCCESS),
        Err(e) => return Err(e.into()),
    };
    container.lock(Duration::from_secs(10))?;
    let claim = container.holder()?.claim;
    if from_stdin && record.claim()? != claim {
        return Err(exists(&id).into());
    }
    (stage.undo)(instance, &id, claim)?;
    if let Some(section) = container.record().ok().and_then(|r| r.get::<Map<String, Value>>(stage.name).ok().flatten())
    {
        let mut section = section;
        section.remove("have");
        container.write_section(stage.name, &serde_json::to_string(&section)?)?;
        record.set(stage.name, &section);
    }
    if from_stdin {
        print(record)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether another stage of the pipeline has a line for this: the next one went away. If it failed, it has told of that;
/// if it was killed, who comes after it tells. Only after the last of all nobody does.
fn told_by_another(stage: &str, in_run: bool, error: &Error) -> bool {
    let last = if in_run { order("run") } else { STAGES.len() - 1 };
    error.step == PASS_ON && error.code == Code::Interrupted && order(stage) + 1 < last
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_passes_on_to_the_last_tells_of_its_death() {
        let gone = Error::new(Code::Interrupted, PASS_ON, "the next step died");
        for (stage, in_run, told) in [
            ("unpack", false, true),
            ("cgroup", false, true),
            ("spawn", false, false),
            ("probe", false, false),
            ("spawn", true, true),
            ("probe", true, false),
        ] {
            assert_eq!(told_by_another(stage, in_run, &gone), told, "{stage}");
        }
        assert!(!told_by_another("unpack", false, &Error::new(Code::Interrupted, "", "interrupted by SIGTERM")));
        assert!(!told_by_another("unpack", false, &Error::new(Code::NoSpace, PASS_ON, "No space left on device")));
    }
}
