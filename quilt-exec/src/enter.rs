//! Going in: what is run, with which streams, and the handle on it.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::sys::signal::Signal;
use nix::sys::termios::Termios;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, pipe2, read, write};
use quilt_record::confine::Confine;
use quilt_record::defence::out;
use quilt_record::leaf::Leaf;
use quilt_record::process::{poll_timeout, wait_dead};
use quilt_record::{Code, Error, Step, sys};

use crate::child::{Failed, Words, become_program, child, explain};
use crate::guard::{guard, introduced};
use crate::patience::{Hindered, Patience};
use crate::target::{Target, not_running};

/// How long a guard may take to say that its program, which is dead, has ended.
pub(crate) const HEARD: Duration = Duration::from_secs(1);

/// How long what did not get in in time may take to die.
const KILL: Duration = Duration::from_secs(10);

/// A program to run inside.
#[derive(Debug)]
pub struct Program {
    /// Its name and arguments; the name is looked for along the container's PATH, unless it has a slash.
    pub argv: Vec<CString>,
    /// Instead of a program of the container's, this: it runs in the process that would execute one, confined as that
    /// would be and never dumpable, and returns the exit status.
    pub body: Option<fn(&Program) -> u8>,
    /// Its environment, all of it.
    pub env: Vec<CString>,
    /// The directory to start in: a path of the container's.
    pub workdir: CString,
    /// Who it runs as.
    pub confine: Confine,
}

/// The child's ends of its standard streams; `None` is the container's `/dev/null`.
#[derive(Debug, Default)]
pub struct Stdio {
    /// Standard input.
    pub stdin: Option<OwnedFd>,
    /// Standard output.
    pub stdout: Option<OwnedFd>,
    /// Standard error.
    pub stderr: Option<OwnedFd>,
    /// Instead of all three a pseudoterminal of the container's own, whose master is sent back on this socket.
    pub terminal: Option<OwnedFd>,
}

/// A program that is being started or has been, and its guard. If this is dropped, the guard kills all of it.
#[derive(Debug)]
pub struct Running {
    /// The process, as seen from outside.
    pub child: sys::Child,
    /// The cgroup leaf that it and all it starts are in.
    pub leaf: Leaf,
    /// Closed by exec; until then the place where the child says what went wrong.
    pub(crate) failure: OwnedFd,
    /// To and from the guard.
    pub(crate) control: UnixStream,
    guard: sys::Child,
    go: Option<OwnedFd>,
    scope: Scope,
    status: Cell<Option<u8>>,
}

/// What ends with a program that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Everything in its leaf, which is its own.
    Leaf,
    /// Itself alone: the leaf is the init's.
    Itself,
}

/// Why a program did not start.
#[derive(Clone, Debug)]
pub struct ExecError {
    /// The exit status that says so: 125 Quilt failed, 126 it cannot be invoked, 127 it is not there.
    pub status: u8,
    /// Why.
    pub error: Error,
}

impl Target {
    /// Starts a program in the container. The calling process must have one thread. If it dies, the program and all that
    /// it started are killed. Fails with `timeout`, and nothing is left, if the program is not on its way by `deadline`.
    pub fn enter(&self, program: &Program, stdio: Stdio, deadline: Option<Instant>) -> Result<Running, Error> {
        let patience = Patience { deadline, signals: None };
        Ok(self.enter_from(program, stdio, patience, None, || become_program(program))?)
    }

    /// The same with more patience, and with `act` as the last that the child does; and the caller's terminal is put back as
    /// it was. A program that gets a terminal of its own waits, ready, for [`Running::release`].
    pub(crate) fn enter_from(
        &self,
        program: &Program,
        stdio: Stdio,
        patience: Patience<'_>,
        terminal: Option<(BorrowedFd<'_>, &Termios)>,
        act: impl FnOnce() -> Failed,
    ) -> Result<Running, Hindered> {
        let leaf = Leaf::create_numbered(&self.cgroup.hierarchies).map_err(|e| self.unless_ended(e))?;
        let made = || -> Result<(sys::Child, sys::Child, UnixStream, OwnedFd, Option<OwnedFd>), Hindered> {
            let pipe = || pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe");
            let (failure, fail) = words()?;
            // Only a terminal has to be made ready between entering and starting.
            let (wait, go) =
                if stdio.terminal.is_some() { pipe().map(|(wait, go)| (Some(wait), Some(go)))? } else { (None, None) };
            let (control, theirs) = sys::socket_pair().step(|| "make a pair of sockets")?;
            let words = Words { fail, wait };
            let program = |born| child(self, program, &stdio, &words, born, act);
            let posted = sys::fork(0, None, || guard(&leaf, theirs, terminal, program));
            let posted = posted.step(|| "start the guard")?;
            let control = UnixStream::from(control);
            if let Err(why) = patience.hear_of(self, control.as_fd()) {
                leaf.kill(KILL)?;
                return Err(why);
            }
            Ok((introduced(&control)?, posted, control, failure, go))
        };
        match made() {
            Ok((child, guard, control, failure, go)) => {
                Ok(Running::new(child, leaf, Scope::Leaf, failure, control, guard, go))
            }
            Err(error) => {
                let _ = leaf.remove();
                Err(match error {
                    Hindered::Failed(error) => self.unless_ended(error).into(),
                    ended => ended,
                })
            }
        }
    }

    /// The error, unless the container has ended meanwhile, which takes its cgroups and its init's `/proc/PID` away.
    pub(crate) fn unless_ended(&self, error: Error) -> Error {
        if self.spawn.init.alive() { error } else { not_running(&self.id) }
    }
}

/// The pipe for what a child fails at, of which nothing waits: whoever may trace a child inside may take its end, and keep
/// it, or fill it.
pub(crate) fn words() -> Result<(OwnedFd, OwnedFd), Error> {
    pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).step(|| "make a pipe")
}

/// What the child said on `failure` that it failed at; `None` if it has not. For when it is closed or the child has ended:
/// the word comes before.
pub(crate) fn complaint(target: &Target, program: &Program, failure: &OwnedFd) -> Option<ExecError> {
    let mut said = [0u8; 2];
    (read(failure, &mut said) == Ok(2))
        .then(|| explain(target, program, usize::from(said[0]), Errno::from_raw(said[1].into())))
}

impl Running {
    pub(crate) fn new(
        child: sys::Child,
        leaf: Leaf,
        scope: Scope,
        failure: OwnedFd,
        control: UnixStream,
        guard: sys::Child,
        go: Option<OwnedFd>,
    ) -> Running {
        Running { child, leaf, failure, control, guard, go, scope, status: Cell::new(None) }
    }

    /// Lets the program start, if it is to have a terminal.
    pub(crate) fn release(&self) {
        if let Some(go) = &self.go {
            // If the child is dead already, its guard says so.
            let _ = write(go, b"g");
        }
    }

    /// Why the program could not start, if it could not. For when it has ended, or its streams have. A program that was
    /// killed before it started counts as started.
    pub fn started(&self, target: &Target, program: &Program) -> Result<(), ExecError> {
        complaint(target, program, &self.failure).map_or(Ok(()), Err)
    }

    /// The exit status of the program, 128 + n for a signal; 125 if the guard was killed. Waits for the program's end.
    pub fn status(&self) -> u8 {
        if let Some(status) = self.status.get() {
            return status;
        }
        let mut said = [0u8; 1];
        let status = if read(&self.control, &mut said) == Ok(1) { said[0] } else { 125 };
        self.status.set(Some(status));
        status
    }

    /// The same, if the program ends within `limit`.
    pub fn status_within(&self, limit: Duration) -> Option<u8> {
        let heard = || poll(&mut [PollFd::new(self.control.as_fd(), PollFlags::POLLIN)], poll_timeout(limit));
        if self.status.get().is_none() && heard() == Ok(0) {
            return None;
        }
        Some(self.status())
    }

    /// Whether [`Running::status`] is known.
    pub(crate) fn has_ended(&self) -> bool {
        self.status.get().is_some()
    }

    /// Waits for the program's end, and until the guard has removed the leaf, which stays if the program left something
    /// running.
    pub fn finish(self) {
        self.status();
        self.part();
    }

    /// Waits for the end of the guard, unless it stays for a program that somebody inside traces.
    fn part(&self) {
        if read(&self.control, &mut [0u8; 1]) != Ok(1) {
            let _ = waitpid(Pid::from_raw(self.guard.pid), Some(WaitPidFlag::__WALL));
        }
    }

    /// Kills the program and everything that it started, and removes the leaf, which is empty then. A visitor, which
    /// has no leaf of its own, is killed alone.
    pub fn kill(self, limit: Duration) -> Result<(), Error> {
        if self.scope == Scope::Itself || out("leaf-kill") {
            // It may have ended by itself.
            let _ = sys::pidfd_send_signal(self.child.pidfd.as_fd(), Signal::SIGKILL);
            let step = || "wait for the end of the process inside";
            if !wait_dead(&self.guard.pidfd, limit).step(step)? {
                let _ = sys::pidfd_send_signal(self.guard.pidfd.as_fd(), Signal::SIGKILL);
                return Err(Error::new(Code::Timeout, step(), "it still lives"));
            }
            self.finish();
            return Ok(());
        }
        self.leaf.kill(limit)?;
        // All of it is dead. But the guard cannot see that if somebody else inside traces a thread of the program and does not
        // wait for its end: then it stays, until the container ends.
        match self.status_within(HEARD) {
            Some(_) => self.part(),
            None => self.status.set(Some(128 + Signal::SIGKILL as u8)),
        }
        self.leaf.remove().map(drop)
    }
}
