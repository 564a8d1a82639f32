//! Clearing away what commands that were killed have left. Whatever is in anybody's hands is left alone: a lock that is
//! held, a claim whose process lives, a name that somebody has.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use quilt_record::claim::Work;
use quilt_record::error::{classify, complain};
use quilt_record::have::Hierarchy;
use quilt_record::leaf::{self, Leaf};
use quilt_record::{Claim, Code, Container, Error, Id, Instance, ProcessId, Record, lock, process};
use quilt_unpack::{images, tree};
use serde::Serialize;

use crate::output::put_json;
use crate::remove::{destroy, end, mark};
use crate::{network, state, stop};

/// What was found, and removed unless it is a dry run.
#[derive(Debug, Serialize)]
struct Finding<'a> {
    kind: &'a str,
    name: &'a str,
    why: &'a str,
    removed: bool,
}

/// One run.
pub struct Collector<'a> {
    instance: &'a Instance,
    dry: bool,
    failed: Option<Code>,
}

impl<'a> Collector<'a> {
    /// One that only tells what it would do if `dry`.
    pub fn new(instance: &'a Instance, dry: bool) -> Collector<'a> {
        Collector { instance, dry, failed: None }
    }

    /// Does it, and prints one JSON line for each thing. What fails gets a line on standard error; the rest is done.
    /// The code of the first failure.
    pub fn run(mut self) -> anyhow::Result<Option<Code>> {
        // Read before the containers are: their objects are younger than their claim, so what has no container now is
        // nobody's, whoever comes later.
        let mut named: BTreeSet<String> = quilt_cgroup::list(self.instance)?.into_iter().collect();
        named.extend(network::list(self.instance)?);
        let containers = Container::list(self.instance)?;
        named.retain(|name| containers.iter().all(|id| id.as_str() != name));
        self.containers(&containers)?;
        for id in named.iter().filter_map(|name| name.parse::<Id>().ok()) {
            self.orphan(&id)?;
        }
        self.remains()?;
        self.images()?;
        self.leases()?;
        Ok(self.failed)
    }

    /// Reports: `done` says whether there was something to remove, and it was (or, dry, would be).
    fn note(&mut self, done: anyhow::Result<bool>, kind: &str, name: &str, why: &str) -> anyhow::Result<()> {
        match done {
            Ok(false) => {}
            Ok(true) => {
                put_json(&Finding { kind, name, why, removed: !self.dry })?;
            }
            Err(error) => {
                let mut error = classify(&error);
                error.step = format!("remove the {kind} {name}: {}", error.step);
                complain("quilt-gc", &error);
                self.failed.get_or_insert(error.code);
            }
        }
        Ok(())
    }

    fn containers(&mut self, ids: &[Id]) -> anyhow::Result<()> {
        for id in ids {
            let Some((container, work)) = self.open(id) else { continue };
            match forsaken(&work) {
                Some(why) => {
                    let done = self.finish(container);
                    self.note(done, "container", id.as_str(), why)?;
                }
                None if work == Work::Settled => self.leaves(id)?,
                None => {}
            }
        }
        Ok(())
    }

    /// A container and what is being done with it. One whose claim cannot be read is quarantined: for `rm -f` alone.
    fn open(&self, id: &Id) -> Option<(Container, Work)> {
        let container = Container::open(self.instance, id).ok()?;
        let work = container.holder().ok()?.work;
        Some((container, work))
    }

    /// Removes a container whose create or rm died; one whose start died becomes a stopped one.
    fn finish(&self, container: Container) -> anyhow::Result<bool> {
        if self.dry {
            return Ok(true);
        }
        match container.lock(Duration::ZERO) {
            // In somebody's hands after all.
            Err(e) if matches!(e.code, Code::Busy | Code::NotFound) => return Ok(false),
            other => other?,
        }
        let holder = container.holder()?;
        if forsaken(&holder.work).is_none() {
            return Ok(false);
        }
        let init = state::init(&container)?;
        if matches!(holder.work, Work::Starting(_)) {
            end(self.instance, container.id(), init.as_ref())?;
            stop::forget(&container)?;
            container.set_work(holder.claim, Work::Settled)?;
        } else {
            mark(&container, holder.claim)?;
            destroy(self.instance, container, holder.claim, init)?;
        }
        Ok(true)
    }

    /// Empty leaves of commands whose quilt-exec is dead.
    fn leaves(&mut self, id: &Id) -> anyhow::Result<()> {
        let hierarchies = quilt_cgroup::Place::find(self.instance, id)?.hierarchies;
        for name in leaf::list(&hierarchies)? {
            if leaf::owner(&name).is_some_and(is_dead) {
                let done = self.leaf(&hierarchies, &name);
                self.note(done, "cgroup", &format!("{id}/{name}"), "its command has ended")?;
            }
        }
        Ok(())
    }

    fn leaf(&self, hierarchies: &[Hierarchy], name: &str) -> anyhow::Result<bool> {
        match Leaf::open(hierarchies, name) {
            Ok(leaf) if self.dry => Ok(!leaf.populated()?),
            Ok(leaf) => Ok(leaf.remove()?),
            // Its owner's guard was quicker.
            Err(e) if e.code == Code::NotFound => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Kernel objects under a name that no container has. The name is claimed for the time of the removal, so that
    /// nobody's new ones are hit.
    fn orphan(&mut self, id: &Id) -> anyhow::Result<()> {
        if !Container::open(self.instance, id).is_err_and(|e| e.code == Code::NotFound) {
            return Ok(());
        }
        let remove = || -> anyhow::Result<bool> {
            if self.dry {
                return Ok(true);
            }
            let claim = Claim::generate();
            match Container::claim(self.instance, &Record::new(id, &claim), Work::Removing) {
                Ok(container) => destroy(self.instance, container, claim, None).map(|()| true),
                Err(e) if e.code == Code::Exists => Ok(false),
                Err(e) => Err(e.into()),
            }
        };
        let done = remove();
        self.note(done, "kernel objects", id.as_str(), "no container has the name")
    }

    /// `.new-CLAIM` and `.rm-CLAIM` in the containers' directory: whoever is at work on one holds its lock.
    fn remains(&mut self) -> anyhow::Result<()> {
        let Some((parent, names)) = hidden(&self.instance.containers(), &[".new-", ".rm-"])? else { return Ok(()) };
        for name in names {
            let remove = || -> anyhow::Result<bool> {
                let dir = match open_dir(parent.as_fd(), name.as_str()) {
                    Ok(dir) => dir,
                    Err(Errno::ENOENT) => return Ok(false),
                    Err(e) => return Err(std::io::Error::from(e).into()),
                };
                match lock::acquire(dir.as_fd(), Duration::ZERO, &name) {
                    Err(e) if e.code == Code::Busy => return Ok(false),
                    other => other?,
                }
                // Whoever held the lock may have finished, and another have begun under the same name.
                let same = |a: FileStat, b: FileStat| (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino);
                match fstatat(&parent, name.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(now) if same(now, fstat(&dir).map_err(std::io::Error::from)?) => {}
                    Ok(_) | Err(Errno::ENOENT) => return Ok(false),
                    Err(e) => return Err(std::io::Error::from(e).into()),
                }
                if !self.dry {
                    tree::remove(parent.as_fd(), &name)?;
                }
                Ok(true)
            };
            let done = remove();
            self.note(done, "directory", &name, "a create or rm was killed")?;
        }
        Ok(())
    }

    /// What interrupted commands left among the images.
    fn images(&mut self) -> anyhow::Result<()> {
        const LEFT: [&str; 2] = [".new-", ".rm-"];
        let path = self.instance.images();
        let before = hidden(&path, &LEFT)?.map(|(_, names)| names).unwrap_or_default();
        if !self.dry {
            let swept = images::sweep(self.instance);
            self.note(swept.map(|()| false).map_err(Into::into), "image", "remains", "")?;
        }
        let after = hidden(&path, &LEFT)?.map(|(_, names)| names).unwrap_or_default();
        for name in &before {
            if (self.dry && !self.at_work(name)) || !after.contains(name) {
                self.note(Ok(true), "image", name, "its unpacking or removal was killed")?;
            }
        }
        Ok(())
    }

    /// Addresses whose owner is gone.
    fn leases(&mut self) -> anyhow::Result<()> {
        if self.dry {
            return Ok(());
        }
        let before = network::leases(self.instance)?;
        let reclaimed = network::reclaim(self.instance);
        self.note(reclaimed.map(|_| false).map_err(Into::into), "lease", "of any container", "")?;
        let after = network::leases(self.instance)?;
        for (name, _) in before.iter().filter(|lease| !after.contains(lease)) {
            self.note(Ok(true), "lease", &name.to_string(), "its container is gone")?;
        }
        Ok(())
    }

    /// Whether somebody is at work under the claim in the name.
    fn at_work(&self, name: &str) -> bool {
        let claim = name.strip_prefix(".new-").and_then(|claim| claim.parse::<Claim>().ok());
        let ids = Container::list(self.instance).unwrap_or_default();
        ids.iter().filter_map(|id| Container::open(self.instance, id).ok()).any(|container| {
            container.holder().is_ok_and(|holder| Some(holder.claim) == claim && forsaken(&holder.work).is_none())
        })
    }
}

/// Why nobody will go on with it, if so.
fn forsaken(work: &Work) -> Option<&'static str> {
    let dead = |maker: &ProcessId| !maker.alive();
    match work {
        Work::Creating(maker) if dead(maker) => Some("its create was killed"),
        Work::Starting(maker) if dead(maker) => Some("its start was killed: it is stopped"),
        Work::Removing => Some("its rm was killed"),
        _ => None,
    }
}

fn is_dead(pid: i32) -> bool {
    match process::stat(pid) {
        Ok((state, _)) => matches!(state, 'Z' | 'X'),
        Err(e) => matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ENOENT | Errno::ESRCH)),
    }
}

/// A directory, and the names in it with one of the prefixes; `None` if it is not there.
fn hidden(path: &std::path::Path, prefixes: &[&str]) -> Result<Option<(OwnedFd, Vec<String>)>, Error> {
    let step = || format!("list {}", path.display());
    let parent = match open_dir(AT_FDCWD, path) {
        Ok(parent) => parent,
        Err(Errno::ENOENT) => return Ok(None),
        Err(e) => return Err(Error::os(step(), e)),
    };
    let mut names = Vec::new();
    let mut entries = open_dir(parent.as_fd(), ".").and_then(Dir::from_fd).map_err(|e| Error::os(step(), e))?;
    for entry in entries.iter() {
        let name: CString = entry.map_err(|e| Error::os(step(), e))?.file_name().to_owned();
        if let Ok(name) = name.into_string()
            && prefixes.iter().any(|prefix| name.starts_with(prefix))
        {
            names.push(name);
        }
    }
    Ok(Some((parent, names)))
}

fn open_dir<P: nix::NixPath + ?Sized>(at: std::os::fd::BorrowedFd<'_>, path: &P) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}
