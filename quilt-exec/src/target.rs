//! The container that a program is to run in: found, running, held by a pidfd.

use std::borrow::Cow;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::CloneFlags;
use nix::sys::stat::Mode;
use quilt_record::confine::{Confine, User, filter, starting, user};
use quilt_record::have::{Cgroup, Spawn};
use quilt_record::process::boot_id;
use quilt_record::{Code, Container, Error, Id, Instance, Record, Step, leaf};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::ids;

/// Who is not named.
const ROOT: &str = "0";

/// What `exec` needs of what `spawn` was asked.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    env: Vec<String>,
    user: Option<String>,
    workdir: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Section<H> {
    #[serde(default)]
    want: Asked,
    have: Option<H>,
}

/// A running container.
pub struct Target {
    /// Its name.
    pub id: Id,
    /// Its init, and what is known about it.
    pub spawn: Spawn,
    /// Its cgroups.
    pub cgroup: Cgroup,
    /// A pidfd on its init, which was alive when it was opened.
    pub pidfd: OwnedFd,
    /// The user of its commands, as asked, where it is not root.
    user: Option<String>,
    /// Their working directory, where it is not `/`.
    workdir: Option<PathBuf>,
    /// Whether HOME was asked for by name.
    own_home: bool,
    /// The filter of system calls.
    filter: Option<Cow<'static, [u8]>>,
}

impl Target {
    /// Finds the container and its living init. Fails with `not_found` if there is no such container or it is not
    /// running, with `busy` if it is paused. From here on the calling process is not dumpable: nobody inside may look into it (CVE-2016-9962).
    pub fn open(instance: &Instance, id: &Id) -> Result<Target, Error> {
        let container = Container::open(instance, id)?;
        let Section { want, have } = section(&container, "spawn")?.ok_or_else(|| not_running(id))?;
        let cgroup: Option<Section<Cgroup>> = section(&container, "cgroup")?;
        let target = Target::new(instance, id, want, have, cgroup.and_then(|s| s.have))?;
        target.refuse_paused()?;
        Ok(target)
    }

    /// The same by a record at hand, paused or not.
    pub fn of(instance: &Instance, id: &Id, record: &Record) -> Result<Target, Error> {
        Target::new(instance, id, record.want("spawn")?, record.have("spawn")?, record.have("cgroup")?)
    }

    fn new(
        instance: &Instance,
        id: &Id,
        want: Asked,
        spawn: Option<Spawn>,
        cgroup: Option<Cgroup>,
    ) -> Result<Target, Error> {
        quilt_record::sys::set_dumpable(false).step(|| "become undumpable")?;
        let stopped = || not_running(id);
        let spawn = spawn.ok_or_else(stopped)?;
        let cgroup = cgroup.filter(|c| c.boot == boot_id()).ok_or_else(stopped)?;
        let pidfd = spawn.init.open().step(|| format!("look at the init of {id}"))?.ok_or_else(stopped)?;
        let own_home = want.env.iter().any(|e| e == "HOME" || e.starts_with("HOME="));
        let filter = filter::of(instance, id, spawn.confine.seccomp)?;
        Ok(Target { id: id.clone(), spawn, cgroup, pidfd, user: want.user, workdir: want.workdir, own_home, filter })
    }

    /// Fails with `busy` if the container is paused: whatever entered it would stand still with the rest of it.
    pub fn refuse_paused(&self) -> Result<(), Error> {
        match leaf::is_paused(&self.cgroup.hierarchies) {
            Ok(false) => Ok(()),
            Ok(true) => {
                let id = &self.id;
                let paused = Error::new(Code::Busy, "", format!("the container {id} is paused: `quilt unpause {id}`"));
                // Where there is no cgroup.kill, it stands still while it is killed.
                Err(self.unless_ended(paused))
            }
            Err(error) => Err(self.unless_ended(error)),
        }
    }

    /// The namespaces to enter: those that were made for the container; a private pid namespace apart. Of cgroup namespaces
    /// a command has one of its own, with the root in its own leaf: where programs look for limits is the root of the mount
    /// and the path of their cgroup below the root of the namespace, put together (docs/resources.md).
    pub(crate) fn namespaces(&self) -> (CloneFlags, bool) {
        let mut flags = CloneFlags::empty();
        let mut pid = false;
        for (name, _) in &self.spawn.namespaces {
            match name.as_str() {
                "user" => flags |= CloneFlags::CLONE_NEWUSER,
                "mnt" => flags |= CloneFlags::CLONE_NEWNS,
                "net" => flags |= CloneFlags::CLONE_NEWNET,
                "uts" => flags |= CloneFlags::CLONE_NEWUTS,
                "ipc" => flags |= CloneFlags::CLONE_NEWIPC,
                "pid" => pid = true,
                _ => {}
            }
        }
        (flags, pid)
    }

    /// Who a command runs as, and its home directory, if that is not what the container's environment says: `user`, by the
    /// files of the container; else the container's own, whom spawn found there.
    pub fn confinement(&self, user: Option<&str>) -> Result<(Confine, Option<String>), Error> {
        let confine = |user: &User| Confine::of(user, &self.spawn.confine, self.filter.clone());
        let spec = match (user, &self.spawn.user) {
            (Some(spec), _) => spec,
            (None, Some(own)) => return Ok((confine(own), None)),
            (None, None) => self.user.as_deref().unwrap_or(ROOT),
        };
        let path = format!("/proc/{}/root", self.spawn.init.pid);
        let root = open(path.as_str(), OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
            .step(|| format!("open the root of {}", self.id))
            .map_err(|e| self.unless_ended(e))?;
        // The pid may have been reused between the pidfd and the path: then that root is another's.
        if !self.spawn.init.alive() {
            return Err(not_running(&self.id));
        }
        let found = user::resolve(root.as_fd(), spec)?;
        let confine = confine(&found);
        ids::check(self.spawn.ids, &confine)?;
        Ok((confine, Some(found.home)))
    }

    /// The container's root, who is in no group but that, whatever the image's files say.
    pub fn root(&self) -> Confine {
        Confine::of(&User::default(), &self.spawn.confine, self.filter.clone())
    }

    /// What to say of a failure at one of these calls, if it is the fault of the container's filter.
    pub(crate) fn blame(&self, calls: &[starting::Call], errno: Errno) -> Option<String> {
        starting::blame(self.filter.as_deref(), calls, errno as i32)
    }

    /// The environment of a command: the container's, with `home` unless the container names one, under `extra`
    /// (`NAME=value`).
    pub fn environment(&self, home: Option<String>, extra: &[CString]) -> Result<Vec<CString>, Error> {
        let mut env: Vec<CString> = Vec::with_capacity(self.spawn.env.len() + extra.len() + 1);
        let home = home.filter(|_| !self.own_home).map(|home| format!("HOME={home}"));
        for entry in self.spawn.env.iter().chain(home.as_ref()) {
            let bad = |e: std::ffi::NulError| Error::new(Code::Invalid, "read the environment", e.to_string());
            put(&mut env, CString::new(entry.as_bytes()).map_err(bad)?);
        }
        extra.iter().for_each(|entry| put(&mut env, entry.clone()));
        Ok(env)
    }

    /// The working directory of a command.
    pub fn workdir<'a>(&'a self, asked: Option<&'a OsStr>) -> Result<CString, Error> {
        let path = asked.or(self.workdir.as_deref().map(|w| w.as_os_str())).unwrap_or(OsStr::new("/"));
        CString::new(path.as_bytes())
            .map_err(|e| Error::new(Code::Invalid, "read the working directory", e.to_string()))
    }
}

/// `not_found`, for a container that has no living init.
pub(crate) fn not_running(id: &Id) -> Error {
    Error::new(Code::NotFound, "", format!("the container {id} is not running (quilt start {id})"))
}

fn section<H: DeserializeOwned>(container: &Container, stage: &str) -> Result<Option<Section<H>>, Error> {
    let Some(text) = container.read(&format!("{stage}.json"))? else { return Ok(None) };
    let step = || format!("read {}", container.path().join(stage).display());
    serde_json::from_str(&text).map(Some).map_err(|e| Error::new(Code::Invalid, step(), e.to_string()))
}

/// Sets a variable, in place of an earlier one of its name.
fn put(env: &mut Vec<CString>, entry: CString) {
    let name = |e: &CString| e.as_bytes().split(|b| *b == b'=').next().map(<[u8]>::to_vec);
    match env.iter_mut().find(|e| name(e) == name(&entry)) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_variable_takes_the_place_of_an_earlier_one() {
        let mut env = Vec::new();
        for entry in [c"PATH=/bin", c"A=1", c"AB=2", c"A=3=4", c"B="] {
            put(&mut env, entry.to_owned());
        }
        assert_eq!(env, [c"PATH=/bin", c"A=3=4", c"AB=2", c"B="].map(|e| e.to_owned()));
    }

    #[test]
    fn what_is_not_running_is_said_so() -> Result<(), Error> {
        let id: Id = "web".parse().map_err(|e: String| Error::new(Code::Internal, "", e))?;
        let record = Record::parse(r#"{"format":1,"id":"web","spawn":{"want":{"user":"1","stop_timeout":"1s"}}}"#)?;
        let error = Target::of(&Instance::locate(None)?, &id, &record).err().map(|e| e.to_string());
        assert_eq!(error.as_deref(), Some("the container web is not running (quilt start web)"));
        Ok(())
    }
}
