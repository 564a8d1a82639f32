//! The guard: a process in a session of its own that outlives whatever kills the tool, and then ends what the tool
//! started.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::termios::Termios;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read, setsid, write};
use quilt_record::leaf::Leaf;
use quilt_record::{Error, Step, sys};

use crate::terminal;

/// How long the guard tries to kill what the tool started.
const KILL: Duration = Duration::from_secs(10);

/// A guard, standing. Dropping it without [`Guard::dismiss`] makes it act.
#[derive(Debug)]
pub struct Guard {
    life: OwnedFd,
    child: sys::Child,
}

impl Guard {
    /// Posts a guard over a leaf: when the calling process, which must have one thread, dies undismissed, everything in
    /// the leaf is killed and the leaf removed.
    pub fn post(leaf: &Leaf) -> Result<Guard, Error> {
        Guard::with_terminal(leaf, None)
    }

    /// The same, and the terminal is put back as it was.
    pub(crate) fn with_terminal(leaf: &Leaf, raw: Option<(BorrowedFd<'_>, &Termios)>) -> Result<Guard, Error> {
        let (watch, life) = pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe")?;
        let child = sys::fork(0, None, || {
            let _ = setsid();
            // Every signal that can be blocked stays blocked from here on: only SIGKILL ends a guard.
            let _ = nix::sys::signal::SigSet::all().thread_block();
            // Descriptors 0 to 2 are places only; the caller's own streams must not be held open.
            let watch_fd = watch.as_fd();
            let terminal_fd = raw.map_or(watch_fd, |(fd, _)| fd);
            let kept = sys::keep_only(&[watch_fd, watch_fd, watch_fd, watch_fd, terminal_fd]);
            let Ok([watch, terminal]) = kept.as_deref() else { return 1 };
            if read(watch, &mut [0u8; 1]) == Ok(1) {
                return 0;
            }
            if let Some((_, before)) = raw {
                terminal::restore(terminal.as_fd(), before);
            }
            let _ = leaf.kill(KILL);
            let _ = leaf.remove();
            0
        });
        Ok(Guard { life, child: child.step(|| "start the guard")? })
    }

    /// Tells the guard that all went as it should. It goes by itself; [`Guard::reap`] waits for that.
    pub fn dismiss(&self) {
        let _ = write(&self.life, b"d");
    }

    /// Waits for the end of a guard that was dismissed.
    pub fn reap(self) {
        let _ = waitpid(Pid::from_raw(self.child.pid), Some(WaitPidFlag::__WALL));
    }
}
