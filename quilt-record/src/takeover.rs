//! How a stage comes to hold the container of its record: it claims the name, or goes on with what is there.
//!
//! The hard thing is that a record says what was, when it was printed. Since then the container may have been removed, or
//! started by somebody else; so all is looked at again under the lock.

use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::claim::Work;
use crate::container::{Container, exists};
use crate::error::{Code, Error};
use crate::id::Id;
use crate::instance::Instance;
use crate::process::{ProcessId, boot_id};
use crate::record::{Record, STAGES, Section};

/// Opens the container that the record claims, or claims it. Locked, and marked as `worker`'s, if there is one.
/// `again`: the stage may be done anew.
pub(crate) fn claim_or_open(
    stage: &str,
    again: bool,
    instance: &Instance,
    record: &Record,
    worker: Option<ProcessId>,
) -> Result<Container, Error> {
    let (id, claim) = (record.id()?, record.claim()?);
    let removed = || Error::new(Code::Interrupted, "", format!("the container {id} was removed meanwhile"));
    let container = match Container::open(instance, &id) {
        Ok(container) => container,
        // What the stages before did is gone with it.
        Err(e) if e.code == Code::NotFound && begun(record) => return Err(removed()),
        Err(e) if e.code == Code::NotFound => {
            let work = worker.map_or(Work::Settled, Work::Creating);
            return Container::claim(instance, record, work);
        }
        Err(e) => return Err(e),
    };
    // A claim that cannot be read is not ours either.
    if !container.holder().is_ok_and(|holder| holder.claim == claim) {
        return Err(exists(&id));
    }
    // Only under the lock: whoever removes the container takes the claim over first.
    container.lock(Duration::from_secs(10))?;
    let holder = container.holder()?;
    if holder.claim != claim || holder.work == Work::Removing {
        return Err(removed());
    }
    // Two may have found the container stopped. The later one must not do over what the earlier one has done.
    if !again && saved_in_this_boot(&container, stage)? && !done_in_this_boot(record, stage)? {
        let message = format!("another command has done {stage} for the container {id} meanwhile");
        return Err(Error::new(Code::Exists, "", message));
    }
    if let Some(work) = worker.map(|worker| taken_over(&id, &holder.work, worker)).transpose()?.flatten() {
        container.set_work(claim, work)?;
    }
    Ok(container)
}

/// How the work is to be marked when `worker` goes on with it; `None` if it is marked so. `busy` if it is another's who
/// lives.
fn taken_over(id: &Id, work: &Work, worker: ProcessId) -> Result<Option<Work>, Error> {
    match work {
        Work::Creating(maker) | Work::Starting(maker) if *maker == worker => Ok(None),
        Work::Creating(maker) | Work::Starting(maker) if maker.alive() => {
            Err(Error::new(Code::Busy, "", format!("another command is creating or starting the container {id}")))
        }
        Work::Creating(_) => Ok(Some(Work::Creating(worker))),
        Work::Settled | Work::Starting(_) | Work::Removing => Ok(Some(Work::Starting(worker))),
    }
}

/// Whether the record says that a stage was done.
fn begun(record: &Record) -> bool {
    STAGES.iter().any(|stage| !matches!(record.have::<IgnoredAny>(stage), Ok(None)))
}

/// Whether the container's directory says that the stage was done, and what it made can still be there.
fn saved_in_this_boot(container: &Container, name: &str) -> Result<bool, Error> {
    let Some(text) = container.read(&format!("{name}.json"))? else { return Ok(false) };
    let saved = serde_json::from_str::<Section<IgnoredAny, Boot>>(&text);
    Ok(saved.is_ok_and(|section| section.have.is_some_and(|have| have.is_this())))
}

/// The boot that a `have` belongs to, if it does not outlive it.
#[derive(Deserialize)]
struct Boot {
    boot: Option<String>,
}

impl Boot {
    fn is_this(&self) -> bool {
        self.boot.as_ref().is_none_or(|boot| boot == boot_id())
    }
}

/// Whether the stage has been done, and what it made can still be there.
pub(crate) fn done_in_this_boot(record: &Record, name: &str) -> Result<bool, Error> {
    Ok(record.have::<Boot>(name)?.is_some_and(|have| have.is_this()))
}

#[cfg(test)]
mod tests {
    use nix::unistd::{Pid, getppid};

    use super::*;

    #[test]
    fn work_is_taken_over_from_the_dead_only() -> Result<(), Box<dyn std::error::Error>> {
        let id: Id = "web".parse()?;
        let me = ProcessId::of(Pid::this().as_raw())?;
        let other = ProcessId::of(getppid().as_raw())?;
        let dead = ProcessId { start: me.start + 1, ..me.clone() };
        let taken = |work| taken_over(&id, &work, me.clone());
        assert_eq!(taken(Work::Settled), Ok(Some(Work::Starting(me.clone()))));
        assert_eq!(taken(Work::Starting(me.clone())), Ok(None));
        assert_eq!(taken(Work::Creating(me.clone())), Ok(None));
        assert_eq!(taken(Work::Starting(dead.clone())), Ok(Some(Work::Starting(me.clone()))));
        assert_eq!(taken(Work::Creating(dead)), Ok(Some(Work::Creating(me.clone()))));
        for work in [Work::Creating(other.clone()), Work::Starting(other)] {
            assert_eq!(taken(work).map_err(|e| e.code), Err(Code::Busy));
        }
        Ok(())
    }
}
