//! A container that runs, for the verbs that look at it from outside: stats, top.

use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use quilt_record::have::{Cgroup, Spawn};
use quilt_record::process::{ticks_us, wait_dead};
use quilt_record::{Code, Container, Error, Id, Instance, Step};
use serde::Deserialize;

use crate::state;

/// What is known of it.
pub struct Live {
    /// Its directory.
    pub container: Container,
    /// Its cgroups.
    pub cgroup: Cgroup,
    /// What spawn did; its init lived when this was made.
    pub spawn: Spawn,
    init: OwnedFd,
}

impl Live {
    /// `not_found` if the container does not run.
    pub fn open(instance: &Instance, id: &Id) -> Result<Live, Error> {
        let container = Container::open(instance, id)?;
        let init = state::running(&container)?;
        let (spawn, cgroup) = (state::spawned(&container), cgroup(&container));
        // If that init still lives, the sections are its own, and not those of a start after it.
        check(id, &init)?;
        Ok(Live { cgroup: cgroup?, spawn: spawn.ok_or_else(|| ended(id))?, container, init })
    }

    /// `not_found` if it has ended meanwhile: what was read of it may be of no container.
    pub fn check(&self) -> Result<(), Error> {
        check(self.container.id(), &self.init)
    }
}

fn check(id: &Id, init: &OwnedFd) -> Result<(), Error> {
    match wait_dead(init, Duration::ZERO).step(|| format!("look at the init of {id}"))? {
        true => Err(ended(id)),
        false => Ok(()),
    }
}

fn ended(id: &Id) -> Error {
    Error::new(Code::NotFound, "", format!("the container {id} is not running"))
}

/// What the cgroup stage did. Reads that section only.
fn cgroup(container: &Container) -> Result<Cgroup, Error> {
    #[derive(Deserialize)]
    struct Done {
        have: Option<Cgroup>,
    }
    let step = || format!("read the cgroups of {}", container.id());
    let none = || Error::new(Code::Invalid, step(), "the record has none");
    let text = container.read("cgroup.json")?.ok_or_else(none)?;
    let done: Done = serde_json::from_str(&text).map_err(|e| Error::new(Code::Invalid, step(), e.to_string()))?;
    done.have.ok_or_else(none)
}

/// How long ago a process began that began so many clock ticks after the boot (`/proc/PID/stat` field 22), in microseconds.
pub fn age_us(start: u64) -> u64 {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    (now.as_micros() as u64).saturating_sub(ticks_us(start))
}
