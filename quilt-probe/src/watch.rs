//! The one wait: for what is looked at, for the container's death, for a signal, for the deadline.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use quilt_exec::Running;
use quilt_record::signals::Waiter;
use quilt_record::{Code, Error};

/// How long a container may take to end once its processes do.
const DYING: Duration = Duration::from_millis(200);

/// What ended a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// One of the descriptors is ready; which, by its place.
    Ready(usize),
    /// The deadline given.
    Late,
}

/// Why a look ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The container died.
    Dead,
    /// All the time there was is up.
    Overall,
    /// This phase says no.
    Failed(Error),
    /// A signal, or a fault that says nothing about the container.
    Broken(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Broken(error)
    }
}

/// `not_ready`, for a phase to end with.
pub(crate) fn no(message: impl Into<String>) -> Stop {
    Stop::Failed(Error::new(Code::NotReady, "", message))
}

/// Waits.
pub(crate) struct Watch<'a> {
    waiter: Waiter,
    init: &'a OwnedFd,
    overall: Instant,
}

impl<'a> Watch<'a> {
    /// Watches over the container whose init is behind `init`, until `overall`.
    pub(crate) fn new(init: &'a OwnedFd, overall: Instant) -> Result<Watch<'a>, Error> {
        Ok(Watch { waiter: Waiter::new()?, init, overall })
    }

    /// The end of a phase that may take `limit`.
    pub(crate) fn deadline(&self, limit: Duration) -> Instant {
        self.overall.min(Instant::now() + limit)
    }

    /// What to say of something that has taken too long: that the phase has, unless all the time there was is up.
    pub(crate) fn late(&self, why: impl Into<String>) -> Stop {
        if Instant::now() >= self.overall { Stop::Overall } else { no(why) }
    }

    /// Waits until one of `fds` is readable or hung up, the first of them if there are several.
    pub(crate) fn wait(&self, fds: &[BorrowedFd<'_>], deadline: Instant) -> Result<Event, Stop> {
        let mut all = fds.to_vec();
        all.push(self.init.as_fd());
        match self.waiter.wait(&all, Some(deadline.min(self.overall)))? {
            // What is ready is worth more than a death at the same moment: it may say why.
            Some(ready) => match ready.iter().position(|ready| *ready) {
                Some(at) if at < fds.len() => Ok(Event::Ready(at)),
                _ => Err(Stop::Dead),
            },
            None if Instant::now() >= self.overall => Err(Stop::Overall),
            None => Ok(Event::Late),
        }
    }

    /// When the process inside has ended that should not have: whether that was the container's end. The kernel ends the
    /// others first, and then waits until each has been reaped.
    pub(crate) fn survived(&self, running: &Running) -> Result<(), Stop> {
        let deadline = Instant::now() + DYING;
        let ended = match self.wait(&[running.child.pidfd.as_fd()], deadline) {
            Ok(Event::Ready(_)) => {
                running.status();
                self.wait(&[], deadline)
            }
            other => other,
        };
        match ended {
            Ok(_) | Err(Stop::Overall) => Ok(()),
            Err(stop) => Err(stop),
        }
    }
}
