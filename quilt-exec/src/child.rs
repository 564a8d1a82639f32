//! The child between fork and exec.
//!
//! Everything that is needed from outside was opened before; from the first setns on the child acts on descriptors, and
//! holds none of the host's by the time it follows a path of the container's.
//!
//! Into a pid namespace nobody moves, one is born. So the child, which nobody inside can see or send a signal to, does
//! all there is to do, and only then forks the one who execs. Were it born there itself, somebody inside could stop it
//! halfway, and would find the host's mounts and sockets in its `/proc/PID/mountinfo` and `/proc/PID/net`.

use std::ffi::{CStr, CString};
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::Signal;
use nix::sys::stat::{FileStat, Mode, fstat, stat};
use nix::unistd::{chdir, pipe2, read, write};
use quilt_record::confine::{rlimit, starting};
use quilt_record::defence::out;
use quilt_record::idmap;
use quilt_record::leaf::unforked;
use quilt_record::process::{called_with, forgo_oom_protection, wait_gone};
use quilt_record::{Error, confine, sys};

use crate::enter::{ExecError, Program, Stdio};
use crate::ids;
use crate::target::{Target, not_running};
use crate::terminal;

/// How long an init that may be ending is waited for.
const ENDING: Duration = Duration::from_secs(1);

/// Where the child failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    Namespaces,
    Streams,
    Confine,
    Workdir,
    Fork,
    Session,
    Terminal,
    NotFound,
    Refused,
    Interpreter,
}

const PLACES: [At; 10] = [
    At::Namespaces,
    At::Streams,
    At::Confine,
    At::Workdir,
    At::Fork,
    At::Session,
    At::Terminal,
    At::NotFound,
    At::Refused,
    At::Interpreter,
];

pub(crate) type Failed = (At, Errno);

/// What the two bytes from the child mean.
pub(crate) fn explain(target: &Target, program: &Program, place: usize, errno: Errno) -> ExecError {
    let name = program.argv.first().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let os = |step: String| Error::os(step, errno);
    // What was done before the filter was in force is not its fault.
    let blaming = |error: Error, filtered: bool, calls: &[starting::Call]| match filtered
        .then(|| target.blame(calls, errno))
        .flatten()
    {
        Some(blame) => Error { message: format!("{}: {blame}", error.message), ..error },
        None => error,
    };
    let rules = &program.confine.rules;
    let early = rules.filter_comes_early();
    let (status, error) = match PLACES.get(place).copied().unwrap_or(At::Namespaces) {
        At::Namespaces if errno == Errno::ESRCH => (125, not_running(&target.id)),
        At::Namespaces => (125, os(format!("enter the namespaces of {}", target.id))),
        At::Streams => (125, os("open the standard streams inside".to_owned())),
        At::Confine => (125, blaming(os("confine the command".to_owned()), !rules.no_new_privs, &starting::CONFINE)),
        At::Workdir => (125, os(format!("change to the directory {}", program.workdir.to_string_lossy()))),
        // In a pid namespace whose init is ending nobody is born; that is what the kernel calls it (`alloc_pid`).
        At::Fork if errno == Errno::ENOMEM && wait_gone(&target.pidfd, ENDING).unwrap_or(false) => {
            (125, not_running(&target.id))
        }
        At::Fork => (125, blaming(unforked("start the command", errno), early, &starting::FORK)),
        At::Session => (125, blaming(os("give the command a session".to_owned()), early, &starting::SESSION)),
        At::Terminal => {
            (125, blaming(os("make the terminal the command's own".to_owned()), early, &starting::TERMINAL))
        }
        At::NotFound => (127, os(format!("run {name}"))),
        At::Refused => (126, blaming(os(format!("run {name}")), true, &starting::EXEC)),
        At::Interpreter => {
            let why = "its interpreter (after #!, or the dynamic loader) is not there";
            (126, Error { message: why.to_owned(), ..os(format!("run {name}")) })
        }
    };
    ExecError { status, error }
}

/// What the child tells its parents by.
pub(crate) struct Words {
    /// Two bytes, what failed; closed by exec.
    pub(crate) fail: OwnedFd,
    /// What comes before exec, with a terminal: one byte says that it may.
    pub(crate) wait: Option<OwnedFd>,
}

/// What a process holds that has left the host behind; all of it is closed by exec.
pub(crate) struct Ready {
    /// Takes what failed.
    pub(crate) fail: OwnedFd,
    /// The further descriptor that was to be kept, if there was one.
    pub(crate) also: Option<OwnedFd>,
    /// See [`Words`].
    wait: Option<OwnedFd>,
}

/// The child's life up to exec; comes back only with its status. If the program is another process, born in the
/// container's pid namespace, `born` is told its pid, in four bytes, and the status is 0; that is a child of the child's
/// parent, too. Else `born` is closed before anybody inside can see or stop this process.
pub(crate) fn child(
    target: &Target,
    program: &Program,
    stdio: &Stdio,
    words: &Words,
    born: OwnedFd,
    act: impl FnOnce() -> Failed,
) -> u8 {
    let (_, private_pid) = target.namespaces();
    let born = private_pid.then_some(born);
    let Ready { fail, also, wait } = match leave_host(target, program, stdio, words, born.as_ref().map(AsFd::as_fd)) {
        Ok(ready) => ready,
        Err(failed) => return told(words.fail.as_fd(), failed),
    };
    if let Err(failed) = within(program) {
        return told(fail.as_fd(), failed);
    }
    let run = || told(fail.as_fd(), execute(program, stdio.terminal.is_some(), wait, act));
    let Some(born) = also else { return run() };
    match sys::fork(libc::CLONE_PARENT as u64, None, run) {
        // Nothing that comes after it could be told.
        Ok(program) => u8::from(write(&born, &program.pid.to_ne_bytes()) != Ok(4)),
        Err(e) => told(fail.as_fd(), (At::Fork, errno(&e))),
    }
}

/// Into the namespaces, with the streams at their places, and nothing else of the host's left open than what is to tell
/// it of anything, `also` among it.
pub(crate) fn leave_host(
    target: &Target,
    program: &Program,
    stdio: &Stdio,
    words: &Words,
    also: Option<BorrowedFd<'_>>,
) -> Result<Ready, Failed> {
    let (mut namespaces, private_pid) = target.namespaces();
    // Of that only the children are born in.
    namespaces.set(CloneFlags::CLONE_NEWPID, private_pid);
    // Whoever owned a number before keeps off it from here on; so do these.
    let streams = ManuallyDrop::new(outside(target, namespaces, program, stdio)?);
    let [stdin, stdout, stderr] = &*streams;
    let mut keep = vec![stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), words.fail.as_fd()];
    keep.extend(also);
    keep.extend(words.wait.as_ref().map(|wait| wait.as_fd()));
    let kept = if out("close-fds") { sys::keep_first(&keep) } else { sys::keep_only(&keep) };
    let mut kept = kept.map_err(|e| (At::Streams, errno(&e)))?.into_iter();
    let Some(fail) = kept.next() else { return Err((At::Streams, Errno::EBADF)) };
    let also = also.and_then(|_| kept.next());
    let wait = words.wait.as_ref().and_then(|_| kept.next());
    Ok(Ready { fail, also, wait })
}

/// Tells what failed; the status of who failed.
pub(crate) fn told(fail: BorrowedFd<'_>, (at, errno): Failed) -> u8 {
    let place = PLACES.iter().position(|p| *p == at).unwrap_or_default();
    let _ = write(fail, &[place as u8, errno as i32 as u8]);
    125
}

/// While the host's descriptors are still open: the namespaces, the streams. Follows no path of the container's but those
/// of the `/dev` that Quilt mounted, and checks what it finds there.
fn outside(target: &Target, namespaces: CloneFlags, program: &Program, stdio: &Stdio) -> Result<[OwnedFd; 3], Failed> {
    forgo_oom_protection().map_err(|e| (At::Confine, errno(&e)))?;
    // What the tool was called with is nobody's business inside, where a copy of it can be seen until it execs.
    sys::blank_call(called_with().map_err(|e| (At::Confine, errno(&e)))?);
    unshare(CloneFlags::CLONE_NEWCGROUP).map_err(|e| (At::Namespaces, e))?;
    // Gone with the init, as setns will say.
    let root = stat(format!("/proc/{}/root", target.spawn.init.pid).as_str());
    let streams = |e: Errno| (At::Streams, e);
    confine::leave_keyring().map_err(|e| (At::Confine, errno(&e)))?;
    if let Some(ids) = target.spawn.ids {
        ids::give(ids, program.confine.uid, stdio).map_err(streams)?;
        rlimit::raise(&program.confine.rules.rlimits).map_err(|e| (At::Confine, errno(&e)))?;
    }
    setns(&target.pidfd, namespaces).map_err(|e| (At::Namespaces, e))?;
    if target.spawn.ids.is_some() {
        idmap::become_root().map_err(|e| (At::Namespaces, errno(&e)))?;
    }
    // The root of the namespace, which ought to be the init's: never the host's instead.
    let here = stat("/").map_err(|e| (At::Namespaces, e))?;
    if !root.is_ok_and(|root| (root.st_dev, root.st_ino) == (here.st_dev, here.st_ino)) {
        return Err((At::Namespaces, Errno::EXDEV));
    }
    if let Some(socket) = &stdio.terminal {
        let uid = program.confine.uid;
        return terminal::inside(socket.as_fd(), uid).map_err(|e| streams(errno(&e)));
    }
    let stream = |given: &Option<OwnedFd>| match given {
        Some(fd) => fd.try_clone().map_err(|e| streams(errno(&e))),
        None => null().map_err(streams),
    };
    Ok([stream(&stdio.stdin)?, stream(&stdio.stdout)?, stream(&stdio.stderr)?])
}

/// The container's `/dev/null`, if it is the null device (root inside may have put anything in its place); else a pipe
/// that is closed at the other end. Never the host's: whoever holds that could change its mode.
fn null() -> Result<OwnedFd, Errno> {
    let mut flags = OFlag::O_RDWR | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    flags.set(OFlag::O_NOFOLLOW, !out("null-check"));
    let is_null = |s: FileStat| s.st_mode & libc::S_IFMT == libc::S_IFCHR && s.st_rdev == libc::makedev(1, 3);
    if let Ok(fd) = openat(AT_FDCWD, c"/dev/null", flags, Mode::empty())
        && (out("null-check") || fstat(&fd).is_ok_and(is_null))
    {
        return Ok(fd);
    }
    pipe2(OFlag::O_CLOEXEC).map(|(read, _)| read)
}

/// With nothing of the host's left open: the confinement, the working directory.
pub(crate) fn within(program: &Program) -> Result<(), Failed> {
    confine::apply(&program.confine).map_err(|e| (At::Confine, errno(&e)))?;
    chdir(program.workdir.as_c_str()).map_err(|e| (At::Workdir, e))?;
    // A directory outside of the root would be a way out (CVE-2024-21626).
    match sys::cwd_is_reachable() {
        Ok(true) => {}
        Ok(false) => return Err((At::Workdir, Errno::EXDEV)),
        Err(e) => return Err((At::Workdir, errno(&e))),
    }
    if seals_early(program) { seal(program) } else { Ok(()) }
}

/// Whether the filter comes before the process that can be seen inside, as others there may trace that one, and make it call
/// what they may not.
fn seals_early(program: &Program) -> bool {
    program.confine.rules.may_trace() && !out("early-seal")
}

fn seal(program: &Program) -> Result<(), Failed> {
    confine::seal(&program.confine).map_err(|e| (At::Confine, errno(&e)))
}

/// Where it can be seen: the session, and then `act`. The parent must not wait for anything from here: it may be stopped.
fn execute(program: &Program, terminal: bool, wait: Option<OwnedFd>, act: impl FnOnce() -> Failed) -> Failed {
    // After the change of credentials, which would forget it.
    let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
    if let Err(e) = sys::leave_session() {
        return (At::Session, e);
    }
    if terminal && let Err(e) = sys::set_controlling_terminal(io::stdin().as_fd()) {
        return (At::Terminal, errno(&e));
    }
    if let Some(wait) = wait
        && read(wait, &mut [0u8; 1]) != Ok(1)
    {
        // The tool died. Nobody reads this.
        return (At::Refused, Errno::EPIPE);
    }
    sys::reset_signals();
    if !seals_early(program)
        && let Err(failed) = seal(program)
    {
        return failed;
    }
    act()
}

/// Becomes the program, or what is in its place; comes back only with what failed.
pub(crate) fn become_program(program: &Program) -> Failed {
    match program.body {
        Some(body) => instead(|| body(program)),
        None => search(program),
    }
}

/// Runs `body` in the program's place.
pub(crate) fn instead(body: impl FnOnce() -> u8) -> ! {
    // As exec would: what is to tell of failures is closed.
    let _ = sys::close_from(3);
    sys::exit_now(body())
}

/// Executes the program, looked for as execvp(3) does, but along the container's PATH and never through a shell.
fn search(program: &Program) -> Failed {
    let Some(name) = program.argv.first().filter(|name| !name.is_empty()) else { return (At::NotFound, Errno::ENOENT) };
    let attempt = |path: &CStr| -> Errno {
        match sys::exec(path, &program.argv, &program.env) {
            Err(e) => errno(&e),
            Ok(never) => match never {},
        }
    };
    // ENOENT for a file that is there means its interpreter.
    let absent = |path: &CStr| match stat(path) {
        Ok(_) => (At::Interpreter, Errno::ENOENT),
        Err(_) => (At::NotFound, Errno::ENOENT),
    };
    if name.as_bytes().contains(&b'/') {
        return match attempt(name) {
            Errno::ENOENT => absent(name),
            Errno::ENOTDIR => (At::NotFound, Errno::ENOTDIR),
            e => (At::Refused, e),
        };
    }
    let path = program.env.iter().find_map(|e| e.as_bytes().strip_prefix(b"PATH=")).unwrap_or(DEFAULT_PATH);
    let mut failed = (At::NotFound, Errno::ENOENT);
    for dir in path.split(|b| *b == b':') {
        let dir = if dir.is_empty() { b"." } else { dir };
        let Ok(candidate) = CString::new([dir, b"/", name.as_bytes()].concat()) else { continue };
        match attempt(&candidate) {
            Errno::ENOENT => {
                if let (At::Interpreter, e) = absent(&candidate) {
                    return (At::Interpreter, e);
                }
            }
            Errno::ENOTDIR => {}
            Errno::EACCES => failed = (At::Refused, Errno::EACCES),
            e => return (At::Refused, e),
        }
    }
    failed
}

const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) fn errno(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}
