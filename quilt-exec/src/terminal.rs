//! Terminals: the one made inside for `-t`, and the caller's own, which is made raw for the time being.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat};
use nix::sys::statfs::{DEVPTS_SUPER_MAGIC, fstatfs};
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use nix::unistd::{Uid, fchown};
use quilt_record::defence::out;
use quilt_record::sys;

/// Inside: makes a pseudoterminal of the container's devpts, sends its master out, and returns the three standard
/// streams. No path of the container's is trusted: `/dev/pts` must be
/// a devpts, and the other end comes from the master (CVE-2025-52565).
pub(crate) fn inside(socket: BorrowedFd<'_>, uid: u32) -> io::Result<[OwnedFd; 3]> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_NO_SYMLINKS);
    let pts = openat2(AT_FDCWD, c"/dev/pts", how)?;
    if fstatfs(&pts)?.filesystem_type() != DEVPTS_SUPER_MAGIC {
        return Err(Errno::EXDEV.into());
    }
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let master = match out("pty") {
        true => openat(AT_FDCWD, c"/dev/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?,
        false => openat(&pts, c"ptmx", flags, Mode::empty())?,
    };
    if fstat(&master)?.st_rdev != libc::makedev(5, 2) {
        return Err(Errno::EXDEV.into());
    }
    let peer = sys::open_pty_peer(master.as_fd())?;
    fchown(&peer, Some(Uid::from_raw(uid)), None)?;
    sys::send_fd(socket, master.as_fd())?;
    Ok([peer.try_clone()?, peer.try_clone()?, peer])
}

/// The caller's terminal, raw until this is dropped.
pub(crate) struct Raw {
    terminal: OwnedFd,
    before: Termios,
}

impl Raw {
    /// Notes how the terminal is; `None` if `fd` is none.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> io::Result<Option<Raw>> {
        let Ok(before) = tcgetattr(fd) else { return Ok(None) };
        Ok(Some(Raw { terminal: fd.try_clone_to_owned()?, before }))
    }

    /// Makes it raw.
    pub(crate) fn start(&self) {
        let mut settings = self.before.clone();
        cfmakeraw(&mut settings);
        let _ = tcsetattr(self.fd(), SetArg::TCSADRAIN, &settings);
    }

    /// The terminal.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.terminal.as_fd()
    }

    /// How it was.
    pub(crate) fn before(&self) -> &Termios {
        &self.before
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore(self.fd(), &self.before);
    }
}

/// Puts a terminal back. A terminal that is gone needs no care.
pub(crate) fn restore(terminal: BorrowedFd<'_>, before: &Termios) {
    let _ = tcsetattr(terminal, SetArg::TCSADRAIN, before);
}

/// Gives the master the window size of the first of the caller's streams that is a terminal.
pub(crate) fn copy_size(master: BorrowedFd<'_>) {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let size = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()].into_iter().find_map(|fd| sys::window_size(fd).ok());
    if let Some(size) = size.filter(|s| s.ws_row > 0 || s.ws_col > 0) {
        let _ = sys::set_window_size(master, size);
    }
}
