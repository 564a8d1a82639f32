//! Holding a container still, and letting it go on.

use std::time::Duration;

use quilt_record::claim::Work;
use quilt_record::have::Hierarchy;
use quilt_record::{Code, Container, Error, Id, Instance, leaf};

use crate::remove::LOCK_LIMIT;
use crate::state;

/// How long processes may take to stand still. One that waits for a disk does not before it has what it waits for.
const FREEZE_LIMIT: Duration = Duration::from_secs(10);

/// Pauses a container: every process in it stands still when this returns, commands of `quilt exec` too. One that is
/// paused is no error; one that does not run is `not_found`. If some process does not stop in time, all go on (`timeout`).
pub fn pause(instance: &Instance, id: &Id) -> anyhow::Result<()> {
    let (_container, hierarchies) = running(instance, id)?;
    Ok(leaf::pause(&hierarchies, FREEZE_LIMIT)?)
}

/// Lets a container go on. One that is not paused is no error; one that does not run is `not_found`.
pub fn unpause(instance: &Instance, id: &Id) -> anyhow::Result<()> {
    let (_container, hierarchies) = running(instance, id)?;
    Ok(leaf::unpause(&hierarchies)?)
}

/// A container that runs, locked, and where it can be frozen.
fn running(instance: &Instance, id: &Id) -> Result<(Container, Vec<Hierarchy>), Error> {
    let container = Container::open(instance, id)?;
    container.lock(LOCK_LIMIT)?;
    let busy = |what: &str| Err(Error::new(Code::Busy, "", format!("the container {id} is being {what}")));
    match container.holder()?.work {
        Work::Removing => return busy("removed"),
        Work::Creating(maker) | Work::Starting(maker) if maker.alive() => return busy("created"),
        _ => {}
    }
    state::running(&container)?;
    let hierarchies = state::hierarchies(&container);
    Ok((container, hierarchies))
}
