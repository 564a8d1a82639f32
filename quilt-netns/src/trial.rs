//! Can the layers of an image be given to a user namespace here? That takes idmapped mounts of their file systems, and an
//! overlayfs that takes such layers (Linux 5.19). No version says so of every kernel, so it is tried: once per boot for
//! every kind of file system, with just what `quilt-spawn` will do. The answer is kept beside the leases, as the target
//! of a symlink.

use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::statfs::statfs;
use nix::sys::utsname::uname;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2};

use quilt_record::have::Unpack;
use quilt_record::idmap::{self, IdMap};
use quilt_record::{Code, Error, Failure, Instance, Step, mountinfo, sys};

use crate::{lease, userns};

/// The kept answer where it can be done; every other is the reason why not.
const YES: &str = "yes";

const DIR: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);
const NONE: Option<&str> = None;

/// Why containers with such layers can have no user namespace; `None` if they can. The layers are those of a container
/// that does not run. `dry`: nothing is mounted and nothing kept, and layers that are not known are thought to be where
/// they will be.
pub(crate) fn refusal(
    instance: &Instance,
    layers: Option<&Unpack>,
    map: IdMap,
    dry: bool,
) -> Result<Option<String>, Error> {
    let Some(layers) = layers else { return guess(instance, map) };
    let path = lease::dir(instance).join(format!("idmap@{}", kinds(layers)?));
    let step = || format!("read {}", path.display());
    if let Some(answer) = lease::read(&path).step(step)? {
        return Ok(Some(answer).filter(|answer| answer != YES));
    }
    if dry {
        return guess(instance, map);
    }
    // Whether there may be such a user namespace at all is not about file systems, and may change: it is not kept.
    let user = match userns::make(map, false) {
        Ok(made) => made.user,
        Err(e) => return userns::refusal(&e, map).map(Some).ok_or(e),
    };
    let refusal = attempt(instance, layers, map, user.as_fd())?;
    let answer = refusal.as_deref().unwrap_or(YES);
    loop {
        match symlink(answer, &path) {
            Err(e) if e.kind() == ErrorKind::NotFound => lease::make_dir(instance)?,
            Err(e) if e.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::os(format!("make {}", path.display()), e));
            }
            _ => return Ok(refusal),
        }
    }
}

/// The file systems of the layers, by what the kernel calls them until the next boot.
fn kinds(layers: &Unpack) -> Result<String, Error> {
    let kind = |path: &PathBuf| {
        let step = || format!("look at {}", path.display());
        let (fs, device) = (statfs(path).step(step)?, fs::metadata(path).step(step)?.dev());
        Ok(format!("{:x}.{device:x}", fs.filesystem_type().0))
    };
    let mut kinds = layers.lower.iter().chain([&layers.upper]).map(kind).collect::<Result<Vec<_>, Error>>()?;
    kinds.dedup();
    Ok(kinds.join("+"))
}

/// What the child says that has tried: one byte, then text.
const CAN: u8 = b'y';
const CANNOT: u8 = b'n';

fn attempt(instance: &Instance, layers: &Unpack, map: IdMap, user: BorrowedFd<'_>) -> Result<Option<String>, Error> {
    let step = || "try to mount the image for a user namespace";
    let (told, tell) = pipe2(OFlag::O_CLOEXEC).step(step)?;
    let child = sys::fork(libc::CLONE_NEWNS as u64, None, || {
        let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        let (word, text) = match mount_all(instance, layers, map, user) {
            Ok(None) => (CAN, String::new()),
            Ok(Some(why)) => (CANNOT, why),
            Err(e) => (b'e', serde_json::to_string(&e.failure("")).unwrap_or_default()),
        };
        u8::from(nix::unistd::write(&tell, &[&[word], text.as_bytes()].concat()).is_err())
    });
    let child = child.step(step)?;
    drop(tell);
    let mut said = Vec::new();
    let read = File::from(told).read_to_end(&mut said);
    let _ = waitpid(Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
    read.step(step)?;
    let text = || String::from_utf8_lossy(said.get(1..).unwrap_or_default()).into_owned();
    match said.first() {
        Some(&CAN) => Ok(None),
        Some(&CANNOT) => Ok(Some(text())),
        _ => match serde_json::from_str::<Failure>(&text()) {
            Ok(f) => Err(Error { code: f.code, step: f.step, errno: f.errno, message: f.message }),
            Err(_) => Err(Error::new(Code::Internal, step(), "the process that tried it was killed")),
        },
    }
}

/// In a mount namespace of its own: mounts the layers, and nothing stays. Why not, if it cannot be done.
fn mount_all(
    instance: &Instance,
    layers: &Unpack,
    map: IdMap,
    userns: BorrowedFd<'_>,
) -> Result<Option<String>, Error> {
    let open = |dir: BorrowedFd<'_>, path: &Path| {
        openat(dir, path, DIR, Mode::empty()).step(|| format!("open {}", path.display()))
    };
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE).step(|| "make the mounts private")?;
    let place = open(AT_FDCWD, instance.run())?;
    let (home, [upper, work]) = idmap::home(&layers.upper, &layers.work)?;
    let mut shifted = Vec::with_capacity(layers.lower.len() + 1);
    for path in layers.lower.iter().map(PathBuf::as_path).chain([home]) {
        let step = || format!("idmap {}", path.display());
        let Some(mount) = idmap::shifted(open(AT_FDCWD, path)?.as_fd(), userns).step(step)? else {
            return Ok(Some(unable(path)));
        };
        sys::attach_mount(mount.as_fd(), place.as_fd()).step(step)?;
        shifted.push(mount);
    }
    let Some(home) = shifted.pop() else { return Ok(None) };
    let (upper, work) = (open(home.as_fd(), upper)?, open(home.as_fd(), work)?);
    idmap::assume_root(map).step(|| "become the container's root to its files")?;
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let lower: Vec<String> = shifted.iter().map(name).collect();
    let options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), name(&upper), name(&work));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    match mount(Some("overlay"), instance.run(), Some("overlay"), flags, Some(options.as_str())) {
        Ok(()) => Ok(None),
        Err(e @ (nix::Error::EINVAL | nix::Error::EPERM | nix::Error::EOPNOTSUPP | nix::Error::ENOSYS)) => {
            let file_systems =
                [file_system(&layers.upper)].into_iter().chain(layers.lower.iter().map(|l| file_system(l)));
            let mut names: Vec<String> = file_systems.collect();
            names.dedup();
            Ok(Some(format!(
                "this kernel's overlayfs takes no idmapped layers of {} ({})",
                names.join(" and "),
                e.desc()
            )))
        }
        Err(e) => Err(Error::os("mount an overlay of idmapped layers", e)),
    }
}

/// What is kept is true of every image on such a file system, so it names no path.
fn unable(path: &Path) -> String {
    format!("the image or its writable layer is on {}, which this kernel cannot idmap", file_system(path))
}

/// The type of the file system that a path is on, by its name.
fn file_system(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let table = mountinfo::read("self").unwrap_or_default();
    // The deepest mount point, and of several there the last.
    let above = mountinfo::mounts(&table).filter(|mount| path.starts_with(&mount.point));
    let deepest = above.max_by_key(|mount| mount.point.components().count());
    deepest.map_or_else(|| "an unknown file system".to_owned(), |mount| mount.fstype.into_owned())
}

/// The first kernel whose overlayfs takes idmapped layers.
const OVERLAY: (u32, u32) = (5, 19);

/// What a trial would say, as far as that can be known without mounting anything.
fn guess(instance: &Instance, map: IdMap) -> Result<Option<String>, Error> {
    let release = uname().step(|| "ask for the kernel's version")?.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|n| n.parse().unwrap_or(0));
    if (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < OVERLAY {
        return Ok(Some("this kernel's overlayfs takes no idmapped layers (Linux 5.19)".to_owned()));
    }
    let user = match userns::make(map, false) {
        Ok(made) => made.user,
        Err(e) => return userns::refusal(&e, map).map(Some).ok_or(e),
    };
    let Some(dir) = instance.state().ancestors().find(|dir| dir.is_dir()) else { return Ok(None) };
    let step = || format!("idmap {}", dir.display());
    let opened = openat(AT_FDCWD, dir, DIR, Mode::empty()).step(step)?;
    let can = idmap::shifted(opened.as_fd(), user.as_fd()).step(step)?.is_some();
    Ok((!can).then(|| unable(dir)))
}
