//! Going in: what is run, with which streams, and the handle on it.

use std::cell::Cell;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, setns};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, pipe2, read, write};
use quilt_record::confine::Confine;
use quilt_record::leaf::Leaf;
use quilt_record::{Error, Step, sys};

use crate::child::{child, explain};
use crate::target::{Target, not_running};

/// A program to run inside.
#[derive(Debug)]
pub struct Program {
    /// Its name and arguments; the name is looked for along the container's PATH, unless it has a slash or `image` is given.
    pub argv: Vec<CString>,
    /// The program itself, where it comes from outside: see `quilt_record::readonly::tool`.
    pub image: Option<OwnedFd>,
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

/// A program that is being started or has been.
#[derive(Debug)]
pub struct Running {
    /// The process, as seen from outside.
    pub child: sys::Child,
    /// The cgroup leaf that it and all it starts are in.
    pub leaf: Leaf,
    /// Closed by exec; until then the place where the child says what went wrong.
    pub(crate) failure: OwnedFd,
    go: Option<OwnedFd>,
    status: Cell<Option<u8>>,
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
    /// Forks a child that enters the container and waits there, ready, for [`Running::release`]. The calling process must
    /// have one thread. If it dies before the release, the child ends.
    pub fn enter(&self, program: &Program, stdio: Stdio) -> Result<Running, Error> {
        let leaf = match Leaf::create_numbered(&self.cgroup.hierarchies) {
            Err(_) if !self.spawn.init.alive() => return Err(not_running(&self.id)),
            leaf => leaf?,
        };
        match self.fork(&leaf, program, &stdio) {
            Ok((child, failure, go)) => Ok(Running { child, leaf, failure, go: Some(go), status: Cell::new(None) }),
            Err(error) => {
                let _ = leaf.remove();
                Err(error)
            }
        }
    }

    fn fork(&self, leaf: &Leaf, program: &Program, stdio: &Stdio) -> Result<(sys::Child, OwnedFd, OwnedFd), Error> {
        let pipe = || pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe");
        let ((failure, fail), (wait, go)) = (pipe()?, pipe()?);
        let (namespaces, pid) = self.namespaces();
        let mut back = None;
        if pid {
            back = Some(sys::pidfd_open(std::process::id() as i32).step(|| "open a pidfd on this process")?);
            // Only what is forked from now on is born there.
            match setns(&self.pidfd, CloneFlags::CLONE_NEWPID) {
                Ok(()) => {}
                Err(Errno::ESRCH) => return Err(not_running(&self.id)),
                Err(e) => return Err(Error::os(format!("enter the pid namespace of {}", self.id), e)),
            }
        }
        let made = leaf.fork(0, || child(self, namespaces, program, stdio, &fail, &wait));
        if let Some(own) = back {
            setns(&own, CloneFlags::CLONE_NEWPID).step(|| "return to the own pid namespace")?;
        }
        Ok((made?, failure, go))
    }
}

impl Running {
    /// Lets the program start. What is to watch over it should stand by now.
    pub fn release(&mut self) {
        if let Some(go) = self.go.take() {
            // If the child is dead already, its pidfd says so.
            let _ = write(&go, b"g");
        }
    }

    /// Whether the program has started, or why it could not; waits for either. A program that was killed before it
    /// started counts as started.
    pub fn started(&self, target: &Target, program: &Program) -> Result<(), ExecError> {
        let mut said = [0u8; 2];
        match read(&self.failure, &mut said) {
            Ok(2) => Err(explain(target, program, usize::from(said[0]), Errno::from_raw(said[1].into()))),
            _ => Ok(()),
        }
    }

    /// Reaps the program: its exit status, 128 + n for a signal. Waits for its end.
    ///
    /// A container's init cannot end before every process of its pid namespace has been reaped, this one included.
    pub fn reap(&self) -> u8 {
        if let Some(status) = self.status.get() {
            return status;
        }
        let status = loop {
            match waitpid(Pid::from_raw(self.child.pid), Some(WaitPidFlag::__WALL)) {
                Ok(WaitStatus::Exited(_, status)) => break status as u8,
                Ok(WaitStatus::Signaled(_, signal, _)) => break 128u8.saturating_add(signal as u8),
                Ok(_) | Err(Errno::EINTR) => {}
                // Somebody else reaped it, which nobody should; the status is lost.
                Err(_) => break 125,
            }
        };
        self.status.set(Some(status));
        status
    }

    /// Kills everything that the program started, and the program, and removes the leaf, which is empty then.
    pub fn kill(&self, limit: Duration) -> Result<(), Error> {
        self.leaf.kill(limit)?;
        self.reap();
        self.leaf.remove().map(drop)
    }
}
