//! flock(2) with a deadline and an ear for signals.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

use crate::error::{Code, Error, Step};
use crate::signals::Waiter;
use crate::sys;

/// Takes the exclusive lock on the open file behind `fd`, waiting at most `limit`. The lock goes when the last
/// descriptor of that open file is closed, so also when its holder is killed. Fails with `busy` or `interrupted`.
///
/// flock cannot be waited for together with anything else, so a child does the waiting: it shares the open file, and
/// with it the lock, and its end is an event. Only when the lock is not free at once.
pub fn acquire(fd: BorrowedFd<'_>, limit: Duration, what: &str) -> Result<(), Error> {
    match sys::flock(fd, true) {
        Ok(()) => return Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) && !limit.is_zero() => {}
        Err(e) if e.raw_os_error() == Some(libc::EWOULDBLOCK) => return Err(busy(what)),
        Err(e) => return Err(Error::os(format!("lock {what}"), e)),
    }
    let waiter = Waiter::new()?;
    let child = sys::fork(0, None, || {
        let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        u8::from(sys::flock(fd, false).is_err())
    })
    .step(|| format!("wait for the lock on {what}"))?;
    let outcome = waiter.wait(&[child.pidfd.as_fd()], Some(Instant::now() + limit));
    let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), Signal::SIGKILL);
    let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
    match outcome? {
        Some(_) => sys::flock(fd, true).map_err(|_| busy(what)),
        None => Err(busy(what)),
    }
}

fn busy(what: &str) -> Error {
    Error::new(Code::Busy, format!("lock {what}"), "another command is working on it")
}
