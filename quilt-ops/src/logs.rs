//! The output of a container's command, as its init kept it: `log.1`, the older file, then `log`. When `log` has its full
//! size it becomes `log.1`, and a new one is begun.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::stat::Mode;
use quilt_record::process::wait_dead;
use quilt_record::{Container, Error, Id, Instance, Step};
use std::time::Duration;

use crate::output::put;
use crate::state;

/// Writes the log to standard output; with `follow`, also what is added until the container ends.
pub fn logs(instance: &Instance, id: &Id, follow: bool) -> Result<(), Error> {
    let container = Container::open(instance, id)?;
    let init = if follow { state::init(&container)? } else { None };
    // Before the first look, or what is written between the two would be waited for.
    let watch = match &init {
        Some(_) => {
            let watch = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK).step(|| "watch the log")?;
            let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
            watch.add_watch(container.path(), events).step(|| format!("watch {}", container.path().display()))?;
            Some(watch)
        }
        None => None,
    };
    let (older, mut current) = files(&container)?;
    if let Some(mut older) = older
        && !drain(&mut older)?
    {
        return Ok(());
    }
    loop {
        let dead = match &init {
            Some(init) => wait_dead(init, Duration::ZERO).step(|| format!("look at the init of {id}"))?,
            None => true,
        };
        if let Some(file) = &mut current
            && !drain(file)?
        {
            return Ok(());
        }
        let newest = open(&container, "log")?;
        if number(&newest)? != number(&current)? && newest.is_some() {
            // Rotated: the last of the old one may have come after the look above.
            if let Some(old) = &mut current
                && !drain(old)?
            {
                return Ok(());
            }
            current = newest;
            continue;
        }
        let (Some(init), Some(watch), false) = (&init, &watch, dead) else { return Ok(()) };
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

/// The two files, open, of one moment between two rotations.
fn files(container: &Container) -> Result<(Option<File>, Option<File>), Error> {
    loop {
        let (older, current) = (open(container, "log.1")?, open(container, "log")?);
        if number(&open(container, "log.1")?)? == number(&older)? {
            return Ok((older, current));
        }
    }
}

fn open(container: &Container, name: &str) -> Result<Option<File>, Error> {
    match openat(container.dir(), name, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(fd) => Ok(Some(File::from(fd))),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(Error::os(format!("open {}", container.path().join(name).display()), e)),
    }
}

fn number(file: &Option<File>) -> Result<Option<u64>, Error> {
    file.as_ref().map(|f| f.metadata().map(|m| m.ino()).step(|| "look at the log")).transpose()
}

/// Copies what is left of the file; false if nobody reads any more.
fn drain(file: &mut File) -> Result<bool, Error> {
    let mut buffer = vec![0u8; 64 << 10];
    loop {
        match file.read(&mut buffer).step(|| "read the log")? {
            0 => return Ok(true),
            n if put(&buffer[..n])? => {}
            _ => return Ok(false),
        }
    }
}
