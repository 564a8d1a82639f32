//! Waiting for a container's end.

use quilt_record::process::wait_dead;
use quilt_record::{Code, Container, Error, Id, Instance, Step};
use std::time::Duration;

use crate::state;

/// The exit status of an init that left none: only SIGKILL lets it leave none.
const KILLED: u8 = 137;

/// Blocks until the container has ended; its exit status. One that has ended already is not waited for; one that never
/// ran has none (`not_found`).
pub fn wait(instance: &Instance, id: &Id) -> Result<u8, Error> {
    let container = Container::open(instance, id)?;
    let ran = state::spawned(&container).is_some();
    if let Some(init) = state::init(&container)? {
        while !wait_dead(&init, Duration::from_secs(3600)).step(|| format!("wait for the end of {id}"))? {}
    }
    match container.read("exit")?.filter(|text| !text.is_empty()) {
        Some(text) => {
            let bad = |e| Error::new(Code::Invalid, format!("read the exit status of {id}"), format!("{e}"));
            text.trim().parse().map_err(bad)
        }
        None if ran => Ok(KILLED),
        None => Err(Error::new(Code::NotFound, "", format!("the container {id} has not run"))),
    }
}
