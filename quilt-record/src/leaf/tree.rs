//! A cgroup directory and all below it: who is in it, and its removal.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::dir::{Dir as Entries, Type};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::sched_yield;
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, read, unlinkat, write};

use super::kill::{rest, settle};
use crate::error::{Code, Error, Step};
use crate::have::Hierarchy;

/// How deep cgroups below a leaf are followed; each level holds a descriptor.
pub(super) const DEPTH: u32 = 200;

/// How long the removal waits for processes that are past everything but their own end.
pub(super) const DYING: Duration = Duration::from_millis(500);

/// The first wait for them where there is no event; each after it is twice as long.
const MOMENT: Duration = Duration::from_millis(1);

/// A cgroup directory, open.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) version: u8,
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
}

impl Dir {
    /// Opens it; `None` if it is not there.
    pub(super) fn open(version: u8, path: &Path) -> Result<Option<Dir>, Error> {
        match open_dir(AT_FDCWD, path) {
            Ok(fd) => Ok(Some(Dir { version, path: path.to_owned(), fd })),
            // No directory: a file of the kernel's own has that name.
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(Error::os(format!("open the cgroup {}", path.display()), e)),
        }
    }

    /// Whether it or anything below it has a process.
    pub(super) fn populated(&self) -> Result<bool, Error> {
        if self.version == 1 {
            return Ok(!self.pids()?.is_empty());
        }
        match openat(&self.fd, "cgroup.events", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(events) => self.says_populated(&events.into()),
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
            Err(e) => Err(Error::os(format!("read {}", self.path.join("cgroup.events").display()), e)),
        }
    }

    pub(super) fn says_populated(&self, events: &File) -> Result<bool, Error> {
        let mut text = [0u8; 128];
        match events.read_at(&mut text, 0) {
            Ok(n) => Ok(!text[..n].windows(11).any(|w| w == b"populated 0")),
            // The directory was removed.
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(e) => Err(Error::os(format!("read {}", self.path.join("cgroup.events").display()), e)),
        }
    }

    /// Every process in it and below it, sorted.
    pub(super) fn pids(&self) -> Result<Vec<i32>, Error> {
        let mut pids = Vec::new();
        collect(self.fd.as_fd(), &mut pids, DEPTH)
            .step(|| format!("list the processes of the cgroup {}", self.path.display()))?;
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// Writes to one of its files; false if there is no such file, or the directory was removed.
    pub(super) fn write(&self, file: &str, text: &str) -> Result<bool, Error> {
        write_file(&self.fd, file, text).step(|| format!("write {text} to {}", self.path.join(file).display()))
    }
}

/// Writes to a file of a cgroup; false if there is no such file, or the directory was removed.
pub(super) fn write_file(dir: &OwnedFd, file: &str, text: &str) -> nix::Result<bool> {
    let written =
        openat(dir, file, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty()).and_then(|fd| write(&fd, text.as_bytes()));
    match written {
        Err(Errno::ENOENT | Errno::ENODEV) => Ok(false),
        written => written.map(|_| true),
    }
}

/// Removes the directory and all below it; false if a live process is in there.
pub(super) fn remove(version: u8, path: &Path) -> Result<bool, Error> {
    let step = || format!("remove the cgroup {}", path.display());
    let rmdir = || match unlinkat(AT_FDCWD, path, UnlinkatFlags::RemoveDir) {
        Ok(()) | Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(true),
        Err(Errno::EBUSY | Errno::ENOTEMPTY) => Ok(false),
        Err(e) => Err(Error::os(step(), e)),
    };
    if rmdir()? {
        return Ok(true);
    }
    // Busy: cgroups below, or processes.
    let Some(dir) = Dir::open(version, path)? else { return Ok(true) };
    remove_below(dir.fd.as_fd(), DEPTH).step(step)?;
    if rmdir()? {
        return Ok(true);
    }
    let deadline = Instant::now() + DYING;
    let mut pause = MOMENT;
    while dir.pids()?.is_empty() {
        // Nobody is listed, but somebody counts: a process that is past its exit but not yet off its last CPU.
        // v1 has no event for it, but such a process needs nothing but the CPU that it is about to leave.
        if version == 2 {
            settle(&dir, deadline)?;
        } else {
            let _ = sched_yield();
        }
        remove_below(dir.fd.as_fd(), DEPTH).step(step)?;
        if rmdir()? {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            break;
        }
        rest(deadline.min(Instant::now() + pause))?;
        pause *= 2;
    }
    Ok(false)
}

/// Removes every cgroup below, the deepest first; leaves those that are busy.
fn remove_below(dir: BorrowedFd<'_>, depth: u32) -> nix::Result<()> {
    for name in below(dir)? {
        if unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir) != Err(Errno::EBUSY) || depth == 0 {
            continue;
        }
        match open_dir(dir, name.as_c_str()) {
            Ok(child) => remove_below(child.as_fd(), depth - 1)?,
            Err(Errno::ENOENT) => continue,
            Err(e) => return Err(e),
        }
        let _ = unlinkat(dir, name.as_c_str(), UnlinkatFlags::RemoveDir);
    }
    Ok(())
}

fn collect(dir: BorrowedFd<'_>, pids: &mut Vec<i32>, depth: u32) -> nix::Result<()> {
    match openat(dir, "cgroup.procs", OFlag::O_RDONLY | OFlag::O_CLOEXEC, Mode::empty()).and_then(|fd| slurp(&fd)) {
        // 0: a process of a pid namespace that the caller is not above of.
        Ok(text) => pids.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 0)),
        // Removed meanwhile.
        Err(Errno::ENOENT | Errno::ENODEV) => return Ok(()),
        // A threaded v2 cgroup, whose processes are listed further up: the leaf itself, or one above it, is none, as a
        // cgroup with processes in it cannot be made one, nor what has such a cgroup below it be made their root.
        Err(Errno::EOPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    if depth == 0 {
        return Ok(());
    }
    for name in below(dir)? {
        match open_dir(dir, name.as_c_str()) {
            Ok(child) => collect(child.as_fd(), pids, depth - 1)?,
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

fn slurp(fd: &OwnedFd) -> nix::Result<String> {
    let (mut text, mut buffer) = (Vec::new(), [0u8; 4096]);
    loop {
        match read(fd, &mut buffer)? {
            0 => return Ok(String::from_utf8_lossy(&text).into_owned()),
            n => text.extend_from_slice(&buffer[..n]),
        }
    }
}

/// The names of the cgroups right below.
pub(super) fn below(dir: BorrowedFd<'_>) -> nix::Result<Vec<CString>> {
    let mut entries = Entries::from_fd(open_dir(dir, ".")?)?;
    let mut names = Vec::new();
    for entry in entries.iter() {
        let entry = match entry {
            Ok(entry) => entry,
            Err(Errno::ENOENT) => break,
            Err(e) => return Err(e),
        };
        if entry.file_type() == Some(Type::Directory) && !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

pub(super) fn open_dir<P: nix::NixPath + ?Sized>(at: BorrowedFd<'_>, path: &P) -> nix::Result<OwnedFd> {
    openat(at, path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}

/// The names of the container's leaves.
pub fn list(hierarchies: &[Hierarchy]) -> Result<Vec<String>, Error> {
    let Some(judge) = super::judge(hierarchies) else { return Ok(Vec::new()) };
    let Some(dir) = Dir::open(judge.version, &judge.path)? else { return Ok(Vec::new()) };
    let names = below(dir.fd.as_fd()).step(|| format!("list the cgroup {}", judge.path.display()))?;
    Ok(names.into_iter().filter_map(|name| name.into_string().ok()).collect())
}

/// Removes the container's directories in every hierarchy; `busy` if a live process is in one. Ones that are gone
/// already are no error.
pub fn remove_all(hierarchies: &[Hierarchy]) -> Result<(), Error> {
    if let Some(judge) = super::judge(hierarchies) {
        // Nearly always the only leaf that is left: spares the listing of a directory of 40 files.
        let _ = unlinkat(AT_FDCWD, &judge.path.join(super::INIT), UnlinkatFlags::RemoveDir);
    }
    for hierarchy in hierarchies.iter().rev() {
        if !remove(hierarchy.version, &hierarchy.path)? {
            let step = format!("remove the cgroup {}", hierarchy.path.display());
            return Err(Error::new(Code::Busy, step, "there are processes in it"));
        }
    }
    Ok(())
}
