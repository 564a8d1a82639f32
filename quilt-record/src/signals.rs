//! Signals are state, not interruptions: TERM, INT and HUP are blocked from the first line on and looked at between
//! steps, and in every wait. So a step is either not begun or complete when the undo starts.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::{SigSet, Signal};

use crate::error::{Code, Error, Step};
use crate::process::poll_timeout;
use crate::sys;

/// The signals that ask a stage to stop.
pub const STOPPING: [Signal; 3] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];

/// The set of [`STOPPING`].
pub fn stopping() -> SigSet {
    STOPPING.into_iter().collect()
}

/// Blocks the stopping signals in this thread and every thread made later, but for those that the caller ignores
/// (nohup(1)): a signal that is blocked becomes pending even if it is ignored.
pub fn block() {
    let heeded: SigSet = STOPPING.into_iter().filter(|signal| !sys::is_ignored(*signal)).collect();
    // Fails only for a bad `how` (sigprocmask(2)).
    let _ = heeded.thread_block();
}

/// The stopping signal that is pending, if any.
pub fn pending() -> Option<Signal> {
    let pending = sys::pending_signals();
    STOPPING.into_iter().find(|s| pending.contains(*s))
}

/// Fails with `interrupted` if a stopping signal is pending: call between steps.
pub fn check() -> Result<(), Error> {
    match pending() {
        None => Ok(()),
        Some(signal) => Err(interrupted(signal)),
    }
}

fn interrupted(signal: Signal) -> Error {
    Error::new(Code::Interrupted, "", format!("interrupted by {signal}"))
}

/// A wait for events that also ends when a stopping signal arrives.
pub struct Waiter {
    signals: OwnedFd,
}

impl Waiter {
    /// Prepares one (signalfd(2)); the signals must be blocked.
    pub fn new() -> Result<Waiter, Error> {
        Ok(Waiter { signals: sys::signalfd(&stopping()).step(|| "make a signalfd")? })
    }

    /// Waits until one of `fds` is readable (or hung up) and returns which are; `None` at the deadline.
    /// Fails with `interrupted` if a stopping signal is pending; the signal stays pending.
    pub fn wait(&self, fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> Result<Option<Vec<bool>>, Error> {
        loop {
            let mut polled: Vec<PollFd<'_>> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
            polled.push(PollFd::new(self.signals.as_fd(), PollFlags::POLLIN));
            let left = deadline.map_or(Duration::MAX, |d| d.saturating_duration_since(Instant::now()));
            match poll(&mut polled, if deadline.is_some() { poll_timeout(left) } else { nix::poll::PollTimeout::NONE })
            {
                Ok(0) if left.is_zero() => return Ok(None),
                Ok(0) | Err(Errno::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(Error::os("wait for an event", io::Error::from(e))),
            }
            check()?;
            let ready = polled[..fds.len()].iter().map(|p| p.revents().is_some_and(|r| !r.is_empty())).collect();
            return Ok(Some(ready));
        }
    }
}
