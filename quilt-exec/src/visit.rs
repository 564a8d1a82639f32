//! A visit: a piece of Quilt itself that is inside for a moment and starts nothing, so that there is less to prepare and to
//! clear away than for a command: no cgroup leaf of its own, no program to load, and one process for what maker and guard
//! are otherwise.

use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::Signal;
use quilt_record::leaf::{INIT, Leaf};
use quilt_record::process::wait_dead;
use quilt_record::{Error, Step, confine, sys};

use crate::child::{At, Ready, Words, errno, instead, leave_host, told, within};
use crate::enter::{Program, Running, Scope, Stdio, complaint, words};
use crate::guard::{attend, introduce, introduced};
use crate::patience::Patience;
use crate::target::Target;

/// How long an escort may take to go when it is told to, and again when it is killed.
const CALLED_OFF: Duration = Duration::from_millis(200);

impl Target {
    /// Runs `body` in a process inside, confined as `program` says and in its working directory, but in the leaf of the
    /// container's init; the process ends with the status that `body` returns. `body` gets what `first` saw there, to which
    /// everything is still open that would be as a command is executed. The calling process must have one thread.
    /// If it dies, the visitor is killed. Fails with `timeout`, and nothing is left, if the visitor is not there by
    /// `deadline`.
    ///
    /// In a container that sees the host's processes it enters as a command does: there the escort could be seen, too, and
    /// stopped. And in one that may trace, where the filter would be the escort's, who may do more than a command.
    pub fn visit<T>(
        &self,
        program: &Program,
        stdio: Stdio,
        deadline: Option<Instant>,
        first: impl FnOnce() -> T,
        body: impl FnOnce(T) -> u8,
    ) -> Result<Running, Error> {
        let patience = Patience { deadline, signals: None };
        let (_, private_pid) = self.namespaces();
        if !private_pid || program.confine.rules.may_trace() {
            let act = || {
                let seen = first();
                instead(|| body(seen))
            };
            return Ok(self.enter_from(program, stdio, patience, None, act)?);
        }
        let visit = || -> Result<Running, Error> {
            let leaf = Leaf::open(&self.cgroup.hierarchies, INIT)?;
            let (failure, fail) = words()?;
            let (control, theirs) = sys::socket_pair().step(|| "make a pair of sockets")?;
            let words = Words { fail, wait: None };
            let escort = leaf.fork(0, || escort(self, program, &stdio, &words, &theirs, first, body))?;
            drop((stdio, words, theirs));
            let control = UnixStream::from(control);
            if let Err(why) = patience.hear_of(self, control.as_fd()) {
                call_off(&escort, &control);
                return Err(why.into());
            }
            match introduced(&control) {
                Ok(child) => Ok(Running::new(child, leaf, Scope::Itself, failure, control, escort, None)),
                // What it died of, it said there.
                Err(error) => Err(complaint(self, program, &failure).map_or(error, |failed| failed.error)),
            }
        };
        visit().map_err(|e| self.unless_ended(e))
    }
}

/// Ends a visit of which nothing has been heard. The escort is told first, as it would be by the tool's death, and then
/// leaves no visitor behind; one that does not go is killed, with the visitor that it may just have introduced.
fn call_off(escort: &sys::Child, control: &UnixStream) {
    let _ = control.shutdown(Shutdown::Write);
    if !wait_dead(&escort.pidfd, CALLED_OFF).unwrap_or(false) {
        let _ = sys::pidfd_send_signal(escort.pidfd.as_fd(), Signal::SIGKILL);
        let _ = wait_dead(&escort.pidfd, CALLED_OFF);
    }
    let _ = control.set_nonblocking(true);
    if let Ok(Some(visitor)) = sys::receive_fd(control.as_fd()) {
        let _ = sys::pidfd_send_signal(visitor.as_fd(), Signal::SIGKILL);
    }
}

/// The life of the visitor's parent: it goes in but for the pid namespace, where nobody could see it, forks the visitor,
/// and attends it as a guard does, by whose protocol it talks over `control`.
fn escort<T>(
    target: &Target,
    program: &Program,
    stdio: &Stdio,
    words: &Words,
    control: &OwnedFd,
    first: impl FnOnce() -> T,
    body: impl FnOnce(T) -> u8,
) -> u8 {
    let _ = sys::leave_session();
    sys::block_all_signals();
    sys::default_signal(Signal::SIGCHLD);
    let Ready { fail, also, .. } = match leave_host(target, program, stdio, words, Some(control.as_fd())) {
        Ok(ready) => ready,
        Err(failed) => return told(words.fail.as_fd(), failed),
    };
    let Some(control) = also else { return told(fail.as_fd(), (At::Streams, Errno::EBADF)) };
    if let Err(failed) = within(program) {
        return told(fail.as_fd(), failed);
    }
    let visitor = sys::fork(0, None, || {
        // After the change of credentials, which would forget it.
        let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        let seen = first();
        // It must not keep its parent's ends open.
        let _ = sys::close_from(3);
        // It does nothing that a command could not.
        if confine::seal(&program.confine).is_err() {
            return 1;
        }
        body(seen)
    });
    let visitor = match visitor {
        Ok(visitor) => visitor,
        Err(e) => return told(fail.as_fd(), (At::Fork, errno(&e))),
    };
    let introduced = introduce(&control, &visitor);
    let place: BorrowedFd<'_> = visitor.pidfd.as_fd();
    let kept = sys::keep_only(&[place, place, place, control.as_fd(), place]);
    let Ok([control, pidfd]) = kept.as_deref() else { return 1 };
    let kill = || sys::pidfd_send_signal(pidfd.as_fd(), Signal::SIGKILL).is_ok();
    // No return: owners of numbers that others have now would be dropped.
    sys::exit_now(attend(&visitor, control, pidfd, introduced, kill, || true))
}
