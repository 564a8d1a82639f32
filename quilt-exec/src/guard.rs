//! The guard: the program's parent, in a session of its own, outside. It reaps the program and tells how it ended; and it
//! outlives whatever kills the tool, and then ends all that the tool started.
//!
//! That it is the parent matters: a process that was put into a pid namespace from outside is nobody's there, and until
//! its parent has reaped it the namespace's init cannot end. The orphan of a tool that was killed would fall to the host's
//! init, which may take its time.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::termios::Termios;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{Pid, pipe2, read, write};
use quilt_record::leaf::Leaf;
use quilt_record::process::{reap, zombie_status};
use quilt_record::{Error, Step, sys};

use crate::terminal;

/// How long the guard tries to kill what the tool started.
const KILL: Duration = Duration::from_secs(10);

/// What follows the exit status of a program that cannot be reaped yet.
const TRACED: &[u8] = b"t";

/// The guard's life. Over `control` it sends the program's pidfd, its pid in four bytes, and in the end one byte, the
/// exit status; or, in place of all that, an error as JSON. When the program has ended, it removes the leaf, unless the
/// program left something running, and goes. When `control` ends before that, it kills all that is in the leaf.
///
/// A process inside that traces the program may keep it from being reaped for as long as it likes (ptrace(2)). The guard
/// says so by a further byte, and stays until that is over, which the end of the container's init waits for.
///
/// `program` tells what it gets the pid of the one that it forked in its place.
pub(crate) fn guard(
    leaf: &Leaf,
    control: OwnedFd,
    terminal: Option<(BorrowedFd<'_>, &Termios)>,
    program: impl FnOnce(OwnedFd) -> u8,
) -> u8 {
    let _ = sys::leave_session();
    // Only SIGKILL ends a guard. The program resets all of that.
    sys::block_all_signals();
    sys::default_signal(Signal::SIGCHLD);
    let mut control = UnixStream::from(control);
    let (child, maker) = match start(leaf, program) {
        Ok(made) => made,
        Err(error) => {
            let text = serde_json::to_vec(&error.failure("")).unwrap_or_default();
            let _ = control.write_all(&[&b"e"[..], &text].concat());
            return 1;
        }
    };
    let told = introduce(&control, &child);
    if let Some(maker) = maker {
        // It alone: the program may have ended by now.
        while sys::wait(maker.pid, 0) == Err(Errno::EINTR) {}
    }
    // The tool's streams and all else must not be held open. 0 to 2 are places only.
    let place = child.pidfd.as_fd();
    let terminal_fd = terminal.map_or(place, |(fd, _)| fd);
    let kept = sys::keep_only(&[place, place, place, control.as_fd(), child.pidfd.as_fd(), terminal_fd]);
    let Ok([control, pidfd, terminal_fd]) = kept.as_deref() else { return 1 };
    let kill = || {
        if let Some((_, before)) = terminal {
            terminal::restore(terminal_fd.as_fd(), before);
        }
        leaf.kill(KILL).is_ok()
    };
    // No return: owners of numbers that others have now would be dropped.
    sys::exit_now(attend(&child, control, pidfd, told, kill, || leaf.remove().is_ok()))
}

/// Tells the tool who the program is; false if it cannot be told.
pub(crate) fn introduce(control: &impl AsFd, child: &sys::Child) -> bool {
    let pid = child.pid.to_ne_bytes();
    sys::send_fd(control.as_fd(), child.pidfd.as_fd()).is_ok() && write(control, &pid) == Ok(pid.len())
}

/// The rest of a parent's life, once the program runs; `told`: the tool knows of it. `kill` ends all that the tool
/// started; `clear` removes what was made for it, when it has ended. Both say whether they could.
pub(crate) fn attend(
    child: &sys::Child,
    control: &OwnedFd,
    pidfd: &OwnedFd,
    told: bool,
    kill: impl FnOnce() -> bool,
    clear: impl FnOnce() -> bool,
) -> u8 {
    if told && let First::Program(reaped) = first(child.pid, control, pidfd) {
        let traced = if reaped.is_none() { zombie_status(child.pid) } else { None };
        let status = reaped.or(traced).unwrap_or_else(|| reaped_at_last(child.pid));
        let _ = write(control, &[status]);
        let cleared = clear();
        if traced.is_some() {
            let _ = write(control, TRACED);
            reaped_at_last(child.pid);
        }
        return u8::from(!cleared);
    }
    if kill() {
        reaped_at_last(child.pid);
        clear();
    }
    0
}

/// Forks the program. If it has forked another in its place, that one, and itself.
fn start(leaf: &Leaf, program: impl FnOnce(OwnedFd) -> u8) -> Result<(sys::Child, Option<sys::Child>), Error> {
    let step = || "start the command";
    let (told, born) = pipe2(OFlag::O_CLOEXEC).step(step)?;
    // This process's copy of `born` goes with the closure.
    let child = leaf.fork(0, move || program(born))?;
    let mut pid = [0u8; 4];
    match read(&told, &mut pid) {
        Ok(4) => {
            let pid = i32::from_ne_bytes(pid);
            // Whoever may trace inside can take the pipe, and name somebody else's process.
            let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
            if let Err(Errno::ECHILD) = waitid(Id::Pid(Pid::from_raw(pid)), look) {
                return Err(Error::os(step(), Errno::ECHILD));
            }
            // It is this process's child and not reaped yet, so the pid is its own.
            Ok((sys::Child { pid, pidfd: sys::pidfd_open(pid).step(step)? }, Some(child)))
        }
        // It will become the program, or has failed. Nothing inside could keep it from saying so.
        _ => Ok((child, None)),
    }
}

/// Whose end came first.
enum First {
    /// The program's; its exit status if it has been reaped.
    Program(Option<u8>),
    Tool,
}

/// Waits for the program's end or the tool's, and reaps who is not the program meanwhile: see [`reap`].
fn first(program: i32, control: &OwnedFd, pidfd: &OwnedFd) -> First {
    // Every signal is blocked. There is a descriptor left, of all that were closed.
    let Ok(ends) = sys::signalfd(&SigSet::from(Signal::SIGCHLD)) else { return First::Tool };
    let poll_in = |fd| PollFd::new(fd, PollFlags::POLLIN);
    let mut fds = [poll_in(pidfd.as_fd()), poll_in(control.as_fd()), poll_in(ends.as_fd())];
    loop {
        // Before the first poll: one may have ended before there was a descriptor for it.
        if let reaped @ Some(_) = try_reap(program) {
            return First::Program(reaped);
        }
        while poll(&mut fds, PollTimeout::NONE).is_err() {}
        let [ended, closed, _] = fds.each_ref().map(|fd| fd.any().unwrap_or(false));
        if ended {
            return First::Program(try_reap(program));
        }
        if closed {
            return First::Tool;
        }
        // One siginfo, whose size is 128 bytes: the signal is pending once at most.
        let _ = read(&ends, &mut [0u8; 128]);
    }
}

fn try_reap(program: i32) -> Option<u8> {
    reap(program, false).unwrap_or(Some(125))
}

fn reaped_at_last(program: i32) -> u8 {
    reap(program, true).ok().flatten().unwrap_or(125)
}

/// What the guard says first: the program, or why there is none.
pub(crate) fn introduced(control: &UnixStream) -> Result<sys::Child, Error> {
    let step = || "start the command";
    let os = |e: io::Error| Error::os(step(), e);
    if let Some(pidfd) = sys::receive_fd(control.as_fd()).map_err(os)? {
        let mut pid = [0u8; 4];
        io::Read::read_exact(&mut &*control, &mut pid).map_err(os)?;
        return Ok(sys::Child { pid: i32::from_ne_bytes(pid), pidfd });
    }
    let mut text = String::new();
    io::Read::read_to_string(&mut &*control, &mut text).map_err(os)?;
    let failure: quilt_record::Failure =
        serde_json::from_str(&text).map_err(|_| Error::new(quilt_record::Code::Internal, step(), "the guard died"))?;
    Err(Error { code: failure.code, step: failure.step, errno: failure.errno, message: failure.message })
}
