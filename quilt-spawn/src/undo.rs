//! Takes a spawn back: by name, whatever of it is there.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::signal::Signal;

use quilt_record::error::Step as _;
use quilt_record::leaf::{INIT, Leaf};
use quilt_record::process::wait_dead;
use quilt_record::record::Section;
use quilt_record::{Claim, Code, Container, Error, Id, Instance, have, sys};
use serde::de::DeserializeOwned;
use serde::de::IgnoredAny;

use crate::start::{gone, remove_files};

/// How long the dying may take. What is killed is in the kernel's hands, but may have gigabytes to give back.
const LIMIT: Duration = Duration::from_secs(10);

/// Kills init and what is in its cgroup leaf, and removes the leaf and the files that init wrote. What ran beside init, in
/// leaves of its own, has died with init's pid namespace; with `--pid host` it goes with the container's cgroup.
pub fn undo(instance: &Instance, id: &Id, _claim: Claim) -> anyhow::Result<()> {
    let container = match Container::open(instance, id) {
        Ok(container) => container,
        Err(e) if e.code == Code::NotFound => return Ok(()),
        Err(e) => return Err(e.into()),
    };
    let results = [kill_init(&container), remove_leaf(&container), remove_files(&container)];
    Ok(results.into_iter().fold(Ok(()), Result::and)?)
}

/// What a stage saved that it did. A section that cannot be read says nothing: undo goes on by name.
fn saved<H: DeserializeOwned>(container: &Container, stage: &str) -> Option<H> {
    let text = container.read(&format!("{stage}.json")).ok()??;
    serde_json::from_str::<Section<IgnoredAny, H>>(&text).ok()?.have
}

fn kill_init(container: &Container) -> Result<(), Error> {
    let Some(spawn) = saved::<have::Spawn>(container, "spawn") else { return Ok(()) };
    let step = || format!("kill init, process {}", spawn.init.pid);
    let Some(init) = spawn.init.open().step(step)? else { return Ok(()) };
    match sys::pidfd_send_signal(init.as_fd(), Signal::SIGKILL) {
        Err(e) if !gone(&e) => return Err(Error::os(step(), e)),
        _ => {}
    }
    if wait_dead(&init, LIMIT).step(step)? { Ok(()) } else { Err(Error::new(Code::Timeout, step(), "it still lives")) }
}

fn remove_leaf(container: &Container) -> Result<(), Error> {
    let Some(cgroup) = saved::<have::Cgroup>(container, "cgroup") else { return Ok(()) };
    let leaf = match Leaf::open(&cgroup.hierarchies, INIT) {
        Ok(leaf) => leaf,
        Err(e) if e.code == Code::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    if leaf.populated()? {
        leaf.kill(LIMIT)?;
    }
    leaf.remove()?;
    Ok(())
}
