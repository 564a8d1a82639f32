//! How long a tool waits for what it has sent in, and for what else it gives up waiting.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use quilt_record::process::poll_timeout;
use quilt_record::{Code, Error};

use crate::supervise::{Ending, Signals};
use crate::target::Target;

/// How long nothing is heard of a child before it is asked why: a thousand times as long as it takes.
const UNHEARD_OF: Duration = Duration::from_secs(1);

/// What ends a wait for what is on its way in, beside that itself.
#[derive(Clone, Copy, Default)]
pub(crate) struct Patience<'a> {
    /// The time until which it is waited for.
    pub(crate) deadline: Option<Instant>,
    /// The caller's signals, of which one that ends a command ends the wait, too.
    pub(crate) signals: Option<&'a Signals>,
}

/// Why nothing came of it.
#[derive(Debug)]
pub(crate) enum Hindered {
    /// The time was up, or a signal came, before there was a command to end. Whoever waited has to see to its end.
    Ended(Ending),
    /// It failed.
    Failed(Error),
}

impl From<Error> for Hindered {
    fn from(error: Error) -> Hindered {
        Hindered::Failed(error)
    }
}

impl From<Hindered> for Error {
    fn from(hindered: Hindered) -> Error {
        let (code, why) = match hindered {
            Hindered::Failed(error) => return error,
            Hindered::Ended(Ending::TimedOut) => (Code::Timeout, "the time was up"),
            Hindered::Ended(Ending::Exited(_)) => (Code::Interrupted, "a signal came"),
        };
        Error::new(code, "enter the container", why)
    }
}

impl Patience<'_> {
    /// Waits until `fd` can be read. Fails with `busy` if the container is paused meanwhile, as if that had been first: what
    /// met a pause on its way in stands still. What is waited for may be stopped from inside, and then never come.
    pub(crate) fn hear_of(self, target: &Target, fd: BorrowedFd<'_>) -> Result<(), Hindered> {
        let place = self.signals.map_or(fd, AsFd::as_fd);
        let mut fds = [PollFd::new(fd, PollFlags::POLLIN), PollFd::new(place, PollFlags::POLLIN)];
        loop {
            let left = self.deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let heard = match poll(&mut fds, poll_timeout(left.unwrap_or(UNHEARD_OF).min(UNHEARD_OF))) {
                Err(Errno::EINTR) => continue,
                heard => heard.map_err(|e| Error::os("wait for the command", e))?,
            };
            if fds[0].any().unwrap_or(true) {
                return Ok(());
            }
            let signals = self.signals.filter(|_| heard > 0).map(Signals::take).unwrap_or_default();
            // To what is no command yet, each of these is the end.
            if let Some(signal) = signals.into_iter().find(|s| !matches!(s, Signal::SIGWINCH | Signal::SIGCONT)) {
                return Err(Hindered::Ended(Ending::Exited(128 + signal as u8)));
            }
            let late = self.deadline.is_some_and(|deadline| Instant::now() >= deadline);
            if heard == 0 || late {
                target.refuse_paused()?;
            }
            if late {
                return Err(Hindered::Ended(Ending::TimedOut));
            }
        }
    }
}
