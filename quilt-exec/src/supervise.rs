//! Watching over a running command: its streams, the caller's signals, its time, its end.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{read, write};
use quilt_record::process::poll_timeout;
use quilt_record::{Error, Step, sys};

use crate::enter::{ExecError, HEARD, Program, Running};
use crate::pump::{Flow, Pump};
use crate::target::Target;
use crate::terminal;

/// The signals that are passed on to the command.
const FORWARDED: [Signal; 9] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGWINCH,
];

/// How long what a command started may take to die once its time is up.
const KILL: Duration = Duration::from_secs(10);

/// How long the reader of a command whose time was up gets for what the command wrote before.
const REST: Duration = Duration::from_secs(1);

/// How much a terminal is drained of once the command has ended. (A pipe says what it holds.)
const TERMINAL_REST: usize = 256 << 10;

/// The end of a transmission, as a terminal takes it (VEOF).
const END_OF_TRANSMISSION: &[u8] = b"\x04";

/// The caller's signals, as events.
#[derive(Debug)]
pub struct Signals(OwnedFd);

impl Signals {
    /// Blocks the signals that are passed on, but those that the caller has us ignore (nohup, `&` in a script), and makes
    /// the ends of children known even where the caller ignores them. First thing of all, before any fork.
    pub fn block() -> Result<Signals, Error> {
        let set: SigSet = FORWARDED.into_iter().filter(|s| !sys::is_ignored(*s)).collect();
        // Fails only for a bad `how` (sigprocmask(2)).
        let _ = set.thread_block();
        sys::default_signal(Signal::SIGCHLD);
        Ok(Signals(sys::signalfd(&set).step(|| "make a signalfd")?))
    }

    /// The signals that have arrived.
    pub(crate) fn take(&self) -> Vec<Signal> {
        // struct signalfd_siginfo has 128 bytes and starts with the number (signalfd(2)).
        let mut buffer = [0u8; 128 * 8];
        let n = read(&self.0, &mut buffer).unwrap_or(0);
        let numbers =
            buffer[..n].chunks_exact(128).map(|info| i32::from_ne_bytes([info[0], info[1], info[2], info[3]]));
        numbers.filter_map(|n| Signal::try_from(n).ok()).collect()
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The streams of a command.
#[derive(Default)]
pub struct Streams {
    pub(crate) input: Option<Pump>,
    pub(crate) outputs: Vec<Pump>,
    /// The master of its terminal, if it has one.
    pub(crate) master: Option<OwnedFd>,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// By itself or by a signal: its exit status, or 128 + n.
    Exited(u8),
    /// Its time was up, and everything that it started has been killed.
    TimedOut,
}

impl Ending {
    /// The exit status that says so.
    pub fn status(self) -> u8 {
        match self {
            Ending::Exited(status) => status,
            Ending::TimedOut => 124,
        }
    }
}

/// Carries the streams and the signals until the command has ended and what it wrote has been passed on. Does not wait
/// for what the command left running. What runs at `deadline` is killed.
pub fn supervise(
    target: &Target,
    program: &Program,
    running: &Running,
    mut streams: Streams,
    signals: &Signals,
    mut deadline: Option<Instant>,
) -> Result<Ending, ExecError> {
    let mut started = false;
    let mut ending = None;
    let mut timed_out = false;
    let mut lost = None;
    loop {
        let (ready, any) = {
            // What has told all it has to tell is not asked again: a hang-up is reported whether asked for or not.
            let asked = |fd, open: bool| match open {
                true => PollFd::new(fd, PollFlags::POLLIN),
                false => PollFd::new(signals.0.as_fd(), PollFlags::empty()),
            };
            let mut fds = vec![
                asked(signals.0.as_fd(), true),
                asked(running.control.as_fd(), ending.is_none()),
                asked(running.failure.as_fd(), !started),
            ];
            let pumps = streams.input.iter().chain(&streams.outputs);
            fds.extend(pumps.map(|pump| {
                let (fd, flags) = pump.interest();
                PollFd::new(fd, flags)
            }));
            let timeout = match (ending, deadline) {
                (Some(_), _) if !streams.outputs.iter().any(Pump::is_full) => PollTimeout::ZERO,
                (_, Some(deadline)) => poll_timeout(deadline.saturating_duration_since(Instant::now())),
                (_, None) => PollTimeout::NONE,
            };
            match poll(&mut fds, timeout) {
                Ok(n) => (fds.iter().map(|f| f.any().unwrap_or(true)).collect::<Vec<_>>(), n > 0),
                Err(Errno::EINTR) => continue,
                Err(e) => return Err(Error::os("wait for the command", e).into()),
            }
        };
        let (events, flows) = ready.split_at(3);
        if !started && (events[1] || events[2]) {
            if let Err(failed) = running.started(target, program) {
                // It ends at once, if that was its own word; else it is killed.
                running.status_within(HEARD);
                return Err(failed);
            }
            started = true;
        }
        if events[0] {
            for signal in signals.take() {
                match (&streams.master, ending) {
                    (Some(master), _) if signal == Signal::SIGWINCH => terminal::copy_size(master.as_fd()),
                    (_, ending)
                        if (ending.is_some() || !started) && !matches!(signal, Signal::SIGWINCH | Signal::SIGCONT) =>
                    {
                        // The command is gone, and what is left is somebody who does not read; or it is none yet, and somebody
                        // inside may have stopped what was to become it.
                        return Ok(Ending::Exited(128 + signal as u8));
                    }
                    _ => {
                        let _ = sys::pidfd_send_signal(running.child.pidfd.as_fd(), signal);
                    }
                }
            }
        }
        let mut flows = flows.iter().copied();
        if streams.input.is_some() && flows.next() == Some(true) {
            feed(&mut streams);
        }
        // A stream that nobody takes any more is closed, so that the command gets SIGPIPE as it would without Quilt.
        streams.outputs.retain_mut(|pump| match flows.next() {
            Some(true) => match pump.flow() {
                Flow::Going => true,
                Flow::Ended => false,
                Flow::Refused(error) => {
                    lost = lost.take().or(Some(error));
                    false
                }
            },
            _ => true,
        });
        if ending.is_none() && events[1] {
            let status = running.status();
            ending = Some(if timed_out { Ending::TimedOut } else { Ending::Exited(status) });
            // Whoever reads slowly gets everything, unless there is a time to be kept.
            deadline = timed_out.then(|| Instant::now() + REST);
            streams.input = None;
            for pump in &mut streams.outputs {
                if streams.master.is_some() { pump.finish_by(TERMINAL_REST) } else { pump.finish() }
            }
        }
        if let Some(ending) = ending {
            streams.outputs.retain(|pump| !pump.is_finished());
            if streams.outputs.is_empty() || !any {
                return delivered(ending, lost);
            }
        } else if deadline.is_some_and(|d| Instant::now() >= d) {
            if timed_out {
                // It is dead, and the guard cannot see that: see [`Running::kill`].
                return delivered(Ending::TimedOut, lost);
            }
            timed_out = true;
            running.leaf.kill(KILL)?;
            deadline = Some(Instant::now() + HEARD);
        }
    }
}

/// A command that ended well has not, if what it wrote is lost and it cannot know. A reader that went away is no loss.
fn delivered(ending: Ending, lost: Option<io::Error>) -> Result<Ending, ExecError> {
    match lost {
        Some(e) if ending == Ending::Exited(0) && e.raw_os_error() != Some(libc::EPIPE) => {
            Err(Error::os("pass on what the command wrote", e).into())
        }
        _ => Ok(ending),
    }
}

/// Passes input on.
fn feed(streams: &mut Streams) {
    let Some(pump) = &mut streams.input else { return };
    match pump.flow() {
        Flow::Going => {}
        flow => {
            // A pipe ends by being closed, a terminal by a word.
            if matches!(flow, Flow::Ended) && streams.master.is_some() {
                let _ = write(pump.to(), END_OF_TRANSMISSION);
            }
            streams.input = None;
        }
    }
}
