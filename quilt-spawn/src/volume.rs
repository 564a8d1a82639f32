//! `--volume`: a directory or file of the host, shown inside.
//!
//! The source is resolved once, in the host's mount namespace, before the container's is there: what is mounted later is
//! what was looked at here, whatever its path leads to by then.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstat};

use quilt_record::error::Step as _;
use quilt_record::{Code, Error, sys};

use crate::extra;
use crate::own::Own;

/// One, as it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What: an absolute path on the host.
    pub source: PathBuf,
    /// Where: an absolute path inside.
    pub target: PathBuf,
    /// Whether it is protected, with all that is mounted below it.
    pub read_only: bool,
}

impl Volume {
    /// Reads `SRC:DST`, `SRC:DST:ro` or `SRC:DST:rw`.
    pub fn parse(text: &str) -> Result<Volume, String> {
        let quoted = text.escape_debug();
        let (source, target, read_only) = match text.split(':').collect::<Vec<_>>()[..] {
            [source, target] | [source, target, "rw"] => (source, target, false),
            [source, target, "ro"] => (source, target, true),
            [_, _, option] => {
                return Err(format!("`{}` is not an option of a volume: write ro or rw", option.escape_debug()));
            }
            _ => {
                return Err(format!("`{quoted}` is not SRC:DST or SRC:DST:ro (paths with a colon cannot be given)"));
            }
        };
        if !source.starts_with('/') || source.contains('\0') {
            return Err(format!("`{}` is not an absolute path of the host", source.escape_debug()));
        }
        Ok(Volume { source: source.into(), target: extra::target(target)?, read_only })
    }
}

impl fmt::Display for Volume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = if self.read_only { "(ro,nosuid,nodev)" } else { "(nosuid,nodev)" };
        write!(f, "bind {} on {} {options}", self.source.display(), self.target.display())
    }
}

/// A relative source as seen from `dir`: only where the request is made, as a record means the same wherever it is read.
pub fn absolute(text: &str, dir: &Path) -> String {
    match text.split_once(':') {
        Some((source, rest)) if !source.is_empty() && !source.starts_with('/') => {
            let plain = source.strip_prefix("./").unwrap_or(source);
            format!("{}:{rest}", dir.join(if plain == "." { "" } else { plain }).display())
        }
        _ => text.to_owned(),
    }
}

/// What is behind a source.
#[derive(Debug)]
pub struct Source {
    path: OwnedFd,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// A copy of a source's mounts, not yet anywhere.
#[derive(Debug)]
pub struct Tree {
    /// The volume that it is for.
    pub volume: Volume,
    /// The detached mount.
    pub mount: OwnedFd,
    /// Whether it is a directory.
    pub is_dir: bool,
    /// Whether its flags are set; before Linux 5.12 that can be done only once it is mounted.
    pub restricted: bool,
}

/// Looks at a source. What belongs to Quilt itself is refused: a container that can write there can do all that Quilt can.
pub fn find(volume: &Volume, own: &mut Own) -> Result<Source, Error> {
    let step = || format!("use {} as a volume", volume.source.display());
    let path = openat(AT_FDCWD, &volume.source, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty());
    let path = path.map_err(|e| match e {
        Errno::ENOENT => Error::new(Code::NotFound, step(), "there is no such file or directory: make it first"),
        e => Error::os(step(), e),
    })?;
    let found = fstat(&path).step(step)?;
    if let Some(why) = own.shown_by(path.as_fd()).map_err(|e| Error { step: step(), ..e })? {
        return Err(Error::new(Code::Invalid, step(), why));
    }
    Ok(Source { path, is_dir: found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() })
}

/// Copies a source's mounts, those below it too, so that nothing which is mounted there from now on shows in the copy.
pub fn clone(volume: &Volume, source: &Source) -> Result<Tree, Error> {
    let step = || format!("use {} as a volume", volume.source.display());
    let mount = sys::clone_tree(source.path.as_fd()).step(step)?;
    let restricted = match sys::restrict_tree(mount.as_fd(), attributes(volume)) {
        Err(e) if e.raw_os_error() == Some(libc::ENOSYS) => false,
        other => other.step(step).map(|()| true)?,
    };
    Ok(Tree { volume: volume.clone(), mount, is_dir: source.is_dir, restricted })
}

fn attributes(volume: &Volume) -> u64 {
    let read_only = if volume.read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    read_only | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV
}

impl Tree {
    /// The mount.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.mount.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_two_paths_and_perhaps_an_option() {
        let line = |text: &str| Volume::parse(text).map(|volume| volume.to_string());
        assert_eq!(line("/a:/b"), Ok("bind /a on /b (nosuid,nodev)".to_owned()));
        assert_eq!(line("/a b:/b:rw"), Ok("bind /a b on /b (nosuid,nodev)".to_owned()));
        assert_eq!(line("/a:/b/:ro"), Ok("bind /a on /b (ro,nosuid,nodev)".to_owned()));
        for bad in [
            "",
            "/a",
            ":",
            "/a:",
            ":/b",
            "a:/b",
            "/a:b",
            "/a:/b:",
            "/a:/b:z",
            "/a:/b:ro,z",
            "/a:/b:ro:rw",
            "/a\0:/b",
            "/a:/b\0",
        ] {
            assert!(Volume::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(line("/a:/b:Z"), Err("`Z` is not an option of a volume: write ro or rw".to_owned()));
    }

    #[test]
    fn a_relative_source_is_the_callers() {
        for (asked, meant) in [
            ("a:/b", "/here/a:/b"),
            ("./a/c:/b:ro", "/here/a/c:/b:ro"),
            (".:/b", "/here/:/b"),
            ("../a:/b", "/here/../a:/b"),
            ("/a:/b", "/a:/b"),
            (":/b", ":/b"),
            ("a", "a"),
        ] {
            assert_eq!(absolute(asked, Path::new("/here")), meant);
        }
    }
}
