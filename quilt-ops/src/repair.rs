//! Repairing the host's side of containers' networks: what others have flushed, deleted or switched off.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

use quilt_netns::{Repaired, repair_container, repair_shared};
use quilt_record::claim::Work;
use quilt_record::process::wait_dead;
use quilt_record::{Code, Container, Error, Id, Instance, Step};

use crate::output::{columns, put, put_json};
use crate::remove::LOCK_LIMIT;
use crate::state;

/// Repairs what all containers share, and says what it was.
pub fn shared(instance: &Instance) -> anyhow::Result<Vec<Repaired>> {
    Ok(repair_shared(instance)?)
}

/// Repairs a running container's own place on its bridge.
pub fn container(instance: &Instance, id: &Id) -> anyhow::Result<Vec<Repaired>> {
    let container = Container::open(instance, id)?;
    let init = state::running(&container)?;
    container.lock(LOCK_LIMIT)?;
    if container.holder()?.work != Work::Settled {
        return Err(Error::new(Code::Busy, "", format!("the container {id} is being made or removed")).into());
    }
    // Who else could have had the lock may have stopped it.
    let ended = || Error::new(Code::NotFound, "", format!("the container {id} is not running"));
    let pid = state::spawned(&container).map(|spawn| spawn.init.pid).ok_or_else(ended)?;
    let path = format!("/proc/{pid}/ns/net");
    let net = File::open(&path).map(OwnedFd::from).step(|| format!("open {path}"));
    if wait_dead(&init, Duration::ZERO).step(|| format!("look at the init of {id}"))? {
        return Err(ended().into());
    }
    Ok(repair_container(instance, &container, net?)?)
}

/// Prints what was repaired: a line of JSON for each thing, or a table if there is anything to show.
pub fn show(repaired: &[Repaired], table: bool) -> anyhow::Result<()> {
    if !table {
        for one in repaired {
            put_json(one)?;
        }
        return Ok(());
    }
    let row = |one: &Repaired| {
        let done = if one.repaired { "yes" } else { "no" };
        [one.kind.to_owned(), one.name.clone(), done.to_owned(), one.why.clone()]
    };
    let heading = ["WHAT", "NAME", "REPAIRED", "WHY"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(heading).chain(repaired.iter().map(row)).collect();
    if rows.len() > 1 {
        put(columns(&rows).as_bytes())?;
    }
    Ok(())
}
