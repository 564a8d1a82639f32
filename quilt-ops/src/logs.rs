//! The output of a container's command, as its init keeps it: `log.1`, the older part, then `log`. A full `log` is
//! copied over `log.1` and emptied (a turn), while somebody may be reading.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use quilt_record::process::wait_dead;
use quilt_record::{Container, Error, Id, Instance, Step};

use crate::output::put;
use crate::state;

/// How often a snapshot is begun again because of a turn meanwhile.
const TRIES: u32 = 10;

/// Writes the log to standard output; with `follow`, also what is added until the container ends. What is overwritten
/// before it was read is lost.
pub fn logs(instance: &Instance, id: &Id, follow: bool) -> Result<(), Error> {
    let container = Container::open(instance, id)?;
    let init = if follow { state::init(&container)? } else { None };
    // Before the first look, or what is written between the two would be waited for.
    let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).step(|| "watch the log")?;
    if init.is_some() {
        let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
        watch.add_watch(container.path(), events).step(|| format!("watch {}", container.path().display()))?;
    }
    let Some(mut log) = Log::open(&container)? else { return Ok(()) };
    if !log.first()? {
        return Ok(());
    }
    let Some(init) = init else { return Ok(()) };
    loop {
        // In this order: what it wrote before its end is there by then.
        let dead = wait_dead(&init, Duration::ZERO).step(|| format!("look at the init of {id}"))?;
        if !log.more()? || dead {
            return Ok(());
        }
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN), PollFd::new(init.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::os("wait for the log to grow", e)),
        }
        match watch.read_events() {
            Ok(_) | Err(Errno::EAGAIN) => {}
            Err(e) => return Err(Error::os("watch the log", e)),
        }
    }
}

/// The two files, and how far they were read.
struct Log {
    older: File,
    newer: File,
    /// What of `newer` has been written out.
    at: u64,
    /// The turn that `at` belongs to.
    turn: Turn,
}

/// Tells one content of `log.1` from another.
type Turn = (i64, i64, u64);

impl Log {
    /// `None` if the container has no log: it runs no command of its own.
    fn open(container: &Container) -> Result<Option<Log>, Error> {
        let open = |name: &str| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
            match openat(container.dir(), name, flags, Mode::empty()) {
                Ok(fd) => Ok(Some(File::from(fd))),
                Err(Errno::ENOENT) => Ok(None),
                Err(e) => Err(Error::os(format!("open {}", container.path().join(name).display()), e)),
            }
        };
        let (Some(older), Some(newer)) = (open("log.1")?, open("log")?) else { return Ok(None) };
        Ok(Some(Log { older, newer, at: 0, turn: (0, 0, 0) }))
    }

    fn turn(&self) -> Result<Turn, Error> {
        let m = self.older.metadata().step(|| "look at the log")?;
        Ok((m.mtime(), m.mtime_nsec(), m.len()))
    }

    /// Writes out what there is; false if nobody reads. Both parts are read before either is written, and again if
    /// there was a turn meanwhile: they have a size cap.
    fn first(&mut self) -> Result<bool, Error> {
        let (mut older, mut newer) = (Vec::new(), Vec::new());
        for _ in 0..TRIES {
            self.turn = self.turn()?;
            (older, newer) = (rest(&self.older, 0)?, rest(&self.newer, 0)?);
            if self.turn()? == self.turn {
                break;
            }
        }
        self.at = newer.len() as u64;
        // In the middle of a turn the older part is a copy of the newer one's start.
        if newer.starts_with(&older) {
            older.clear();
        }
        Ok(put(&older)? && put(&newer)?)
    }

    /// Writes out what has been added; false if nobody reads.
    fn more(&mut self) -> Result<bool, Error> {
        let turn = self.turn()?;
        let len = self.newer.metadata().step(|| "look at the log")?.len();
        if len < self.at || (turn != self.turn && self.has_turned()?) {
            let missed = rest(&self.older, self.at)?;
            (self.at, self.turn) = (0, turn);
            if !put(&missed)? {
                return Ok(false);
            }
        }
        let added = rest(&self.newer, self.at)?;
        self.at += added.len() as u64;
        put(&added)
    }

    /// Whether `log.1` is the part before `log`, rather than a copy of its start that is being made.
    fn has_turned(&self) -> Result<bool, Error> {
        let (mut older, mut newer) = ([0u8; 4096], [0u8; 4096]);
        let older_len = self.older.read_at(&mut older, 0).step(|| "read the log")?;
        let newer_len = self.newer.read_at(&mut newer, 0).step(|| "read the log")?;
        let both = older_len.min(newer_len);
        Ok(older[..both] != newer[..both])
    }
}

/// Everything from `at` on.
fn rest(file: &File, mut at: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match file.read_at(&mut buffer, at).step(|| "read the log")? {
            0 => return Ok(bytes),
            n => {
                bytes.extend_from_slice(&buffer[..n]);
                at += n as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn a_turn_is_told_from_a_copy_that_is_being_made() -> Result<(), Box<dyn std::error::Error>> {
        let dir = std::env::temp_dir().join(format!("quilt-ops-log-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let write = |name: &str, text: &str| -> io::Result<File> {
            std::fs::write(dir.join(name), text)?;
            File::open(dir.join(name))
        };
        let look = |older: &str, newer: &str| -> Result<bool, Box<dyn std::error::Error>> {
            let log = Log { older: write("log.1", older)?, newer: write("log", newer)?, at: 0, turn: (0, 0, 0) };
            Ok(log.has_turned()?)
        };
        assert!(!look("one\n", "one\ntwo\n")?);
        assert!(!look("", "one\ntwo\n")?);
        assert!(look("one\ntwo\n", "three\n")?);
        std::fs::remove_dir_all(&dir)?;
        Ok(())
    }
}
