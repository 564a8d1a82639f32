//! The record of a stopped container, ready to be replayed.

use std::process::{Command, Stdio};

use quilt_record::claim::Work;
use quilt_record::process::boot_id;
use quilt_record::record::STAGES;
use quilt_record::{Code, Container, Error, Id, Instance, ProcessId, Record, Step, instance, stage};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The saved record of the container, with what it was asked and the image that it has, and without what a stop or a
/// reboot ended. A container that died by itself is stopped first, by `quilt-stop`: its network and cgroups may be left.
pub fn record(id: &Id) -> Result<Record, Error> {
    instance::require_root()?;
    let instance = Instance::locate(None)?;
    let mut record = saved(&instance, id)?;
    if STAGES.iter().any(|stage| *stage != "unpack" && is_of_this_boot(&record, stage)) {
        stop(id)?;
        record = saved(&instance, id)?;
    }
    for key in ["error", "until", "dry_run"] {
        record.remove(key);
    }
    let unpack: Option<Box<RawValue>> = record.get("unpack")?;
    record.drop_have();
    if let Some(unpack) = unpack {
        record.set("unpack", &unpack);
    }
    Ok(record)
}

fn saved(instance: &Instance, id: &Id) -> Result<Record, Error> {
    let container = Container::open(instance, id)?;
    let refuse = |code, why: &str| Err(Error::new(code, "", format!("the container {id} {why}")));
    match container.holder()?.work {
        Work::Settled => {}
        Work::Removing => return refuse(Code::NotFound, "is being removed"),
        Work::Creating(process) | Work::Starting(process) if process.alive() => {
            return refuse(Code::Busy, "is being started by another command");
        }
        Work::Creating(_) => return refuse(Code::Invalid, "was never finished: quilt gc removes it"),
        // Whoever was starting it died: begin again.
        Work::Starting(_) => {}
    }
    let record = container.record()?;
    match record.have::<ProcessId>("spawn")? {
        Some(init) if init.alive() => refuse(Code::Exists, "is running already"),
        _ => Ok(record),
    }
}

fn is_of_this_boot(record: &Record, stage: &str) -> bool {
    #[derive(Deserialize)]
    struct Boot {
        boot: String,
    }
    matches!(record.have::<Boot>(stage), Ok(Some(have)) if have.boot == boot_id())
}

/// Does nothing if another command has started it meanwhile.
fn stop(id: &Id) -> Result<(), Error> {
    let step = || format!("take away what is left of the dead container {id}");
    let mut command = Command::new(stage::bin_dir().join("quilt-stop"));
    // Standard output is the next stage's.
    let status = command
        .arg("--if-dead")
        .arg("--")
        .arg(id.as_str())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .step(step)?;
    if status.success() {
        return Ok(());
    }
    let code = status.code().and_then(|status| u8::try_from(status).ok()).and_then(Code::of_status);
    Err(Error::new(code.unwrap_or(Code::Internal), step(), format!("quilt-stop: {status}")))
}
