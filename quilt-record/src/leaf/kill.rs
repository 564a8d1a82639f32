//! Killing everything in a cgroup and below it, and knowing when all of it is dead.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;

use super::tree::Dir;
use crate::error::{Code, Error, Step};
use crate::have::Hierarchy;
use crate::process::poll_timeout;
use crate::sys;

/// How many processes are waited for one by one; past that, only for the cgroup to become empty.
const WATCHED: usize = 64;

/// Kills everything in the container's directories and returns when all of it is dead; `timeout` if it is not by `limit`.
pub fn kill_all(hierarchies: &[Hierarchy], limit: Duration) -> Result<(), Error> {
    let Some(judge) = super::judge(hierarchies) else { return Ok(()) };
    match Dir::open(judge.version, &judge.path)? {
        Some(dir) => kill(&dir, Instant::now() + limit, &judge.path.display().to_string()),
        None => Ok(()),
    }
}

/// Kills everything in the tree.
pub(super) fn kill(judge: &Dir, deadline: Instant, what: &str) -> Result<(), Error> {
    if kill_at_once(judge, deadline, what)? {
        return Ok(());
    }
    let freezer = judge.freeze(true)?.then_some(judge);
    loop {
        let signalled = signal_all(judge);
        // The v1 freezer delivers no signal to who is frozen, not even this one.
        if let Some(freezer) = freezer {
            freezer.freeze(false)?;
        }
        let dying = signalled?;
        if dying.is_empty() && !judge.populated()? {
            return Ok(());
        }
        if !wait_each(&dying, None, deadline)? || Instant::now() >= deadline {
            return Err(outlived(what));
        }
        // Whoever was forked before the freeze took hold is listed now.
        if let Some(freezer) = freezer {
            freezer.freeze(true)?;
        }
    }
}

/// Kills by cgroup.kill (Linux 5.14, v2); false if there is no such file. Whoever else empties the cgroup may remove it at
/// the same time.
fn kill_at_once(dir: &Dir, deadline: Instant, what: &str) -> Result<bool, Error> {
    if dir.version != 2 || !dir.write("cgroup.kill", "1")? {
        return Ok(false);
    }
    if settle(dir, deadline)? { Ok(true) } else { Err(outlived(what)) }
}

fn outlived(what: &str) -> Error {
    Error::new(Code::Timeout, format!("kill the processes of the cgroup {what}"), "some still live")
}

/// Sends SIGKILL to everything in the tree, and returns pidfds to wait for. A pid that was reused between the listing
/// and the pidfd is not hit: only who is still listed once its pidfd is open can be meant.
fn signal_all(dir: &Dir) -> Result<Vec<OwnedFd>, Error> {
    let opened: Vec<(i32, OwnedFd)> =
        dir.pids()?.into_iter().filter_map(|pid| Some((pid, sys::pidfd_open(pid).ok()?))).collect();
    if opened.is_empty() {
        return Ok(Vec::new());
    }
    let still = dir.pids()?;
    let mut dying = Vec::with_capacity(opened.len());
    for (pid, pidfd) in opened {
        if still.contains(&pid) && sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGKILL).is_ok() {
            dying.push(pidfd);
        }
    }
    Ok(dying)
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
        let dying: Vec<OwnedFd> =
            dir.pids()?.iter().take(WATCHED).filter_map(|pid| sys::pidfd_open(*pid).ok()).collect();
        // The last one may have ended since the first look, and its event be held back.
        if dying.is_empty() && !dir.says_populated(&events)? {
            break;
        }
        if !wait_each(&dying, Some(events.as_fd()), deadline)? {
            return Ok(!dir.says_populated(&events)?);
        }
    }
    Ok(true)
}

/// Waits until all of `dying` are dead, or `events` (of which the current state was read) changes; false at the deadline.
fn wait_each(dying: &[OwnedFd], events: Option<BorrowedFd<'_>>, deadline: Instant) -> Result<bool, Error> {
    let mut left: Vec<BorrowedFd<'_>> = dying.iter().map(AsFd::as_fd).collect();
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
