//! Files written into the container's root, which is not trusted: descriptor-relative, and never through what is there.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat, mkdirat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, unlinkat};

use quilt_record::defence::out;
use quilt_record::{Code, Error};

const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Modes of what is made where the image has nothing. The umask must be 0.
pub const DIR_MODE: Mode = Mode::from_bits_truncate(0o755);
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// `/etc` in the writable layer, made there as it is in the image; `None` if it is no plain directory in one of them, so
/// that only the mounted root knows what the name means. What is made belongs to `root` at first.
pub fn plain_etc(upper: BorrowedFd<'_>, lower: &[OwnedFd], root: (u32, u32)) -> nix::Result<Option<OwnedFd>> {
    match openat(upper, "etc", DIR | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(etc) => return Ok(Some(etc)),
        Err(Errno::ENOENT) => {}
        Err(Errno::ENOTDIR | Errno::ELOOP) => return Ok(None),
        Err(e) => return Err(e),
    }
    let mut model = None;
    for layer in lower {
        match fstatat(layer, "etc", AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) if found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() => {
                model = Some(found);
                break;
            }
            Ok(_) => return Ok(None),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    mkdirat(upper, "etc", DIR_MODE)?;
    if let Some(model) = model {
        if (model.st_uid, model.st_gid) != root {
            let (uid, gid) = (Uid::from_raw(model.st_uid), Gid::from_raw(model.st_gid));
            match fchownat(upper, "etc", Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW) {
                // The image's owner has no id in the container's user namespace.
                Err(Errno::EOVERFLOW | Errno::EINVAL) => {}
                done => done?,
            }
        }
        let mode = Mode::from_bits_truncate(model.st_mode & 0o7777);
        if mode != DIR_MODE {
            fchmodat(upper, "etc", mode, FchmodatFlags::FollowSymlink)?;
        }
    }
    openat(upper, "etc", DIR | OFlag::O_NOFOLLOW, Mode::empty()).map(Some)
}

/// Writes a file, over whatever is there but a directory: a link there is replaced, not followed.
pub fn write(dir: BorrowedFd<'_>, name: &OsStr, text: &str) -> std::io::Result<()> {
    let file = match create(dir, name) {
        Err(Errno::EEXIST) => {
            unlinkat(dir, name, UnlinkatFlags::NoRemoveDir)?;
            create(dir, name)?
        }
        other => other?,
    };
    File::from(file).write_all(text.as_bytes())
}

/// Makes an empty file where nothing is.
pub fn create(dir: BorrowedFd<'_>, name: &OsStr) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(dir, name, flags, FILE_MODE)
}

/// Opens a directory inside the root, following the links of the image as they are meant inside; makes what is missing.
pub fn directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Error> {
    directory_if(root, path, &|_, _| Ok(()))
}

/// The same, but makes nothing where `allow`, which is given the directory and what comes below it, refuses.
pub fn directory_if(
    root: BorrowedFd<'_>,
    path: &Path,
    allow: &dyn Fn(BorrowedFd<'_>, &Path) -> Result<(), Error>,
) -> Result<OwnedFd, Error> {
    let inside = |path: &Path| {
        if out("mount-target") {
            return openat(root, path.strip_prefix("/").unwrap_or(path), DIR, Mode::empty());
        }
        let how = OpenHow::new().flags(DIR).resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(root, path, how)
    };
    let bad = |at: &Path, e: Errno| {
        let what = match e {
            Errno::ENOTDIR => "is not a directory",
            Errno::EEXIST => "is a link that leads nowhere",
            Errno::ELOOP => "is a loop of links, or a link of /proc",
            e => return Error::os("", e),
        };
        Error::new(Code::Invalid, "", format!("{} of the image {what}", at.display()))
    };
    match inside(path) {
        Err(Errno::ENOENT) => {}
        other => return other.map_err(|e| bad(path, e)),
    }
    let mut parent = root.try_clone_to_owned().map_err(|e| Error::os("", e))?;
    let mut so_far = std::path::PathBuf::from("/");
    for name in path.components() {
        if let Component::ParentDir = name {
            return Err(Error::new(Code::Invalid, "", format!("{}: `..` and nothing to go up from", path.display())));
        }
        let Component::Normal(name) = name else { continue };
        so_far.push(name);
        parent = match inside(&so_far) {
            Err(Errno::ENOENT) => {
                allow(parent.as_fd(), Path::new(name))?;
                mkdirat(parent.as_fd(), name, DIR_MODE).map_err(|e| bad(&so_far, e))?;
                inside(&so_far).map_err(|e| bad(&so_far, e))?
            }
            other => other.map_err(|e| bad(&so_far, e))?,
        };
    }
    Ok(parent)
}
