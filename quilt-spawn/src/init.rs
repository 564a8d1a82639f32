//! Init: process 1 of a container. It reaps what is orphaned, ends on the signals that ask for it, and runs the
//! container's command if there is one, with its output going to the log.
//!
//! It does not supervise: it starts nothing twice, and when it ends the kernel ends the container. It is not dumpable, so
//! nothing inside can look at its descriptors, which lead to files of the host.
//!
//! The one hard thing: process 1 gets only the signals that it waits for, and must not lose its child's end to an
//! inherited "SIGCHLD ignored".

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::SignalFd;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, pipe2};

use quilt_record::confine;
use quilt_record::{Code, Error, process, sys};

use crate::report::Line;

pub mod log;
mod settings;

pub use settings::Settings;

use log::Log;

/// The signals that end an idle container.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT];

/// The signals that are passed on to the command.
const FORWARDED: [Signal; 8] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGWINCH,
    Signal::SIGCONT,
];

/// Runs as init until the container ends; returns the exit status.
pub fn run(settings: &Settings) -> u8 {
    // Before anything else: until here nobody else is inside, but from `ready` on others may be.
    let _ = sys::set_dumpable(false);
    let (Ok(ready), Ok(exit)) = (sys::adopt_fd(settings.ready), sys::adopt_fd(settings.exit)) else { return 125 };
    let status = match prepare(settings).and_then(|()| live(settings, &ready)) {
        Ok(Some((main, output, log))) => {
            drop(ready);
            attend(main, output, log)
        }
        Ok(None) => {
            drop(ready);
            idle()
        }
        Err(e) => {
            let _ = Line::Failed(e).send(&ready);
            return 125;
        }
    };
    // Who asks for it finds out from the file; a full disk leaves it empty.
    let _ = File::from(exit).write_all(status.to_string().as_bytes());
    status
}

/// Blocks every signal, so that each waits to be asked for, and makes sure that children's ends are told.
fn prepare(settings: &Settings) -> Result<(), Error> {
    SigSet::all().thread_set_mask().map_err(|e| Error::os("block the signals", e))?;
    sys::default_signal(Signal::SIGCHLD);
    let _ = nix::sys::prctl::set_name(c"quilt-init");
    if settings.subreaper {
        nix::sys::prctl::set_child_subreaper(true).map_err(|e| Error::os("become the subreaper", e))?;
    }
    Ok(())
}

/// The command's process, the end of its output, and where that goes.
type Busy = (Pid, OwnedFd, Log);

/// Starts the command, if there is one, and says `ready`.
fn live(settings: &Settings, ready: &OwnedFd) -> Result<Option<Busy>, Error> {
    let busy = match settings.log {
        Some((newer, older, cap)) if !settings.command.is_empty() => {
            let open = |fd| sys::adopt_fd(fd).map(File::from).map_err(|e| Error::os("open the log", e));
            let log = Log::new(open(newer)?, open(older)?, cap).map_err(|e| Error::os("open the log", e))?;
            let (main, output) = start(settings)?;
            confine::narrow(settings.kept()).map_err(|e| Error::os("give up capabilities", e))?;
            Some((main, output, log))
        }
        _ => None,
    };
    // From here on the container outlives its maker. If that has died, there is nobody to be ready for.
    let told = sys::set_parent_death_signal(None).is_ok() && Line::Ready.send(ready).is_ok();
    if told { Ok(busy) } else { Err(Error::new(Code::Interrupted, "", "the maker of the container died")) }
}

/// Starts the command; its standard output and error are the pipe that is returned.
fn start(settings: &Settings) -> Result<(Pid, OwnedFd), Error> {
    let step = "start the command";
    let (output, outlet) = pipe2(OFlag::O_CLOEXEC).map_err(|e| Error::os(step, e))?;
    // Who is not root opens /dev/stdout anew, too, and that asks for the owner.
    let owner = nix::unistd::Uid::from_raw(settings.confine.uid);
    nix::unistd::fchown(&outlet, Some(owner), None).map_err(|e| Error::os(step, e))?;
    let (told, tell) = pipe2(OFlag::O_CLOEXEC).map_err(|e| Error::os(step, e))?;
    let child = sys::fork(0, None, || {
        let failed = become_command(settings, outlet.as_fd());
        let _ = Line::Failed(failed).send(&tell);
        127
    });
    let child = child.map_err(|e| Error::os(step, e))?;
    drop((outlet, tell));
    // Closed by exec, or by what went wrong.
    let text = io::read_to_string(File::from(told)).unwrap_or_default();
    match text.lines().next().and_then(Line::parse) {
        Some(Line::Failed(error)) => Err(error),
        _ => Ok((Pid::from_raw(child.pid), output)),
    }
}

/// Becomes the command. Comes back only with the error.
fn become_command(settings: &Settings, outlet: BorrowedFd<'_>) -> Error {
    let name = settings.command.first().map_or("", String::as_str);
    let prepared = || -> Result<(), Error> {
        let os = |e: Errno| Error::os("start the command", e);
        sys::leave_session().map_err(os)?;
        dup2_stdout(outlet).map_err(os)?;
        dup2_stderr(outlet).map_err(os)?;
        sys::reset_signals();
        confine::apply(&settings.confine).map_err(|e| Error::os("confine the command", e))?;
        let dir = settings.workdir.as_deref().unwrap_or("/");
        nix::unistd::chdir(dir).map_err(|e| Error::os(format!("enter the directory {dir}"), e))?;
        // Outside of the root, the kernel says so (CVE-2024-21626).
        match sys::cwd_is_reachable() {
            Ok(true) => Ok(()),
            _ => Err(Error::new(Code::Denied, format!("enter the directory {dir}"), "it is not inside")),
        }
    };
    if let Err(e) = prepared() {
        return e;
    }
    let errno = exec(&settings.command);
    let step = format!("run {name}");
    match errno {
        Errno::ENOENT | Errno::ENOTDIR => Error::new(Code::NotFound, "", format!("no such command: {name}")),
        Errno::ENOEXEC => Error { code: Code::Invalid, ..Error::os(step, errno) },
        _ => Error::os(step, errno),
    }
}

/// Execs the command, found by the PATH of the container's environment.
fn exec(command: &[String]) -> Errno {
    let argv: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_str())).collect();
    let pairs =
        std::env::vars_os().map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()));
    let (Ok(argv), Ok(env)) = (argv, pairs.collect::<Result<Vec<_>, _>>()) else { return Errno::EINVAL };
    let Some(name) = argv.first() else { return Errno::ENOENT };
    let attempt = |path: &[u8]| match CString::new(path) {
        Ok(path) => match sys::exec(&path, &argv, &env) {
            Ok(never) => match never {},
            Err(e) => e.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        },
        Err(_) => Errno::EINVAL,
    };
    if name.as_bytes().contains(&b'/') {
        return attempt(name.as_bytes());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut worst = Errno::ENOENT;
    for dir in path.as_bytes().split(|b| *b == b':').filter(|dir| !dir.is_empty()) {
        match attempt(&[dir, b"/", name.as_bytes()].concat()) {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            e => return e,
        }
    }
    worst
}

/// Waits for a signal that ends the container, and reaps meanwhile.
fn idle() -> u8 {
    let awaited: SigSet = ENDING.into_iter().chain([Signal::SIGCHLD]).collect();
    loop {
        match awaited.wait() {
            Ok(Signal::SIGCHLD) => drop(reap(None)),
            Ok(signal) => return 128 + signal as u8,
            Err(_) => {}
        }
    }
}

/// Reaps all that has ended, up to `main`: its exit status, if it is among them.
fn reap(main: Option<Pid>) -> Option<u8> {
    process::reap(main.map_or(0, Pid::as_raw), false).ok().flatten()
}

/// Passes signals to the command and its output to the log until it ends; returns its exit status.
fn attend(main: Pid, output: OwnedFd, mut log: Log) -> u8 {
    let Ok(queue) = SignalFd::new(&SigSet::all()) else { return 125 };
    let _ = fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK));
    let mut output = Some(output);
    loop {
        let mut polled = vec![PollFd::new(queue.as_fd(), PollFlags::POLLIN)];
        polled.extend(output.as_ref().map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)));
        let _ = poll(&mut polled, PollTimeout::NONE);
        let fired = |at: usize| polled.get(at).and_then(PollFd::revents).is_some_and(|r| !r.is_empty());
        let (signalled, written) = (fired(0), fired(1));
        if written
            && let Some(fd) = &output
            && !copy(fd, &mut log)
        {
            output = None;
        }
        if !signalled {
            continue;
        }
        let Ok(Some(info)) = queue.read_signal() else { continue };
        match Signal::try_from(info.ssi_signo as i32) {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(Some(main)) {
                    // What it wrote last is still in the pipe; what its children hold open is not waited for.
                    if let Some(fd) = &output {
                        copy(fd, &mut log);
                    }
                    return status;
                }
            }
            Ok(signal) if FORWARDED.contains(&signal) => drop(kill(main, signal)),
            _ => {}
        }
    }
}

/// Copies what is in the pipe, at most as much as a pipe holds at once; false at its end.
fn copy(output: &OwnedFd, log: &mut Log) -> bool {
    let mut buffer = [0u8; 1 << 16];
    for _ in 0..16 {
        match nix::unistd::read(output, &mut buffer) {
            Ok(0) => return false,
            Ok(n) => log.append(&buffer[..n]),
            Err(Errno::EINTR) => {}
            Err(_) => break,
        }
    }
    true
}
