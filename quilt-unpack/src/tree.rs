//! Removing a tree that somebody hostile filled, or is still at work in.
//!
//! Every step is relative to an open directory and never follows a symlink nor enters another mount. The stack is
//! explicit and short: what lies deeper than 64 levels is moved up to the top of the tree first, so that neither
//! descriptors nor memory grow with the depth.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, Whence, lseek, unlinkat};
use quilt_record::defence::out;
use quilt_record::error::{Code, Error};
use quilt_record::sys;

/// Directories open at once.
const DEPTH: usize = 64;

/// How often a directory that fills while it is emptied is emptied again.
const RETRIES: u32 = 1000;

/// A directory being emptied.
struct Frame {
    dir: OwnedFd,
    /// Its name in the directory of the frame below.
    name: CString,
    /// Directories found in it and not yet removed.
    below: Vec<CString>,
    /// Found empty by reading, but not by rmdir(2).
    retries: u32,
}

/// Removes `name` in `parent`, with all that is below it if it is a directory. Nothing there is no error.
///
/// `name` is one component. A mount below it is left alone, and fails the whole (EXDEV or EBUSY).
pub fn remove(parent: BorrowedFd<'_>, name: &str) -> Result<(), Error> {
    if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
        return Err(Error::new(Code::Internal, "remove a tree", format!("`{name}` is not a name in a directory")));
    }
    let name = CString::new(name).map_err(|_| Error::new(Code::Internal, "remove a tree", "a NUL in the name"))?;
    remove_at(parent, &name)
}

/// [`remove`], for a name that comes from the kernel or has been checked.
pub(crate) fn remove_at(parent: BorrowedFd<'_>, name: &CStr) -> Result<(), Error> {
    let mut stack: Vec<Frame> = Vec::with_capacity(4);
    let mut moved = 0u32;
    let outcome = empty(parent, name, &mut stack, &mut moved);
    outcome.map_err(|e| {
        let path = stack.iter().map(|f| f.name.to_string_lossy()).collect::<Vec<_>>().join("/");
        let path = if path.is_empty() { name.to_string_lossy().into_owned() } else { path };
        Error::os(format!("remove {path}"), e)
    })
}

fn empty(parent: BorrowedFd<'_>, name: &CStr, stack: &mut Vec<Frame>, moved: &mut u32) -> nix::Result<()> {
    let mut buffer = vec![0u8; 32 << 10];
    // The top is opened without trying rmdir first: it is seldom empty.
    let Some(dir) = open_below(parent, name)? else { return Ok(()) };
    push(stack, dir, name.to_owned(), &mut buffer)?;
    while let depth @ 1.. = stack.len() {
        let top = &mut stack[depth - 1];
        if let Some(child) = top.below.pop() {
            match unlinkat(&top.dir, child.as_c_str(), UnlinkatFlags::RemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => {}
                Err(Errno::ENOTDIR) => unlink(top.dir.as_fd(), &child)?,
                Err(Errno::ENOTEMPTY | Errno::EEXIST) if depth >= DEPTH => lift(stack, &child, moved)?,
                Err(Errno::ENOTEMPTY | Errno::EEXIST) => {
                    if let Some(dir) = open_below(top.dir.as_fd(), &child)? {
                        push(stack, dir, child, &mut buffer)?;
                    }
                }
                Err(e) => return Err(e),
            }
            continue;
        }
        // All that was read of it is gone. Rather than read on to see the end, let rmdir say whether that was all.
        let above = if depth > 1 { stack[depth - 2].dir.as_fd() } else { parent };
        let top = &stack[depth - 1];
        match unlinkat(above, top.name.as_c_str(), UnlinkatFlags::RemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => drop(stack.pop()),
            Err(Errno::ENOTEMPTY | Errno::EEXIST) => read_on(&mut stack[depth - 1], &mut buffer)?,
            // Somebody put something else in its place; it is elsewhere in the tree, and will be found.
            Err(Errno::ENOTDIR) => {
                unlink(above, &top.name)?;
                stack.pop();
            }
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// Opens a directory to empty it. `None` if nothing is there, or if it was no directory, which is gone now.
fn open_below(dir: BorrowedFd<'_>, name: &CStr) -> nix::Result<Option<OwnedFd>> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS | ResolveFlag::RESOLVE_NO_XDEV);
    loop {
        let opened = match out("no-follow") {
            true => openat(dir, name, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()),
            false => openat2(dir, name, how),
        };
        match opened {
            Ok(fd) => return Ok(Some(fd)),
            Err(Errno::ENOENT) => return Ok(None),
            // Not a directory, or a symlink. Should it become one meanwhile, unlink says so.
            Err(Errno::ENOTDIR | Errno::ELOOP) => match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
                Ok(()) | Err(Errno::ENOENT) => return Ok(None),
                Err(Errno::EISDIR) => {}
                Err(e) => return Err(e),
            },
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
}

fn push(stack: &mut Vec<Frame>, dir: OwnedFd, name: CString, buffer: &mut [u8]) -> nix::Result<()> {
    stack.push(Frame { dir, name, below: Vec::new(), retries: 0 });
    let top = stack.len() - 1;
    clear(&mut stack[top], buffer).map(drop)
}

/// Goes on with a directory that is not empty after all: more entries, or new ones since the start.
fn read_on(frame: &mut Frame, buffer: &mut [u8]) -> nix::Result<()> {
    if clear(frame, buffer)? {
        return Ok(());
    }
    frame.retries += 1;
    if frame.retries > RETRIES {
        return Err(Errno::ENOTEMPTY);
    }
    lseek(&frame.dir, 0, Whence::SeekSet).map(drop)
}

/// Reads one batch of entries: unlinks what is no directory, notes what is. False at the end of the directory.
fn clear(frame: &mut Frame, buffer: &mut [u8]) -> nix::Result<bool> {
    let length = match sys::getdents(frame.dir.as_fd(), buffer) {
        Ok(length) => length,
        // Somebody removed the directory while it was open.
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => 0,
        Err(e) => return Err(Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))),
    };
    let mut rest = &buffer[..length];
    while let Some((kind, name, next)) = entry(rest) {
        rest = next;
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if kind == libc::DT_DIR {
            frame.below.push(name.to_owned());
            continue;
        }
        match unlinkat(&frame.dir, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(Errno::EISDIR) => frame.below.push(name.to_owned()),
            Err(e) => return Err(e),
        }
    }
    Ok(length > 0)
}

/// The first `struct linux_dirent64` (getdents64(2)): its type and name, and what follows it.
fn entry(bytes: &[u8]) -> Option<(u8, &CStr, &[u8])> {
    const RECLEN: usize = 16;
    const TYPE: usize = 18;
    const NAME: usize = 19;
    let length = u16::from_ne_bytes(bytes.get(RECLEN..TYPE)?.try_into().ok()?).into();
    let name = CStr::from_bytes_until_nul(bytes.get(NAME..length)?).ok()?;
    Some((bytes[TYPE], name, &bytes[length..]))
}

fn unlink(dir: BorrowedFd<'_>, name: &CStr) -> nix::Result<()> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        // A directory that somebody put in its place is found again: the rmdir of the one above says that it is not empty.
        Ok(()) | Err(Errno::ENOENT | Errno::EISDIR) => Ok(()),
        Err(e) => Err(e),
    }
}

/// Moves a directory that lies too deep to the top of the tree, to be emptied there.
fn lift(stack: &mut [Frame], child: &CStr, moved: &mut u32) -> nix::Result<()> {
    let (Some(top), Some(deep)) = (stack.first(), stack.last()) else { return Ok(()) };
    let name = loop {
        *moved += 1;
        let name = CString::new(format!(".deep-{moved}")).map_err(|_| Errno::EINVAL)?;
        match sys::rename_noreplace(&deep.dir, child, &top.dir, name.as_c_str()) {
            Ok(()) => break name,
            Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EEXIST) => {}
            Err(e) => return Err(e),
        }
    };
    stack[0].below.push(name);
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::{Path, PathBuf};

    use nix::sys::stat::mkdirat;

    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("quilt-tree-{name}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        dir
    }

    fn open(dir: &Path) -> OwnedFd {
        fs::File::open(dir).unwrap().into()
    }

    #[test]
    fn a_tree_goes_and_what_its_symlinks_mean_stays() {
        let dir = scratch("links");
        fs::create_dir_all(dir.join("canary")).unwrap();
        fs::write(dir.join("canary/file"), "x").unwrap();
        fs::create_dir_all(dir.join("upper/a/b")).unwrap();
        fs::create_dir_all(dir.join("upper/locked/in")).unwrap();
        symlink(dir.join("canary"), dir.join("upper/out")).unwrap();
        symlink("../../canary", dir.join("upper/a/out")).unwrap();
        fs::hard_link(dir.join("canary/file"), dir.join("upper/a/b/file")).unwrap();
        for i in 0..3000 {
            fs::write(dir.join(format!("upper/a/file-with-a-name-of-some-length-{i}")), "").unwrap();
        }
        fs::set_permissions(dir.join("upper/locked"), fs::Permissions::from_mode(0o0)).unwrap();
        if !nix::unistd::geteuid().is_root() {
            fs::set_permissions(dir.join("upper/locked"), fs::Permissions::from_mode(0o700)).unwrap();
        }
        remove(open(&dir).as_fd(), "upper").unwrap();
        assert!(!dir.join("upper").exists());
        assert_eq!(fs::read_to_string(dir.join("canary/file")).unwrap(), "x");
        symlink("canary", dir.join("upper")).unwrap();
        remove(open(&dir).as_fd(), "upper").unwrap();
        remove(open(&dir).as_fd(), "upper").unwrap();
        assert_eq!(fs::read_to_string(dir.join("canary/file")).unwrap(), "x");
        for bad in ["", ".", "..", "canary/file", "/"] {
            assert!(remove(open(&dir).as_fd(), bad).is_err(), "{bad}");
        }
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn ten_thousand_levels() {
        let dir = scratch("deep");
        let top = open(&dir);
        mkdirat(&top, "upper", Mode::S_IRWXU).unwrap();
        let mut at = openat2(&top, "upper", OpenHow::new().flags(OFlag::O_DIRECTORY)).unwrap();
        for _ in 0..10_000 {
            mkdirat(&at, "d", Mode::S_IRWXU).unwrap();
            at = openat2(&at, "d", OpenHow::new().flags(OFlag::O_DIRECTORY)).unwrap();
        }
        drop(at);
        remove(top.as_fd(), "upper").unwrap();
        fs::remove_dir(dir).unwrap();
    }
}
