//! The root: overlayfs on the image's layers and the container's own, and the files of the network in it.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::Mode;

use quilt_record::error::Step as _;
use quilt_record::{Code, Error, defence};

use super::{DIR, Job, Made, have, idmap, open_dir, os, path_of};
use crate::files;

/// Opens the layers, and /etc in the writable one, if there are files to write there.
pub(super) fn open(job: &Job<'_>, made: &mut Made, lower: &[PathBuf], upper: &Path) -> Result<(), Error> {
    match idmap::layers(made) {
        Some((lower, home)) => (made.lower, made.home) = (lower, Some(home)),
        None => made.lower = lower.iter().map(|path| open_dir(AT_FDCWD, path)).collect::<Result<_, Error>>()?,
    }
    let upper = writable(made, upper)?;
    if !job.files.is_empty() {
        let root = job.ids.as_ref().map_or((0, 0), |ids| (ids.map.uid, ids.map.gid));
        made.etc = files::plain_etc(upper.as_fd(), &made.lower, root).step(|| "make /etc in the writable layer")?;
    }
    made.upper = Some(upper);
    Ok(())
}

/// The writable layer, or what is beside it.
fn writable(made: &Made, path: &Path) -> Result<OwnedFd, Error> {
    match &made.home {
        Some(home) => open_dir(home.as_fd(), path.file_name().map_or(path, Path::new)),
        None => open_dir(AT_FDCWD, path),
    }
}

/// Mounts the root, and writes the files that could not be written before.
pub(super) fn overlay(
    job: &Job<'_>,
    made: &mut Made,
    paths: &[PathBuf],
    work: &Path,
    nodev: bool,
) -> Result<(), Error> {
    let work = writable(made, work)?;
    let mut lower: Vec<String> = made.lower.iter().map(|fd| path_of(fd.as_fd()).display().to_string()).collect();
    if defence::out("layer-paths") {
        lower = paths.iter().map(|path| path.display().to_string()).collect();
    }
    let upper = path_of(have(&made.upper)?);
    // A directory that was moved with all that is below it would take what is masked there out from under the mask of the
    // next start; without redirects it is copied, as far as it can be seen. That is the default of nearly every kernel.
    let options = format!(
        "redirect_dir=off,lowerdir={},upperdir={},workdir={}",
        lower.join(":"),
        upper.display(),
        path_of(work.as_fd()).display()
    );
    // Its own devices are in /dev; a device node of the image's is nothing but a way around that.
    let flags = if nodev { MsFlags::MS_NODEV } else { MsFlags::empty() };
    mount(Some("overlay"), job.stage, Some("overlay"), flags, Some(options.as_str())).map_err(os)?;
    let root = openat(AT_FDCWD, job.stage, DIR, Mode::empty()).map_err(os)?;
    if made.etc.is_none() && !job.files.is_empty() {
        let named = |e: Error| Error { step: "find /etc of the image".to_owned(), ..e };
        let etc = files::directory(root.as_fd(), Path::new("/etc")).map_err(named)?;
        for (path, text) in job.files {
            files::write(etc.as_fd(), name_in_etc(Path::new(path))?, text).step(|| format!("write {path}"))?;
        }
    }
    made.root = Some(root);
    Ok(())
}

/// Writes a network file into the writable layer; where only the mounted root knows what `/etc` means, it is left for then.
pub(super) fn file(job: &Job<'_>, made: &mut Made, at: &Path, inside: &Path) -> Result<(), Error> {
    let name = name_in_etc(inside)?;
    let text = job.files.iter().find(|(path, _)| Path::new(path) == inside).map_or("", |(_, text)| text.as_str());
    match &made.etc {
        Some(etc) => files::write(etc.as_fd(), name, text).step(|| format!("write {}", at.display())),
        None => Ok(()),
    }
}

fn name_in_etc(path: &Path) -> Result<&OsStr, Error> {
    let name = path.file_name().filter(|_| path.parent() == Some(Path::new("/etc")));
    name.ok_or_else(|| Error::new(Code::Invalid, "", format!("{} is not a file in /etc", path.display())))
}
