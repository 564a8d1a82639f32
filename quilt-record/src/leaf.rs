//! Cgroup leaves: `init` and `x-N` below a container's directory, which tell the container's processes apart. They are in
//! one hierarchy, the [`judge`]: v2 if the host has it (there a cgroup with limits must not have processes; cgroups(7),
//! "no internal processes"), else v1's freezer. In every other v1 hierarchy the container is one directory, with limits
//! and processes in it: a second one for each command would cost 0.3 ms, and what v1 counts for a cgroup without those
//! below it (`oom_kill`) would go with the leaf.
//!
//! The one hard thing is to join without waiting for an RCU grace period, which a pid written to `cgroup.procs` costs
//! (8-24 ms): on v2 the child is born inside (CLONE_INTO_CGROUP), on v1 it writes `0` to `tasks` as its first deed,
//! through descriptors that were opened for it.

mod freeze;
mod kill;
mod processes;
mod tree;

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use std::{fs, io};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{Pid, UnlinkatFlags, pipe2, read, unlinkat, write};

use crate::error::{Code, Error, Step};
use crate::have::Hierarchy;
use crate::{process, sys};

pub use freeze::{is_paused, pause, unpause};
pub use kill::{kill_all, kill_all_by_freezing, kill_strays};
pub use processes::processes;
pub use tree::{list, remove_all};

/// The pid that a numbered leaf's maker had is its number modulo this (the kernel's PID_MAX_LIMIT, `threads.h`).
const PID_LIMIT: u64 = 1 << 22;

/// The leaf of a container's init.
pub const INIT: &str = "init";

/// The start of a numbered leaf's name.
pub const NUMBERED: &str = "x-";

/// One leaf, and the container's directories in the hierarchies that have none.
#[derive(Debug)]
pub struct Leaf {
    name: String,
    home: Part,
    others: Vec<Part>,
    /// Whether who is born in it must be told that it may run on all of its CPUs.
    unlike: bool,
    /// Whether who is born in it must join it all the same.
    late: bool,
}

#[derive(Debug)]
struct Part {
    version: u8,
    path: PathBuf,
    /// v1: `tasks`, open for writing. v2: the directory (O_PATH).
    fd: OwnedFd,
}

/// The hierarchy with the leaves, of those that a container has a directory in: it knows who is in the container, and
/// can stop all of it (v2's or v1's freezer) where there is one that can.
pub fn judge(hierarchies: &[Hierarchy]) -> Option<&Hierarchy> {
    let v2 = hierarchies.iter().find(|h| h.version == 2);
    v2.or_else(|| hierarchies.iter().find(|h| h.has("freezer"))).or(hierarchies.last())
}

impl Leaf {
    /// Makes the leaf. One that is there but empty, left by a command that was killed, is taken over; one with processes
    /// in it that are not just ending is `busy`.
    pub fn create(hierarchies: &[Hierarchy], name: &str) -> Result<Leaf, Error> {
        match Leaf::make(hierarchies, name)? {
            Some(leaf) => Ok(leaf),
            None => {
                let leaf = Leaf::open(hierarchies, name)?;
                let ending = Instant::now() + tree::DYING;
                if leaf.dir()?.is_some_and(|dir| !kill::is_empty(&dir, ending).unwrap_or(false)) {
                    let step = format!("make the cgroup {name}");
                    return Err(Error::new(Code::Busy, step, "it is there, with processes in it"));
                }
                Ok(leaf)
            }
        }
    }

    /// Makes a leaf of a name that nobody has: `x-N`, N being the caller's pid, or that and a multiple of 2^22 while an
    /// earlier owner of the pid left processes behind. See [`owner`].
    pub fn create_numbered(hierarchies: &[Hierarchy]) -> Result<Leaf, Error> {
        let mut number = u64::from(std::process::id());
        loop {
            match Leaf::make(hierarchies, &format!("{NUMBERED}{number}"))? {
                Some(leaf) => return Ok(leaf),
                None => number += PID_LIMIT,
            }
        }
    }

    /// Opens a leaf that is there; `not_found` if it is not.
    pub fn open(hierarchies: &[Hierarchy], name: &str) -> Result<Leaf, Error> {
        let Some(judge) = judge(hierarchies) else {
            return Err(Error::new(
                Code::Invalid,
                format!("open the cgroup {name}"),
                "the container is in no hierarchy",
            ));
        };
        let home = Part::open(judge.version, &judge.path.join(name))?;
        let others = hierarchies.iter().filter(|h| h.version == 1 && h.path != judge.path);
        let others = others.map(|h| Part::open(1, &h.path)).collect::<Result<_, Error>>()?;
        // A child born into another cgroup had its parent's CPUs and nodes until Linux 6.4 (`cpuset_fork`).
        let cpuset = judge.version == 2 && judge.has("cpuset");
        let unlike = cpuset && !process::kernel_is_at_least(6, 4);
        let mems = || fs::read_to_string(judge.path.join("cpuset.mems")).is_ok_and(|mems| !mems.trim().is_empty());
        let late = unlike && mems();
        Ok(Leaf { name: name.to_owned(), home, others, late, unlike })
    }

    /// `None` if it is there already.
    fn make(hierarchies: &[Hierarchy], name: &str) -> Result<Option<Leaf>, Error> {
        let path = judge(hierarchies).map(|h| h.path.join(name)).unwrap_or_default();
        match mkdirat(AT_FDCWD, &path, Mode::from_bits_truncate(0o755)) {
            Ok(()) => {}
            Err(Errno::EEXIST) => return Ok(None),
            Err(e) => return Err(Error::os(format!("make the cgroup {}", path.display()), e)),
        }
        let leaf = Leaf::open(hierarchies, name);
        if leaf.is_err() {
            // Nobody can be in it yet.
            let _ = unlinkat(AT_FDCWD, &path, UnlinkatFlags::RemoveDir);
        }
        leaf.map(Some)
    }

    /// Its name: `init`, `x-N`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Forks a child into the leaf and runs `body` in it, as [`sys::fork`] does, under whose conditions it may be called.
    /// Returns once the child has joined every hierarchy; if it could not, it has ended and the error says where. The
    /// child is of no real-time class, whatever the caller is.
    pub fn fork(&self, flags: u64, body: impl FnOnce() -> u8) -> Result<sys::Child, Error> {
        let step = || format!("start a process in the cgroup {}", self.name);
        let unified = Some(&self.home).filter(|home| home.version == 2);
        let mut body = Some(body);
        let mut run = |joins: &[&Part], born: Option<&Part>| -> Result<io::Result<sys::Child>, Error> {
            if joins.is_empty() {
                return Ok(sys::fork(flags, born.map(|p| p.fd.as_fd()), || match sys::leave_realtime() {
                    Ok(()) => {
                        self.widen();
                        body.take().map_or(255, |body| body())
                    }
                    Err(_) => 255,
                }));
            }
            let (told, tell) = pipe2(OFlag::O_CLOEXEC).step(step)?;
            // The parent's copy of `tell` goes with the closure, when fork returns there.
            let child = sys::fork(flags, born.map(|p| p.fd.as_fd()), || {
                let tell = tell;
                // Where real time is rationed by group (RT_GROUP_SCHED), a new cgroup has none and takes nobody of that class.
                if sys::leave_realtime().is_err() {
                    return 255;
                }
                for (at, part) in joins.iter().enumerate() {
                    if let Err(e) = part.join() {
                        let _ = write(&tell, &[at as u8, e as i32 as u8]);
                        return 255;
                    }
                }
                drop(tell);
                self.widen();
                body.take().map_or(255, |body| body())
            });
            let Ok(child) = child else { return Ok(child) };
            let mut failed = [0u8; 2];
            match read(&told, &mut failed) {
                Ok(2) => {
                    let path = &joins.get(usize::from(failed[0])).unwrap_or(&joins[0]).path;
                    let _ =
                        nix::sys::wait::waitpid(Pid::from_raw(child.pid), Some(nix::sys::wait::WaitPidFlag::__WALL));
                    let errno = Errno::from_raw(failed[1].into());
                    Err(Error::os(format!("join the cgroup {}", path.display()), errno))
                }
                // Closed without a word: it joined, or was killed before it ran anything, as its pidfd will tell.
                _ => Ok(Ok(child)),
            }
        };
        let all: Vec<&Part> = self.others.iter().chain([&self.home]).collect();
        let v1: Vec<&Part> = all.iter().copied().filter(|p| p.version == 1).collect();
        let child = if self.late { run(&all, None)? } else { run(&v1, unified)? };
        let child = match child {
            // An old kernel, or a sandbox that does not know the flag: the slow way in.
            Err(e)
                if unified.is_some() && matches!(e.raw_os_error(), Some(libc::E2BIG | libc::EINVAL | libc::ENOSYS)) =>
            {
                run(&all, None)?
            }
            child => child,
        };
        child.map_err(|e| unforked(step(), e))
    }

    /// In the child: all CPUs, of which the kernel leaves those of its cpuset (sched_setaffinity(2)).
    fn widen(&self) {
        if self.unlike {
            let mut all = CpuSet::new();
            let added = (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu));
            let _ = added.and_then(|()| sched_setaffinity(Pid::from_raw(0), &all));
        }
    }

    /// Kills everything in the leaf and below it, and returns when all of it is dead; `timeout` if it is not by `limit`.
    pub fn kill(&self, limit: Duration) -> Result<(), Error> {
        match self.dir()? {
            Some(dir) => kill::kill(&dir, Instant::now() + limit, &self.name),
            None => Ok(()),
        }
    }

    /// Whether there are processes in the leaf or below it; zombies do not count.
    pub fn populated(&self) -> Result<bool, Error> {
        self.dir()?.map_or(Ok(false), |dir| dir.populated())
    }

    /// The processes in the leaf and below it, as pids of the caller's namespace.
    pub fn pids(&self) -> Result<Vec<i32>, Error> {
        self.dir()?.map_or(Ok(Vec::new()), |dir| dir.pids())
    }

    fn dir(&self) -> Result<Option<tree::Dir>, Error> {
        tree::Dir::open(self.home.version, &self.home.path)
    }

    /// Removes the leaf, with what was made below it. False, and nothing changed, if processes are left in it. One that
    /// is gone already is no error.
    pub fn remove(&self) -> Result<bool, Error> {
        tree::remove(self.home.version, &self.home.path)
    }
}

impl Part {
    fn open(version: u8, path: &Path) -> Result<Part, Error> {
        let fd = if version == 1 {
            openat(AT_FDCWD, &path.join("tasks"), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        } else {
            openat(AT_FDCWD, path, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        };
        let fd = fd.step(|| format!("open the cgroup {}", path.display()))?;
        Ok(Part { version, path: path.to_owned(), fd })
    }

    /// The calling process, which has one thread, joins.
    fn join(&self) -> Result<(), Errno> {
        if self.version == 1 {
            return write(&self.fd, b"0").map(drop);
        }
        let procs = openat(&self.fd, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
        write(&procs, b"0").map(drop)
    }
}

/// A fork in a leaf that failed: EAGAIN is said in words.
pub fn unforked(step: impl Into<String>, error: impl Into<io::Error>) -> Error {
    let error = Error::os(step, error);
    match error.errno {
        Some(libc::EAGAIN) => {
            let message =
                "the limit of processes is reached (pids.max of the container, --ulimit nproc, or the host's)"
                    .to_owned();
            Error { message, ..error }
        }
        _ => error,
    }
}

/// The pid that the maker of a numbered leaf has or had; `None` for a leaf of another name. An empty leaf whose owner is
/// dead is nobody's.
pub fn owner(name: &str) -> Option<i32> {
    let number: u64 = name.strip_prefix(NUMBERED)?.parse().ok()?;
    i32::try_from(number % PID_LIMIT).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_hierarchy_has_the_leaves() {
        let hierarchy = |version, controllers: &str| Hierarchy {
            version,
            controllers: controllers.to_owned(),
            path: format!("/{version}/{controllers}").into(),
        };
        let pick = |all: &[Hierarchy]| judge(all).map(|h| h.path.display().to_string());
        let mut all = vec![hierarchy(1, "memory"), hierarchy(1, "freezer"), hierarchy(1, "pids"), hierarchy(2, "")];
        assert_eq!(pick(&all).as_deref(), Some("/2/"));
        all.pop();
        assert_eq!(pick(&all).as_deref(), Some("/1/freezer"));
        all.remove(1);
        assert_eq!(pick(&all).as_deref(), Some("/1/pids"));
        assert_eq!(pick(&[]), None);
    }

    #[test]
    fn a_numbered_leaf_names_its_owner() {
        assert_eq!(owner("x-77"), Some(77));
        assert_eq!(owner(&format!("x-{}", 77 + 3 * PID_LIMIT)), Some(77));
        assert_eq!(owner("init"), None);
        assert_eq!(owner("x-"), None);
    }
}
