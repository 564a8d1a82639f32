//! What a container is doing, and what is known about it.

use std::os::fd::OwnedFd;

use quilt_record::claim::Work;
use quilt_record::have::{Cgroup, Hierarchy, Netns, Spawn};
use quilt_record::{Code, Container, Error, Id, Instance, Record, Step, leaf};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a container is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Its init lives.
    Running,
    /// Its init lives, and is held still (`quilt unpause`).
    Paused,
    /// It could be started.
    Stopped,
    /// A create or start is at work on it.
    Creating,
    /// A create, start or rm died on it (`quilt gc`), or its record cannot be read (`quilt rm -f`).
    Broken,
}

impl Status {
    /// The word that stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
            Status::Creating => "creating",
            Status::Broken => "broken",
        }
    }
}

/// A pidfd on the container's init, if it lives. A record that cannot be read has none.
pub fn init(container: &Container) -> Result<Option<OwnedFd>, Error> {
    match spawned(container) {
        Some(spawn) => spawn.init.open().step(|| format!("look at the init of {}", container.id())),
        None => Ok(None),
    }
}

/// The same, for a verb that wants one: `not_found` if the container does not run.
pub fn running(container: &Container) -> Result<OwnedFd, Error> {
    let stopped = || Error::new(Code::NotFound, "", format!("the container {} is not running", container.id()));
    init(container)?.ok_or_else(stopped)
}

/// What spawn did. Reads one section only: this is on the way of every verb.
pub fn spawned(container: &Container) -> Option<Spawn> {
    have(container, "spawn")
}

/// What netns did.
pub fn network(container: &Container) -> Option<Netns> {
    have(container, "netns")
}

/// Its cgroups, where it has any.
pub fn hierarchies(container: &Container) -> Vec<Hierarchy> {
    have::<Cgroup>(container, "cgroup").map(|cgroup| cgroup.hierarchies).unwrap_or_default()
}

fn have<H: serde::de::DeserializeOwned>(container: &Container, stage: &str) -> Option<H> {
    #[derive(Deserialize)]
    struct Done<H> {
        have: Option<H>,
    }
    let text = container.read(&format!("{stage}.json")).ok()??;
    serde_json::from_str::<Done<H>>(&text).ok()?.have
}

/// One line of `quilt ls`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Its name.
    pub id: Id,
    /// What it is doing.
    pub status: Status,
    /// The host's pid of its init.
    pub pid: Option<i32>,
    /// Its address, while it runs.
    pub ip: Option<std::net::Ipv4Addr>,
    /// What it was created from, as it was given.
    pub image: Option<String>,
    /// When: RFC 3339.
    pub created: Option<String>,
    /// Its labels.
    pub labels: Map<String, Value>,
}

/// Looks at one container, and at its record if that can be read.
pub fn look(instance: &Instance, id: &Id) -> Result<(Summary, Result<Record, Error>), Error> {
    let container = Container::open(instance, id)?;
    let record = container.record();
    let mut summary = Summary {
        id: id.clone(),
        status: Status::Broken,
        pid: None,
        ip: None,
        image: None,
        created: None,
        labels: Map::new(),
    };
    let Ok(known) = &record else { return Ok((summary, record)) };
    let alive = spawned(&container).filter(|spawn| spawn.init.alive());
    summary.status = match container.holder().map(|holder| holder.work) {
        Ok(Work::Settled) if alive.is_some() => {
            let cgroup: Option<Cgroup> = known.have("cgroup").unwrap_or_default();
            let paused = cgroup.is_some_and(|cgroup| leaf::is_paused(&cgroup.hierarchies).unwrap_or(false));
            if paused { Status::Paused } else { Status::Running }
        }
        Ok(Work::Settled) => Status::Stopped,
        Ok(Work::Creating(maker) | Work::Starting(maker)) if maker.alive() => Status::Creating,
        _ => Status::Broken,
    };
    summary.pid = alive.map(|spawn| spawn.init.pid);
    // A stopped one keeps its address, but nobody answers there.
    let net = network(&container).filter(|_| summary.pid.is_some());
    summary.ip = net.and_then(|net| net.link).map(|link| link.address);
    let asked: Map<String, Value> = known.want("unpack").unwrap_or_default();
    summary.image = asked.get("image").and_then(Value::as_str).map(str::to_owned);
    summary.created = known.get("created").unwrap_or_default();
    summary.labels = known.get("labels").ok().flatten().unwrap_or_default();
    Ok((summary, record))
}
