//! Programs of Quilt that run inside a container run from a read-only mount, so that a container cannot overwrite them
//! through `/proc/PID/exe` (CVE-2019-5736): an open for writing through the link is refused with EROFS.
//!
//! The usual way costs nothing: one read-only bind of the tools' directory per instance, at `<run>/bin`, that
//! everything is started from. A tool that was started from elsewhere, or that belongs to another build than the one
//! bound there, goes through a detached read-only copy of its own mount (0.6 ms), or before Linux 5.12 through a
//! sealed copy in memory (1.2 ms). It never runs inside without one of the three.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, stat};
use nix::sys::statvfs::{FsFlags, fstatvfs, statvfs};
use nix::unistd::geteuid;

use crate::defence::out;
use crate::error::{Error, Step};
use crate::instance::Instance;
use crate::stage::bin_dir;
use crate::{lock, sys};

/// Where the read-only bind of the tools is.
pub fn bound(instance: &Instance) -> PathBuf {
    instance.run().join("bin")
}

/// The bind that is to be made: from where to where. `None` if it is there, or the tools are started from there.
pub fn missing(instance: &Instance) -> Option<(PathBuf, PathBuf)> {
    let (tools, target) = (bin_dir(), bound(instance));
    (tools != target && !is_bound(&target)).then_some((tools, target))
}

/// Makes the read-only bind of the tools' directory, once per instance and boot: private, read-only, nosuid. Leaves
/// alone one that is there, even of another build; only one whose directory has been deleted gives way. The instance
/// must be prepared.
pub fn ensure_bin(instance: &Instance) -> Result<(), Error> {
    let Some((tools, target)) = missing(instance) else { return Ok(()) };
    let step = || format!("bind {} read-only to {}", tools.display(), target.display());
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = open(&instance.run().join("bin.lock"), flags, Mode::S_IRUSR | Mode::S_IWUSR).step(step)?;
    lock::acquire(file.as_fd(), Duration::from_secs(10), "the tools' bind")?;
    if is_bound(&target) {
        return Ok(());
    }
    match nix::unistd::mkdir(&target, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(e) => return Err(Error::os(step(), e)),
    }
    match read_only_clone(&tools) {
        Ok(clone) => {
            // Complete before anyone sees it.
            let place = open(&target, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
            sys::attach_mount(clone.as_fd(), place.step(step)?.as_fd()).step(step)?;
        }
        Err(e) if too_old(&e) => {
            let none = None::<&str>;
            mount(Some(&tools), &target, none, MsFlags::MS_BIND, none).step(step)?;
            let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
            mount(none, &target, none, read_only, none).step(step)?;
        }
        Err(e) => return Err(Error::os(step(), e)),
    }
    // Under a shared mount it has become shared as well.
    mount(None::<&str>, &target, None::<&str>, MsFlags::MS_PRIVATE, None::<&str>).step(step)
}

/// A tool on a read-only mount, for execveat (`sys::exec_fd`): an O_PATH descriptor. Must be called in the host's
/// mount namespace. Makes the bind if there is none yet.
pub fn tool(instance: &Instance, name: &str) -> Result<OwnedFd, Error> {
    let path = bin_dir().join(name);
    let step = || format!("open {}", path.display());
    let meant = open_path(&path).step(step)?;
    if on_read_only(meant.as_fd()) || out("readonly-tools") {
        return Ok(meant);
    }
    ensure_bin(instance)?;
    if let Ok(fd) = open_path(&bound(instance).join(name))
        && same(&fstat(&fd).step(step)?, &fstat(&meant).step(step)?)
        && on_read_only(fd.as_fd())
    {
        return Ok(fd);
    }
    match read_only_clone(&path) {
        Err(e) if too_old(&e) => sealed_copy(&path, name).step(step),
        other => other.step(step),
    }
}

/// A tool as nobody but the host's root can read it: a sealed copy in memory, for execveat. What runs from a file that it
/// may not read is nothing that a user namespace of its own has rights over, CAP_SYS_PTRACE or not (`would_dump` in the
/// kernel's fs/exec.c).
pub fn unreadable(name: &str) -> Result<OwnedFd, Error> {
    let path = bin_dir().join(name);
    let step = || format!("copy {}", path.display());
    let copy = sealed_copy(&path, name).map_err(|e| match e.raw_os_error() {
        // Whoever calls is root, who may read it.
        Some(libc::EACCES) => {
            let why = "no program may run from memory here (vm.memfd_noexec=2)";
            Error { message: why.to_owned(), ..Error::os(step(), e) }
        }
        _ => Error::os(step(), e),
    })?;
    fchmod(&copy, Mode::from_bits_truncate(0o711)).step(step)?;
    Ok(copy)
}

/// Makes sure that this very program runs from a read-only mount or a sealed copy, by starting it again from there if
/// it does not. First thing in a `main`; does nothing for anyone but root, who gets no further anyway.
pub fn reexec() -> Result<(), Error> {
    const EXE: &str = "/proc/self/exe";
    if out("readonly-tools") {
        return Ok(());
    }
    let step = || "start again from a read-only mount";
    if statvfs(EXE).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)) || !geteuid().is_root() || is_sealed(EXE) {
        return Ok(());
    }
    let exe = match read_only_clone(Path::new(EXE)) {
        Err(e) if too_old(&e) => sealed_copy(Path::new(EXE), "quilt"),
        other => other,
    };
    let exe = exe.step(step)?;
    let argv = std::env::args_os().map(|a| joined(&[&a])).collect::<io::Result<Vec<_>>>().step(step)?;
    // From a detached mount, /proc/self/exe no longer says where the other tools are.
    let mut env = vec![joined(&["QUILT_BIN=".as_ref(), bin_dir().as_os_str()]).step(step)?];
    for (name, value) in std::env::vars_os().filter(|(name, _)| name != "QUILT_BIN") {
        env.push(joined(&[&name, "=".as_ref(), &value]).step(step)?);
    }
    sys::exec_fd(exe.as_fd(), &argv, &env).step(step).map(|never| match never {})
}

fn joined(parts: &[&OsStr]) -> io::Result<CString> {
    Ok(CString::new(parts.iter().flat_map(|s| s.as_bytes()).copied().collect::<Vec<u8>>())?)
}

/// Whether a tools' directory is bound there. One that has been deleted since does not count and is detached.
fn is_bound(target: &Path) -> bool {
    if !statvfs(target).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY)) {
        return false;
    }
    let deleted = stat(target).is_ok_and(|dir| dir.st_nlink == 0);
    if deleted {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
    !deleted
}

fn open_path(path: &Path) -> nix::Result<OwnedFd> {
    open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
}

fn on_read_only(fd: BorrowedFd<'_>) -> bool {
    fstatvfs(fd).is_ok_and(|fs| fs.flags().contains(FsFlags::ST_RDONLY))
}

fn same(a: &FileStat, b: &FileStat) -> bool {
    (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
}

fn read_only_clone(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let clone = sys::clone_mount(AT_FDCWD, &path)?;
    sys::restrict_mount(clone.as_fd(), libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID)?;
    Ok(clone)
}

/// Whether the kernel lacks open_tree (5.2) or mount_setattr (5.12).
fn too_old(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSYS)
}

const SEALS: SealFlag =
    SealFlag::F_SEAL_WRITE.union(SealFlag::F_SEAL_SHRINK).union(SealFlag::F_SEAL_GROW).union(SealFlag::F_SEAL_SEAL);

/// memfd_create(2), Linux 6.3.
const MFD_EXEC: libc::c_uint = 0x10;

fn sealed_copy(path: &Path, name: &str) -> io::Result<OwnedFd> {
    let mut from = File::open(path)?;
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    // It is to be run, which has to be said where the host has vm.memfd_noexec=1.
    let copy = match memfd_create(name, flags | MFdFlags::from_bits_retain(MFD_EXEC)) {
        Err(Errno::EINVAL) => memfd_create(name, flags)?,
        copy => copy?,
    };
    let mut to = File::from(copy);
    io::copy(&mut from, &mut to)?;
    fcntl(&to, FcntlArg::F_ADD_SEALS(SEALS))?;
    Ok(to.into())
}

fn is_sealed(path: &str) -> bool {
    File::open(path)
        .and_then(|file| Ok(fcntl(&file, FcntlArg::F_GET_SEALS)?))
        .is_ok_and(|seals| SealFlag::from_bits_truncate(seals).contains(SEALS))
}
