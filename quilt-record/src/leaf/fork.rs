//! Starting a process in a leaf, and with it the container's cgroup namespace.
//!
//! The one hard thing is that namespace. Its root is wherever the process that makes it is (cgroup_namespaces(7)), and that
//! must be the container's directory, where the limits are, and not the leaf below. On v2 nobody changes cgroups without
//! waiting for a grace period, so somebody else makes it: a process that is born in the directory, joins the others,
//! makes the namespace, and gives birth in the leaf to the one that is wanted, as its sibling.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read, write};

use super::{Leaf, Part, unforked};
use crate::error::{Code, Error, Step};
use crate::sys;

/// How long what a lost process leaves behind may take to die.
const KILL: Duration = Duration::from_secs(10);

/// What a process does on its way in, in this order.
#[derive(Clone, Copy)]
enum Entry<'a> {
    /// It joins, which makes it one more in there.
    Join(&'a Part),
    /// It makes a cgroup namespace, with the root where it is now in each hierarchy.
    Namespace,
}

impl Entry<'_> {
    fn pass(self) -> Result<(), Errno> {
        match self {
            Entry::Join(part) => part.join(),
            Entry::Namespace => unshare(CloneFlags::CLONE_NEWCGROUP),
        }
    }

    fn failed(self, errno: Errno) -> Error {
        let step = match self {
            Entry::Join(part) => format!("join the cgroup {}", part.path.display()),
            Entry::Namespace => "make a cgroup namespace".to_owned(),
        };
        Error::os(step, errno)
    }
}

impl Leaf {
    /// Forks a child into the leaf and runs `body` in it, as [`sys::fork`] does, under whose conditions it may be called.
    /// Returns once the child has joined every hierarchy; if it could not, it has ended and the error says where. The
    /// child is of no real-time class, whatever the caller is.
    pub fn fork(&self, flags: u64, body: impl FnOnce() -> u8) -> Result<sys::Child, Error> {
        let mut body = Some(body);
        let all: Vec<Entry<'_>> = self.others.iter().chain([&self.home]).map(Entry::Join).collect();
        let v1 = self.joined();
        let born = Some(&self.home).filter(|home| home.version == 2);
        let child = if self.late {
            self.enter(flags, &all, None, &mut body)?
        } else {
            self.enter(flags, &v1, born, &mut body)?
        };
        let child = match child {
            Err(e) if born.is_some() && is_unknown(&e) => self.enter(flags, &all, None, &mut body)?,
            child => child,
        };
        child.map_err(|e| unforked(self.step(), e))
    }

    /// The same, and the child is in a new cgroup namespace whose root is the container's directory in every hierarchy.
    pub fn fork_apart(&self, flags: u64, body: impl FnOnce() -> u8) -> Result<sys::Child, Error> {
        let root = Part::open(self.home.version, self.home.path.parent().unwrap_or(&self.home.path))?;
        let others = self.others.iter().map(Entry::Join);
        if self.home.version == 2 {
            return self.by_another(flags, &root, &others.chain([Entry::Namespace]).collect::<Vec<_>>(), body);
        }
        let entries: Vec<_> = others.chain([Entry::Join(&root), Entry::Namespace, Entry::Join(&self.home)]).collect();
        self.enter(flags, &entries, None, &mut Some(body))?.map_err(|e| unforked(self.step(), e))
    }

    fn step(&self) -> String {
        format!("start a process in the cgroup {}", self.name)
    }

    /// The v1 hierarchies, the leaf's last.
    fn joined(&self) -> Vec<Entry<'_>> {
        self.others.iter().chain([&self.home]).filter(|part| part.version == 1).map(Entry::Join).collect()
    }

    /// A child that is born in `born`, if that is one of v2, and passes the entries before it runs the body. The outer error
    /// is that of an entry, the inner one that of the fork, which leaves the body untouched.
    fn enter<F: FnOnce() -> u8>(
        &self,
        flags: u64,
        entries: &[Entry<'_>],
        born: Option<&Part>,
        body: &mut Option<F>,
    ) -> Result<io::Result<sys::Child>, Error> {
        let born = born.map(|part| part.fd.as_fd());
        if entries.is_empty() {
            return Ok(sys::fork(flags, born, || match sys::leave_realtime() {
                Ok(()) => {
                    self.widen();
                    body.take().map_or(255, |body| body())
                }
                Err(_) => 255,
            }));
        }
        let (told, tell) = pipe2(OFlag::O_CLOEXEC).step(|| self.step())?;
        // The parent's copy of `tell` goes with the closure, when fork returns there.
        let child = sys::fork(flags, born, || {
            let tell = tell;
            if let Err(status) = self.pass(entries, &tell) {
                return status;
            }
            drop(tell);
            body.take().map_or(255, |body| body())
        });
        let Ok(child) = child else { return Ok(child) };
        let mut failed = [0u8; 2];
        match read(&told, &mut failed) {
            Ok(2) => {
                let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
                Err(refused(entries, failed))
            }
            // Closed without a word: it joined, or was killed before it ran anything, as its pidfd will tell.
            _ => Ok(Ok(child)),
        }
    }

    /// In a child: all entries. Which one failed, and how, is told in two bytes.
    fn pass(&self, entries: &[Entry<'_>], tell: &OwnedFd) -> Result<(), u8> {
        // Where real time is rationed by group (RT_GROUP_SCHED), a new cgroup has none and takes nobody of that class.
        sys::leave_realtime().map_err(|_| 255)?;
        for (at, entry) in entries.iter().enumerate() {
            entry.pass().map_err(|e| {
                let _ = write(tell, &[at as u8, e as i32 as u8]);
                255
            })?;
        }
        self.widen();
        Ok(())
    }

    /// A child of another's making: see the top.
    fn by_another(
        &self,
        flags: u64,
        root: &Part,
        entries: &[Entry<'_>],
        body: impl FnOnce() -> u8,
    ) -> Result<sys::Child, Error> {
        let (told, tell) = pipe2(OFlag::O_CLOEXEC).step(|| self.step())?;
        let (mut tell, mut body) = (Some(tell), Some(body));
        let mut make = |born: Option<&Part>, entries: &[Entry<'_>]| {
            sys::fork(0, born.map(|part| part.fd.as_fd()), || {
                let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
                self.deliver(flags, entries, &mut tell, &mut body)
            })
        };
        // Before Linux 6.4 who is born in another cgroup than its parent's has what its cpuset says by joining alone.
        let late: Vec<Entry<'_>> = [Entry::Join(root)].into_iter().chain(entries.iter().copied()).collect();
        let mut entries = if self.late { &late } else { entries };
        let mut maker = make((!self.late).then_some(root), entries);
        if maker.as_ref().is_err_and(is_unknown) {
            entries = &late;
            maker = make(None, entries);
        }
        let maker = maker.map_err(|e| unforked(self.step(), e))?;
        drop(tell);
        let mut said = [0u8; 4];
        let heard = read(&told, &mut said);
        let ended = waitpid(Pid::from_raw(maker.pid), Some(WaitPidFlag::__WALL));
        match heard {
            Ok(4) => {
                let pid = i32::from_ne_bytes(said);
                // Nobody else reaps it, so the pid is still its own.
                let pidfd = sys::pidfd_open(pid).step(|| self.step())?;
                Ok(sys::Child { pid, pidfd })
            }
            Ok(2) if usize::from(said[0]) == entries.len() => {
                Err(unforked(self.step(), Errno::from_raw(said[1].into())))
            }
            Ok(2) => Err(refused(entries, [said[0], said[1]])),
            _ => {
                let _ = self.kill(KILL);
                let why = match ended {
                    Ok(WaitStatus::Signaled(_, signal, _)) => format!("killed by {signal}"),
                    _ => "gone".to_owned(),
                };
                let message = format!("the process that starts it was {why} (is the memory limit too small?)");
                Err(Error::new(Code::Exhausted, self.step(), message))
            }
        }
    }

    /// The other one's life. It tells its maker by two bytes what failed, an entry or, by the number after the last, the
    /// fork; by four the pid of the child.
    fn deliver<F: FnOnce() -> u8>(
        &self,
        flags: u64,
        entries: &[Entry<'_>],
        tell: &mut Option<OwnedFd>,
        body: &mut Option<F>,
    ) -> u8 {
        if let Some(Err(status)) = tell.as_ref().map(|tell| self.pass(entries, tell)) {
            return status;
        }
        let mut bear = |born: bool| {
            sys::fork(flags | libc::CLONE_PARENT as u64, born.then(|| self.home.fd.as_fd()), || {
                // Its end is then heard of, should this one be killed before it can say anything.
                drop(tell.take());
                if !born && self.home.join().is_err() {
                    return 255;
                }
                body.take().map_or(255, |body| body())
            })
        };
        let mut child = bear(true);
        if child.as_ref().is_err_and(is_unknown) {
            child = bear(false);
        }
        let said = match child {
            Ok(child) => child.pid.to_ne_bytes().to_vec(),
            Err(e) => vec![entries.len() as u8, e.raw_os_error().unwrap_or(libc::EIO) as u8],
        };
        let told = tell.as_ref().map(|tell| write(tell, &said));
        u8::from(told != Some(Ok(4)))
    }

    /// In the child: all CPUs, of which the kernel leaves those of its cpuset (sched_setaffinity(2)).
    fn widen(&self) {
        if self.unlike {
            let mut all = CpuSet::new();
            let added = (0..CpuSet::count()).try_for_each(|cpu| all.set(cpu));
            let _ = added.and_then(|()| sched_setaffinity(Pid::from_raw(0), &all));
        }
    }
}

/// An old kernel, or a sandbox that does not know CLONE_INTO_CGROUP: there remains the slow way in.
fn is_unknown(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::E2BIG | libc::EINVAL | libc::ENOSYS))
}

/// The two bytes of a child that an entry refused.
fn refused(entries: &[Entry<'_>], [at, errno]: [u8; 2]) -> Error {
    let errno = Errno::from_raw(errno.into());
    match entries.get(usize::from(at)) {
        Some(entry) => entry.failed(errno),
        None => Error::os("join a cgroup", errno),
    }
}
