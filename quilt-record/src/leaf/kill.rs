//! Killing everything in a cgroup and below it, and knowing when all of it is dead.
//!
//! Linux 5.14 does it by one write on v2 (`cgroup.kill`). Elsewhere everything is frozen first, so that nothing forks faster
//! than it is killed, and let go as dead: v2 ends who is frozen, v1 only who is thawed. Either way is gone again until
//! nobody is left: the write missed children that were just being forked until Linux 6.14, and a process that waits for a
//! disk freezes late.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::freeze;
use super::tree::Dir;
use crate::error::{Code, Error, Step};
use crate::have::Hierarchy;
use crate::process::{poll_timeout, wait_dead};
use crate::sys;

/// How many processes are waited for one by one; past that, only for the cgroup to become empty. Each takes a descriptor.
const WATCHED: usize = 64;

/// How many are sent the signal between two looks at who is there: each takes a descriptor meanwhile.
const AT_ONCE: usize = 128;

/// How long the first try is given, each after it twice as long, up to the last.
const PATIENCE: Duration = Duration::from_millis(50);
const MOST_PATIENCE: Duration = Duration::from_secs(1);

/// How long a freezer is waited for at each try. Who stands still in the kernel is not running, and does not fork.
const FREEZING: Duration = Duration::from_millis(100);

/// Kills everything in the container's leaves and returns when all of it is dead; `timeout` if it is not by `limit`.
pub fn kill_all(hierarchies: &[Hierarchy], limit: Duration) -> Result<(), Error> {
    with_judge(hierarchies, limit, kill)
}

/// The same by freezing alone, as on a kernel that has no `cgroup.kill`.
#[doc(hidden)]
pub fn kill_all_by_freezing(hierarchies: &[Hierarchy], limit: Duration) -> Result<(), Error> {
    with_judge(hierarchies, limit, kill_by_freezing)
}

/// Kills everything in every one of the container's directories: also who was moved out of its leaves, or is on the way
/// into one. For when [`super::remove_all`] finds somebody after [`kill_all`].
pub fn kill_strays(hierarchies: &[Hierarchy], limit: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + limit;
    for hierarchy in hierarchies.iter().rev() {
        if let Some(dir) = Dir::open(hierarchy.version, &hierarchy.path)? {
            kill(&dir, deadline, &hierarchy.path.display().to_string())?;
        }
    }
    Ok(())
}

fn with_judge(
    hierarchies: &[Hierarchy],
    limit: Duration,
    kill: fn(&Dir, Instant, &str) -> Result<(), Error>,
) -> Result<(), Error> {
    let Some(judge) = super::judge(hierarchies) else { return Ok(()) };
    match Dir::open(judge.version, &judge.path)? {
        Some(dir) => kill(&dir, Instant::now() + limit, &judge.path.display().to_string()),
        None => Ok(()),
    }
}

/// Kills everything in the tree.
pub(super) fn kill(dir: &Dir, deadline: Instant, what: &str) -> Result<(), Error> {
    if kill_at_once(dir, deadline, what)? { Ok(()) } else { kill_by_freezing(dir, deadline, what) }
}

/// Kills by cgroup.kill (Linux 5.14, v2); false if there is no such file. Whoever else empties the
/// cgroup may remove it at the same time.
fn kill_at_once(dir: &Dir, deadline: Instant, what: &str) -> Result<bool, Error> {
    if dir.version != 2 {
        return Ok(false);
    }
    let mut patience = PATIENCE;
    loop {
        if !dir.write("cgroup.kill", "1")? {
            return Ok(false);
        }
        if settle(dir, deadline.min(Instant::now() + patience))? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Err(outlived(what));
        }
        patience = (patience * 2).min(MOST_PATIENCE);
    }
}

/// Freezes, kills and thaws until nobody is left.
fn kill_by_freezing(dir: &Dir, deadline: Instant, what: &str) -> Result<(), Error> {
    let killed = freeze_and_kill(dir, deadline, what);
    // The directory may stay, and be used again.
    let thawed = freeze::let_go(dir);
    killed?;
    thawed.map(drop)
}

fn freeze_and_kill(dir: &Dir, deadline: Instant, what: &str) -> Result<(), Error> {
    let mut dying: Vec<(i32, OwnedFd)> = Vec::new();
    let mut patience = PATIENCE;
    // Nearly always everything is caught by the first try, frozen by then or not.
    let mut frozen_by = Instant::now();
    loop {
        freeze::hold(dir, frozen_by, None)?;
        let signalled = signal_all(dir, &mut dying);
        if dir.version == 1 {
            freeze::let_all_go(dir)?;
            move_out(dir, &dying)?;
        }
        signalled?;
        let until = deadline.min(Instant::now() + patience);
        if dying.is_empty() {
            // Nobody can be watched: there is nobody, or no descriptor for it.
            rest(until.min(Instant::now() + freeze::SOON))?;
        }
        wait_each(&dying.iter().map(|(_, fd)| fd.as_fd()).collect::<Vec<_>>(), None, until)?;
        dying.retain(|(_, fd)| !matches!(wait_dead(fd, Duration::ZERO), Ok(true)));
        if dying.is_empty() && is_empty(dir, until)? {
            return Ok(());
        }
        if Instant::now() >= deadline {
            return Err(outlived(what));
        }
        patience = (patience * 2).min(MOST_PATIENCE);
        frozen_by = deadline.min(Instant::now() + FREEZING);
    }
}

/// Whether nobody is left; on v2, which has an event for it, by then.
pub(super) fn is_empty(dir: &Dir, until: Instant) -> Result<bool, Error> {
    if dir.version == 2 { settle(dir, until) } else { Ok(!dir.populated()?) }
}

/// Waits, where the kernel has no event for what is waited for.
pub(super) fn rest(until: Instant) -> Result<(), Error> {
    match poll(&mut [], poll_timeout(until.saturating_duration_since(Instant::now()))) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(Error::os("wait", e)),
    }
}

fn outlived(what: &str) -> Error {
    Error::new(Code::Timeout, format!("kill the processes of the cgroup {what}"), "some still live")
}

/// Sends SIGKILL to everything in the tree, and adds to `dying` some pidfds to wait for. A pid that was reused between the
/// listing and the pidfd is not hit: only who is still listed once its pidfd is open can be meant.
fn signal_all(dir: &Dir, dying: &mut Vec<(i32, OwnedFd)>) -> Result<(), Error> {
    for some in dir.pids()?.chunks(AT_ONCE) {
        let opened: Vec<(i32, OwnedFd)> =
            some.iter().filter_map(|pid| Some((*pid, sys::pidfd_open(*pid).ok()?))).collect();
        let still = dir.pids()?;
        for (pid, pidfd) in opened {
            if still.binary_search(&pid).is_ok()
                && sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGKILL).is_ok()
                && dying.len() < WATCHED
                && dying.iter().all(|(known, _)| *known != pid)
            {
                dying.push((pid, pidfd));
            }
        }
    }
    Ok(())
}

/// v1: whoever is to die in a cgroup that is frozen from above (a command in a container that is paused, which is to stay
/// paused) goes where it can: with its SIGKILL pending it runs nothing there but into its end.
fn move_out(dir: &Dir, dying: &[(i32, OwnedFd)]) -> Result<(), Error> {
    let Some(out) = freeze::way_out(&dir.path) else { return Ok(()) };
    let step = || format!("move a killed process to the cgroup {}", out.display());
    let mut procs = OpenOptions::new().write(true).open(out.join("cgroup.procs")).step(step)?;
    let still = dir.pids()?;
    for (pid, _) in dying.iter().filter(|(pid, _)| still.binary_search(pid).is_ok()) {
        match procs.write_all(pid.to_string().as_bytes()) {
            // It is dead.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            moved => moved.step(step)?,
        }
    }
    Ok(())
}

/// Waits until the v2 tree has no process; false at the deadline.
///
/// The event for that (`populated` of cgroup.events, cgroups(7)) comes at most once in 10 ms, so up to that much late.
/// The processes' own ends are not held back: wait for both, and ask again.
pub(super) fn settle(dir: &Dir, deadline: Instant) -> Result<bool, Error> {
    let step = || format!("read {}", dir.path.join("cgroup.events").display());
    let events = match openat(&dir.fd, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        // Removed meanwhile, which takes that nobody was in it.
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(true),
        events => File::from(events.step(step)?),
    };
    while dir.says_populated(&events)? {
        // Somebody may always be ending, and another begin.
        if Instant::now() >= deadline {
            return Ok(false);
        }
        let dying: Vec<OwnedFd> =
            dir.pids()?.iter().take(WATCHED).filter_map(|pid| sys::pidfd_open(*pid).ok()).collect();
        // The last one may have ended since the first look, and its event be held back.
        if dying.is_empty() && !dir.says_populated(&events)? {
            break;
        }
        if !wait_each(&dying.iter().map(AsFd::as_fd).collect::<Vec<_>>(), Some(events.as_fd()), deadline)? {
            return Ok(!dir.says_populated(&events)?);
        }
    }
    Ok(true)
}

/// Waits until all of `dying` are dead, or `events` (of which the current state was read) changes; false at the deadline.
fn wait_each(dying: &[BorrowedFd<'_>], events: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<bool, Error> {
    let mut left = dying.to_vec();
    while !left.is_empty() || (dying.is_empty() && events.is_some()) {
        let mut polled: Vec<PollFd<'_>> = left.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
        polled.extend(events.map(|fd| PollFd::new(fd, PollFlags::POLLPRI)));
        let remaining = deadline.saturating_duration_since(Instant::now());
        match poll(&mut polled, poll_timeout(remaining)) {
            Ok(0) if remaining.is_zero() => return Ok(false),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::os("wait for processes to end", e)),
        }
        let fired = |p: &PollFd<'_>| p.revents().is_some_and(|r| !r.is_empty());
        if events.is_some() && polled.last().is_some_and(fired) {
            return Ok(true);
        }
        let ended: Vec<bool> = polled.iter().map(fired).collect();
        let mut at = 0;
        left.retain(|_| {
            at += 1;
            !ended[at - 1]
        });
    }
    Ok(true)
}
