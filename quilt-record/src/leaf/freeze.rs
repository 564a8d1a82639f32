//! Holding everything in a cgroup still, by v2's freezer (`cgroup.freeze`, Linux 5.2) or by v1's (`freezer.state`).
//!
//! Neither takes hold at once: a process stands still when it next leaves the kernel. v2 says when all do, by an event;
//! v1 must be asked again and again (`freezer-subsystem.rst`). And a signal reaches a frozen process on v2 alone, where
//! SIGKILL ends it; on v1 it is kept until the process is let go.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::stat::Mode;

use super::tree::{Dir, below, open_dir, write_file};
use crate::error::{Code, Error, Step};
use crate::have::Hierarchy;
use crate::process::poll_timeout;
use crate::{signals, sys};

/// How soon v1's freezer is asked again at first, and how late at last.
pub(super) const SOON: Duration = Duration::from_millis(1);
const LATE: Duration = Duration::from_millis(50);

/// Whether the container was paused ([`pause`]); one that is gone was not. Costs one small read.
pub fn is_paused(hierarchies: &[Hierarchy]) -> Result<bool, Error> {
    let Some(judge) = super::judge(hierarchies) else { return Ok(false) };
    // v1: what was asked of this cgroup itself. freezer.state would look at every process.
    let path = judge.path.join(if judge.version == 2 { "cgroup.freeze" } else { "freezer.self_freezing" });
    let mut text = [0u8; 1];
    let read = openat(AT_FDCWD, &path, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(std::io::Error::from)
        .and_then(|fd| File::from(fd).read(&mut text));
    match read {
        Ok(_) => Ok(text == *b"1"),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENODEV)) => Ok(false),
        Err(e) => Err(Error::os(format!("read {}", path.display()), e)),
    }
}

/// Holds every process of the container still, now and later ones, and returns when all are. If they are not by `limit`
/// (`timeout`), or a stopping signal is pending (`interrupted`; they must be blocked), they go on. `unsupported` where
/// the kernel has no freezer.
pub fn pause(hierarchies: &[Hierarchy], limit: Duration) -> Result<(), Error> {
    let dir = open(hierarchies)?;
    let heed = sys::signalfd(&signals::stopping()).step(|| "make a signalfd")?;
    match hold(&dir, Instant::now() + limit, Some(&heed)) {
        Ok(Hold::Still) => Ok(()),
        Ok(Hold::Moving) => {
            let_go(&dir)?;
            let step = format!("freeze the cgroup {}", dir.path.display());
            Err(Error::new(Code::Timeout, step, "some of its processes do not stop; all of them go on"))
        }
        Ok(Hold::No) => Err(no_freezer()),
        Err(error) => {
            let _ = let_go(&dir);
            Err(error)
        }
    }
}

/// Lets the container go on. What somebody else froze in it stays so. One that was not paused is no error.
pub fn unpause(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    if let_go(&open(hierarchies)?)? { Ok(()) } else { Err(no_freezer()) }
}

fn open(hierarchies: &[Hierarchy]) -> Result<Dir, Error> {
    let judge = super::judge(hierarchies).ok_or_else(no_freezer)?;
    let gone = || Error::new(Code::NotFound, "", format!("the cgroup {} is gone", judge.path.display()));
    Dir::open(judge.version, &judge.path)?.ok_or_else(gone)
}

fn no_freezer() -> Error {
    let message = "this host has no freezer controller (cgroup v2 since Linux 5.2, or v1's)";
    Error::new(Code::Unsupported, "freeze the container", message)
}

/// What has come of a [`hold`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hold {
    /// Everything stands still.
    Still,
    /// Something does not yet.
    Moving,
    /// There is no freezer here.
    No,
}

/// Freezes the tree, and waits until it is frozen, but no longer than `deadline`. Fails if a signal of `heed` comes.
pub(super) fn hold(dir: &Dir, deadline: Instant, heed: Option<&OwnedFd>) -> Result<Hold, Error> {
    let (file, word, says) = match dir.version {
        2 => ("cgroup.freeze", "1", "cgroup.events"),
        _ => ("freezer.state", "FROZEN", "freezer.state"),
    };
    let step = || format!("read {}", dir.path.join(says).display());
    let state = match openat(&dir.fd, says, OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
        Ok(fd) => File::from(fd),
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(Hold::No),
        Err(e) => return Err(Error::os(step(), e)),
    };
    let mut pause = SOON;
    let mut first = true;
    loop {
        // v1 wants it written again while it is not done: whoever joined meanwhile is caught by that.
        if (first || dir.version == 1) && !dir.write(file, word)? {
            return Ok(Hold::No);
        }
        first = false;
        let mut text = [0u8; 128];
        let n = match state.read_at(&mut text, 0) {
            Ok(n) => n,
            // Removed, and so empty.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(Hold::Still),
            Err(e) => return Err(Error::os(step(), e)),
        };
        let still = if dir.version == 2 { &b"frozen 1"[..] } else { b"FROZEN" };
        if text[..n].windows(still.len()).any(|w| w == still) {
            return Ok(Hold::Still);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Hold::Moving);
        }
        let events = (dir.version == 2).then(|| PollFd::new(state.as_fd(), PollFlags::POLLPRI));
        let heeded = heed.map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN));
        let mut polled: Vec<PollFd<'_>> = events.into_iter().chain(heeded).collect();
        let wait = if dir.version == 2 { left } else { left.min(pause) };
        match poll(&mut polled, poll_timeout(wait)) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(Error::os("wait for processes to freeze", e)),
        }
        if heed.is_some() {
            signals::check()?;
        }
        pause = (pause * 2).min(LATE);
    }
}

/// Thaws the cgroup; what is frozen above or below it for a reason of its own stays so. False if it has no freezer.
pub(super) fn let_go(dir: &Dir) -> Result<bool, Error> {
    if dir.version == 2 { dir.write("cgroup.freeze", "0") } else { dir.write("freezer.state", "THAWED") }
}

/// v1: thaws every cgroup below as well, so that a pending SIGKILL gets through.
pub(super) fn let_all_go(dir: &Dir) -> Result<(), Error> {
    fn thaw(dir: &OwnedFd, depth: u32) -> nix::Result<()> {
        for name in below(dir.as_fd())? {
            match open_dir(dir.as_fd(), name.as_c_str()) {
                Ok(child) => {
                    write_file(&child, "freezer.state", "THAWED")?;
                    if depth > 0 {
                        thaw(&child, depth - 1)?;
                    }
                }
                Err(Errno::ENOENT | Errno::ENODEV) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
    if let_go(dir)? {
        thaw(&dir.fd, super::tree::DEPTH).step(|| format!("thaw what is below {}", dir.path.display()))?;
    }
    Ok(())
}

/// v1: the nearest cgroup above this one that is not frozen, if it is frozen because one above it is.
pub(super) fn way_out(path: &Path) -> Option<PathBuf> {
    let frozen_above = fs::read(path.join("freezer.parent_freezing")).is_ok_and(|text| text.starts_with(b"1"));
    let thawed = |dir: &&Path| match fs::read(dir.join("freezer.state")) {
        Ok(text) => text.starts_with(b"THAWED"),
        // The hierarchy's root has no state.
        Err(_) => dir.join("cgroup.procs").exists(),
    };
    frozen_above.then(|| path.ancestors().skip(1).find(thawed)).flatten().map(Path::to_owned)
}
