//! Where volumes and file systems in memory are mounted: paths of the image, which is not trusted.
//!
//! A path is resolved inside the root, links and all; what it leads to is opened once, and must not be in a file system of
//! the kernel's, as it would cover a mask or take its place (CVE-2019-19921). What is mounted goes onto the descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlink, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use quilt_record::defence::out;
use quilt_record::{Code, Error, sys};

use super::{Made, have, os, path_of};
use crate::extra::is_own;
use crate::files;

fn invalid(message: String) -> Error {
    Error::new(Code::Invalid, "", message)
}

/// Opens what is there at a path, following the links of the image as they are meant inside.
pub(super) fn open(root: BorrowedFd<'_>, path: &Path) -> nix::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    if out("volume-target") {
        return openat(root, path.strip_prefix("/").unwrap_or(path), flags, Mode::empty());
    }
    let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS;
    openat2(root, path, OpenHow::new().flags(flags).resolve(resolve))
}

/// Opens what is there, or makes it if nothing is: a directory, or an empty file.
pub(super) fn find(made: &Made, path: &Path, is_dir: bool) -> Result<OwnedFd, Error> {
    let root = have(&made.root)?;
    // As the host's kernel says it; nothing was moved into the root from outside.
    let top = PathBuf::from(readlink(&path_of(root)).map_err(os)?);
    let allow = |fd: BorrowedFd<'_>, below: &Path| {
        let real = PathBuf::from(readlink(&path_of(fd)).map_err(os)?);
        match real.strip_prefix(&top) {
            Ok(inside) if !is_own(&inside.join(below)) || out("volume-target") => Ok(()),
            Ok(inside) => {
                let place = Path::new("/").join(inside);
                let what = if real == top { "the root".to_owned() } else { place.display().to_string() };
                Err(invalid(format!("{} of the image leads to {what}, which is the container's own", path.display())))
            }
            Err(_) if out("volume-target") => Ok(()),
            Err(_) => Err(Error::new(Code::Internal, "", format!("{} is not inside the root", path.display()))),
        }
    };
    let found = match open(root, path) {
        Err(Errno::ENOENT) => {
            make(root, path, is_dir, &allow)?;
            open(root, path)
        }
        other => other,
    };
    let found = found.map_err(|e| match e {
        Errno::ELOOP => invalid(format!("{} of the image is a loop of links, or a link of /proc", path.display())),
        Errno::ENOTDIR => invalid(format!("{} of the image is below something that is no directory", path.display())),
        e => os(e),
    })?;
    allow(found.as_fd(), Path::new(""))?;
    let kind = fstat(&found).map_err(os)?.st_mode & SFlag::S_IFMT.bits();
    match kind == SFlag::S_IFDIR.bits() {
        there if there == is_dir => Ok(found),
        true => Err(invalid(format!("{} of the image is a directory, and what is to be there is not", path.display()))),
        false => {
            Err(invalid(format!("{} of the image is not a directory, and what is to be there is one", path.display())))
        }
    }
}

type Allow<'a> = dyn Fn(BorrowedFd<'_>, &Path) -> Result<(), Error> + 'a;

fn make(root: BorrowedFd<'_>, path: &Path, is_dir: bool, allow: &Allow<'_>) -> Result<(), Error> {
    if out("volume-target") {
        // As `mkdir -p` does, once the links are followed on the host.
        let path = path.strip_prefix("/").unwrap_or(path);
        let leads_to = readlinkat(root, path).map_or(path.to_owned(), PathBuf::from);
        return mkdirat(root, &leads_to, files::DIR_MODE).map_err(os);
    }
    if is_dir {
        return files::directory_if(root, path, allow).map(drop);
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(super::missing()) };
    let parent = files::directory_if(root, parent, allow)?;
    allow(parent.as_fd(), Path::new(name))?;
    files::create(parent.as_fd(), name).map(drop).map_err(|e| match e {
        Errno::EEXIST => invalid(format!("{} of the image is a link that leads nowhere", path.display())),
        e => os(e),
    })
}

/// Notes what is mounted at a path now, which must be the mount that `is_it` takes it for.
pub(super) fn note(
    made: &mut Made,
    path: &Path,
    is_it: impl FnOnce(BorrowedFd<'_>, u64) -> Result<bool, Error>,
) -> Result<(), Error> {
    let there = open(have(&made.root)?, path).map_err(os)?;
    let mount = sys::mount_id(there.as_fd()).map_err(os)?;
    if !is_it(there.as_fd(), mount)? {
        return Err(elsewhere(path));
    }
    made.extras.push((path.to_owned(), mount));
    Ok(())
}

/// Looks again, when all is mounted, whether each is where it was asked for, and not below a later one.
pub(super) fn check(made: &Made) -> Result<(), Error> {
    for (path, mount) in &made.extras {
        let there = open(have(&made.root)?, path).map_err(os)?;
        if sys::mount_id(there.as_fd()).map_err(os)? != *mount {
            return Err(elsewhere(path));
        }
    }
    Ok(())
}

fn elsewhere(path: &Path) -> Error {
    invalid(format!(
        "what was mounted at {} is not what is there now: two paths lead to the same place",
        path.display()
    ))
}
