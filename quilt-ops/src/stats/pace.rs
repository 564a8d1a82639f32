//! Doing something at fixed times until a signal comes.

use std::io::stdout;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use quilt_record::process::poll_timeout;
use quilt_record::units::Span;
use quilt_record::{Error, Step, signals, sys};

use crate::output;

/// A time from one line to the next: seconds (`2`, `0.5`) or a duration with a unit (`500ms`), at least 10 ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Every(pub Duration);

impl FromStr for Every {
    type Err = String;

    fn from_str(text: &str) -> Result<Every, String> {
        let span = match text.parse::<f64>() {
            Ok(seconds) => Duration::try_from_secs_f64(seconds).map_err(|_| "is no number of seconds".to_owned())?,
            Err(_) => text.parse::<Span>()?.0,
        };
        match span {
            span if span < Duration::from_millis(10) => Err("at least 0.01 seconds".to_owned()),
            span if span > Duration::from_secs(366 * 86_400) => Err("at most a year".to_owned()),
            span => Ok(Every(span)),
        }
    }
}

/// As much as a pipe that can be written to takes without a wait (PIPE_BUF, pipe(7)).
const PIECE: usize = 4096;

/// The times, each a multiple of a span after the first, so that nothing that a round takes adds up. The signals must be
/// blocked ([`signals::block`]).
pub struct Pace {
    signals: OwnedFd,
    every: Duration,
    next: Instant,
}

impl Pace {
    /// From now on.
    pub fn new(every: Every) -> Result<Pace, Error> {
        let signals = sys::signalfd(&signals::stopping()).step(|| "make a signalfd")?;
        Ok(Pace { signals, every: every.0, next: Instant::now() })
    }

    /// Waits for the next time. A time that has passed already is left out. False if a signal came.
    pub fn wait(&mut self) -> Result<bool, Error> {
        self.next = after(self.next, self.every, Instant::now());
        loop {
            let left = self.next.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(true);
            }
            match poll(&mut [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)], poll_timeout(left)) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(false),
                Err(e) => return Err(Error::os("wait for the next line", e)),
            }
        }
    }

    /// Writes to standard output; false if nobody reads any more, or a signal came while nobody did.
    pub fn put(&self, bytes: &[u8]) -> Result<bool, Error> {
        let out = stdout();
        for piece in bytes.chunks(PIECE) {
            loop {
                let signal = PollFd::new(self.signals.as_fd(), PollFlags::POLLIN);
                let mut both = [PollFd::new(out.as_fd(), PollFlags::POLLOUT), signal];
                match poll(&mut both, PollTimeout::NONE) {
                    Err(Errno::EINTR) => {}
                    Err(e) => return Err(Error::os("write to standard output", e)),
                    // A line that can be finished is.
                    Ok(_) if both[0].any().unwrap_or(true) => break,
                    Ok(_) => return Ok(false),
                }
            }
            if !output::put(piece)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// The first time after `now` that is `last` and a multiple of `every`.
fn after(last: Instant, every: Duration, now: Instant) -> Instant {
    let passed = now.saturating_duration_since(last).as_nanos() / every.as_nanos().max(1);
    let times = u32::try_from(passed + 1).unwrap_or(u32::MAX);
    last + every.saturating_mul(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, ms) in [("2", 2000), ("0.5", 500), ("250ms", 250), ("1m", 60_000)] {
            assert_eq!(text.parse(), Ok(Every(Duration::from_millis(ms))), "{text}");
        }
        for bad in ["", "0", "0.001", "-1", "nan", "inf", "1e300", "x", "5ms", "400d"] {
            assert!(bad.parse::<Every>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_late_round_does_not_move_the_others() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let ms = |n| start + Duration::from_millis(n);
        for (now, next) in [(0, 1000), (20, 1000), (999, 1000), (1000, 2000), (3700, 4000)] {
            assert_eq!(after(start, second, ms(now)), ms(next), "{now}");
        }
    }
}
