//! One stream on its way: from a descriptor to another, without ever waiting at either.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, open, splice};
use nix::poll::PollFlags;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{read, write};
use quilt_record::sys;

/// How much is carried at once: what a pipe holds by default (pipe(7)).
const CHUNK: usize = 64 << 10;

/// How a destination takes bytes without making one wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Pipe to pipe: splice(2), no copying.
    Splice,
    /// A socket: send(2).
    Send,
    /// A descriptor that does not block, or a regular file, which never does.
    Write,
}

/// What became of a pump after a move.
#[derive(Debug)]
pub(crate) enum Flow {
    /// There may be more.
    Going,
    /// The source has ended.
    Ended,
    /// The destination does not take it: nobody reads any more (EPIPE), the disk is full.
    Refused(io::Error),
}

/// A stream.
pub(crate) struct Pump {
    from: OwnedFd,
    to: OwnedFd,
    way: Way,
    buffer: Vec<u8>,
    start: usize,
    /// The destination was full; wait for it, not for the source.
    full: bool,
    /// How many bytes are still to be carried, where that is known.
    left: Option<usize>,
}

impl Pump {
    /// From a pipe or a terminal of ours to a stream of the caller's, which is used as it is: it is shared with others,
    /// so its flags are not ours to change.
    pub(crate) fn outward(from: OwnedFd, to: BorrowedFd<'_>, from_pipe: bool) -> io::Result<Pump> {
        no_wait(&from)?;
        let kind = fstat(to)?.st_mode & libc::S_IFMT;
        let (to, way) = match kind {
            libc::S_IFIFO if from_pipe => (to.try_clone_to_owned()?, Way::Splice),
            libc::S_IFSOCK => (to.try_clone_to_owned()?, Way::Send),
            libc::S_IFCHR | libc::S_IFIFO => (reopened(to)?, Way::Write),
            _ => (to.try_clone_to_owned()?, Way::Write),
        };
        Ok(Pump { from, to, way, buffer: Vec::new(), start: 0, full: false, left: None })
    }

    /// From the caller's standard input to a pipe or a terminal of ours.
    pub(crate) fn inward(from: OwnedFd, to: OwnedFd) -> io::Result<Pump> {
        no_wait(&to)?;
        Ok(Pump { from, to, way: Way::Write, buffer: Vec::new(), start: 0, full: false, left: None })
    }

    /// What to poll for.
    pub(crate) fn interest(&self) -> (BorrowedFd<'_>, PollFlags) {
        if self.full { (self.to.as_fd(), PollFlags::POLLOUT) } else { (self.from.as_fd(), PollFlags::POLLIN) }
    }

    /// Whether something taken from the source waits for the destination.
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// Carries no more than what the source holds now, `most` at the most.
    pub(crate) fn finish(&mut self) {
        self.left = Some(sys::readable_bytes(self.from.as_fd()).unwrap_or(0));
    }

    /// Carries up to `most` bytes more, however many there are now.
    pub(crate) fn finish_by(&mut self, most: usize) {
        self.left = Some(most);
    }

    /// Whether everything that [`Pump::finish`] named has been carried.
    pub(crate) fn is_finished(&self) -> bool {
        self.left == Some(0) && !self.full
    }

    /// Moves what can be moved: called when the descriptor of [`Pump::interest`] is ready.
    pub(crate) fn flow(&mut self) -> Flow {
        let most = self.left.unwrap_or(CHUNK).min(CHUNK);
        if self.way == Way::Splice {
            return self.spliced(most);
        }
        if self.start == self.buffer.len() {
            if most == 0 {
                self.full = false;
                return Flow::Going;
            }
            self.buffer.resize(most, 0);
            self.start = 0;
            match read(&self.from, &mut self.buffer) {
                Ok(0) | Err(Errno::EIO) => {
                    self.buffer.clear();
                    return Flow::Ended;
                }
                Ok(n) => {
                    self.buffer.truncate(n);
                    self.carried(n);
                }
                Err(e) => {
                    self.buffer.clear();
                    return if matches!(e, Errno::EAGAIN | Errno::EINTR) { Flow::Going } else { Flow::Ended };
                }
            }
        }
        let rest = &self.buffer[self.start..];
        let sent = match self.way {
            Way::Send => sys::send_nowait(self.to.as_fd(), rest),
            _ => write(&self.to, rest).map_err(io::Error::from),
        };
        match sent {
            Ok(n) => self.start += n,
            Err(e) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(e) => return Flow::Refused(e),
        }
        self.full = self.start < self.buffer.len();
        Flow::Going
    }

    fn spliced(&mut self, most: usize) -> Flow {
        match splice(&self.from, None, &self.to, None, most, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Ok(0) => return if most == 0 { Flow::Going } else { Flow::Ended },
            Ok(n) => {
                self.full = false;
                self.carried(n);
            }
            // Nothing there, or no room: if it was ready to be read, it is the room.
            Err(Errno::EAGAIN) => self.full = !self.full,
            Err(Errno::EINTR) => {}
            Err(Errno::EINVAL) => self.way = Way::Write,
            Err(e) => return Flow::Refused(e.into()),
        }
        Flow::Going
    }

    fn carried(&mut self, n: usize) {
        self.left = self.left.map(|left| left.saturating_sub(n));
    }

    /// The destination, for a last word.
    pub(crate) fn to(&self) -> BorrowedFd<'_> {
        self.to.as_fd()
    }
}

fn no_wait(fd: &OwnedFd) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// The same terminal, device or pipe through an open file of its own, which does not block; where that is refused, the
/// caller's own.
fn reopened(fd: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    match open(format!("/proc/self/fd/{}", fd.as_raw_fd()).as_str(), flags, Mode::empty()) {
        Ok(own) => Ok(own),
        Err(_) => fd.try_clone_to_owned(),
    }
}
