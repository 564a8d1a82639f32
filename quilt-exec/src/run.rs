//! One command from start to end: its streams, the guard, the exit status.

use std::ffi::{CString, NulError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use quilt_record::error::complain;
use quilt_record::{Code, Error, Step, oom, sys};

use crate::child::become_program;
use crate::cli::{Attach, Options};
use crate::enter::{ExecError, Program, Running, Stdio};
use crate::patience::{Hindered, Patience};
use crate::pump::Pump;
use crate::receipt::Before;
use crate::supervise::{Ending, Signals, Streams, supervise};
use crate::target::Target;
use crate::terminal::{self, Raw};

/// How long a command that could not be started may take to be gone.
const KILL: Duration = Duration::from_secs(10);

impl From<Error> for ExecError {
    fn from(error: Error) -> ExecError {
        ExecError { status: 125, error }
    }
}

/// Runs a command in the container and returns the exit status to end with: the command's own, 128 + n if signal n killed
/// it, 124 if its time was up (said on standard error). `stdin` is what `-i` gives it. The signals must be blocked
/// ([`Signals::block`]), and the process must have one thread.
pub fn run(
    tool: &str,
    target: &Target,
    options: &Options,
    argv: Vec<CString>,
    stdin: impl AsFd,
    signals: &Signals,
) -> Result<u8, ExecError> {
    let (confine, home) = target.confinement(options.user.as_deref())?;
    let nul = |e: NulError| Error::new(Code::Invalid, "read the environment", e.to_string());
    let program = Program {
        argv,
        body: None,
        env: target.environment(home, &options.variables().map_err(nul)?)?,
        workdir: target.workdir(options.workdir.as_deref())?,
        confine,
    };
    let attach = &options.attach;
    let before = Before::look(&target.cgroup.hierarchies, attach.receipt.as_deref())?;
    let stdin = if attach.interactive {
        Some(stdin.as_fd().try_clone_to_owned().step(|| "duplicate the input")?)
    } else {
        None
    };
    let ending = conduct(tool, target, &program, attach, stdin, signals)?;
    let (receipt, written) = before.settle(ending, &target.cgroup.hierarchies);
    if let (Some(count @ 1..), 1..) = (receipt.oom_kills, receipt.status) {
        complain(tool, &Error::new(Code::Exhausted, "", oom::sentence(count)));
    }
    if let (Ending::TimedOut, Some(limit)) = (&ending, attach.timeout) {
        complain(tool, &Error::new(Code::Timeout, "", format!("timed out after {limit}")));
    }
    match written {
        Err(error) if receipt.status == 0 => return Err(error.into()),
        Err(error) => complain(tool, &error),
        Ok(()) => {}
    }
    Ok(receipt.status)
}

/// Starts the command and carries it to its end.
fn conduct(
    tool: &str,
    target: &Target,
    program: &Program,
    attach: &Attach,
    stdin: Option<OwnedFd>,
    signals: &Signals,
) -> Result<Ending, ExecError> {
    let deadline = attach.timeout.map(|limit| Instant::now() + limit.0);
    let patience = Patience { deadline, signals: Some(signals) };
    let started = if attach.tty {
        start_on_terminal(target, program, stdin, patience)
    } else {
        let (stdio, streams) = on_pipes(stdin)?;
        let running = target.enter_from(program, stdio, patience, None, || become_program(program));
        running.map(|running| (running, streams, None)).map_err(Unstarted::from)
    };
    let (running, streams, raw) = match started {
        Ok(started) => started,
        Err(Unstarted::Ended(ending)) => return Ok(ending),
        Err(Unstarted::Failed(error)) => return Err(error),
    };
    if let Some(raw) = &raw {
        raw.start();
    }
    running.release();
    let ended = supervise(target, program, &running, streams, signals, deadline);
    // What the command left running keeps its leaf; what nobody watches any more is killed. So was what ran out of time,
    // but the guard may have come to remove the leaf before the last of it was dead.
    let timed_out = matches!(ended, Ok(Ending::TimedOut));
    let left = if !timed_out && running.has_ended() {
        running.finish();
        Ok(())
    } else {
        running.kill(KILL)
    };
    drop(raw);
    let ending = ended?;
    if let Err(error) = left {
        complain(tool, &error);
    }
    Ok(ending)
}

/// Why there is no command to watch over.
enum Unstarted {
    /// It counts as ended.
    Ended(Ending),
    Failed(ExecError),
}

impl From<Hindered> for Unstarted {
    fn from(hindered: Hindered) -> Unstarted {
        match hindered {
            Hindered::Ended(ending) => Unstarted::Ended(ending),
            Hindered::Failed(error) => Unstarted::Failed(error.into()),
        }
    }
}

impl From<ExecError> for Unstarted {
    fn from(error: ExecError) -> Unstarted {
        Unstarted::Failed(error)
    }
}

impl From<Error> for Unstarted {
    fn from(error: Error) -> Unstarted {
        Unstarted::Failed(error.into())
    }
}

/// With a terminal of its own, ready to be released; and the caller's, if `stdin` is one.
fn start_on_terminal(
    target: &Target,
    program: &Program,
    stdin: Option<OwnedFd>,
    patience: Patience<'_>,
) -> Result<(Running, Streams, Option<Raw>), Unstarted> {
    let (socket, inside) = sys::socket_pair().step(|| "make a pair of sockets")?;
    let raw = stdin.as_ref().map(|stdin| Raw::of(stdin.as_fd())).transpose().step(|| "look at the terminal")?;
    let raw = raw.flatten();
    let stdio = Stdio { terminal: Some(inside), ..Stdio::default() };
    let own = raw.as_ref().map(|raw| (raw.fd(), raw.before()));
    let running = target.enter_from(program, stdio, patience, own, || become_program(program))?;
    let heard = patience.hear_of(target, socket.as_fd()).map_err(Unstarted::from);
    match heard.and_then(|()| on_terminal(target, program, &running, &socket, stdin)) {
        Ok(streams) => Ok((running, streams, raw)),
        Err(unstarted) => {
            let _ = running.kill(KILL);
            Err(unstarted)
        }
    }
}

/// Pipes of the command's own, never the caller's streams: `out=$(quilt exec …)` must not wait for what the command left
/// running, and nothing inside gets to hold anything of the host's.
fn on_pipes(stdin: Option<OwnedFd>) -> Result<(Stdio, Streams), Error> {
    let pipe = || pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe");
    let pump = |p: io::Result<Pump>| p.step(|| "prepare the streams");
    let ((out, out_inside), (err, err_inside)) = (pipe()?, pipe()?);
    let mut streams = Streams::default();
    streams.outputs.push(pump(Pump::outward(out, io::stdout().as_fd(), true))?);
    streams.outputs.push(pump(Pump::outward(err, io::stderr().as_fd(), true))?);
    let mut stdio = Stdio { stdin: None, stdout: Some(out_inside), stderr: Some(err_inside), terminal: None };
    if let Some(stdin) = stdin {
        let (inside, to) = pipe()?;
        streams.input = Some(pump(Pump::inward(stdin, to))?);
        stdio.stdin = Some(inside);
    }
    Ok((stdio, streams))
}

/// The terminal that the child made inside.
fn on_terminal(
    target: &Target,
    program: &Program,
    running: &Running,
    socket: &OwnedFd,
    stdin: Option<OwnedFd>,
) -> Result<Streams, Unstarted> {
    let step = || "prepare the terminal";
    let Some(master) = sys::receive_fd(socket.as_fd()).step(step)? else {
        running.started(target, program)?;
        return Err(Error::new(Code::Internal, step(), "the child made none").into());
    };
    terminal::copy_size(master.as_fd());
    let copy = || master.try_clone().step(step);
    let mut streams = Streams { master: Some(copy()?), ..Streams::default() };
    streams.outputs.push(Pump::outward(copy()?, io::stdout().as_fd(), false).step(step)?);
    if let Some(stdin) = stdin {
        streams.input = Some(Pump::inward(stdin, copy()?).step(step)?);
    }
    Ok(streams)
}
