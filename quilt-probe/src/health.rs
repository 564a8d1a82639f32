//! The health phase: the container's own check.
//!
//! The first try is made at once. A try passes with exit status 0, and with it the phase. One that fails, or takes longer
//! than `--health-timeout`, is repeated: after 50 ms, then after twice as long each time, but never later than
//! `--health-interval`. The container is not ready when `--health-retries` tries in a row have failed; those that began
//! within `--health-start-period` of the first do not count. `--timeout` ends it all, whatever is left of the rest.

use std::time::{Duration, Instant};

use quilt_exec::Target;

use crate::Want;
use crate::entered::{Entered, Try, seconds};
use crate::report::{Evidence, end_of};
use crate::watch::{Stop, Watch, no};

/// The wait before the second try.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// How much of the output an error shows, in bytes.
const SHOWN: usize = 1000;

/// Runs the check until it passes or the container is not ready. `entered` is the process inside to begin with.
pub(crate) fn look(
    target: &Target,
    watch: &Watch<'_>,
    want: &Want,
    words: &[String],
    entered: &mut Option<Entered>,
    evidence: &mut Evidence,
) -> Result<(), Stop> {
    let started = Instant::now();
    let mut rule = Rule { wait: FIRST_WAIT.min(want.interval()), failed: 0 };
    evidence.tries = 0;
    evidence.note("command", words);
    loop {
        let inside = match entered {
            Some(inside) => inside,
            None => entered.insert(Entered::enter(target, watch, false, &mut Evidence::default())?),
        };
        let counts = started.elapsed() >= want.start_period();
        evidence.tries += 1;
        let (seen, stop) = match inside.run(words, want.try_limit(), watch) {
            Ok(seen) => (seen, None),
            Err((stop, seen)) => (seen, Some(stop)),
        };
        evidence.note("exit_status", seen.status);
        evidence.note("output", String::from_utf8_lossy(&seen.output));
        evidence.note("output_bytes", seen.printed);
        if stop.is_some() || seen.status.is_none() {
            // Whatever it started is killed, in time or not.
            entered.take().map_or(Ok(()), Entered::leave)?;
        }
        let how = match (stop, seen.status) {
            (None, Some(0)) => return Ok(()),
            (None, Some(status)) => format!("the check fails with exit status {status}"),
            (None, None) => format!("the check takes longer than {}", seconds(want.try_limit())),
            (Some(Stop::Failed(error)), _) => error.message,
            (Some(stop), _) => return Err(stop),
        };
        evidence.note("failed", rule.failed + u32::from(counts));
        match rule.after(counts, want.retries(), want.interval()) {
            Some(wait) => drop(watch.wait(&[], Instant::now() + wait)?),
            None => return Err(no(complaint(&how, evidence.tries, &seen))),
        }
    }
}

/// When to try again.
#[derive(Debug, PartialEq, Eq)]
struct Rule {
    wait: Duration,
    failed: u32,
}

impl Rule {
    /// After a failure: the wait before the next try; `None` if there is none.
    fn after(&mut self, counts: bool, retries: u32, interval: Duration) -> Option<Duration> {
        self.failed += u32::from(counts);
        let wait = self.wait;
        self.wait = (wait * 2).min(interval);
        (self.failed < retries).then_some(wait)
    }
}

fn complaint(how: &str, tries: u32, seen: &Try) -> String {
    let times = if tries == 1 { "1 try".to_owned() } else { format!("{tries} tries") };
    match end_of(&seen.output, SHOWN) {
        output if output.is_empty() => format!("{how} ({times}) and prints nothing"),
        output => format!("{how} ({times}); its output ends: {output}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_interval() {
        let mut rule = Rule { wait: FIRST_WAIT, failed: 0 };
        let interval = Duration::from_millis(150);
        let waits: Vec<_> = (0..5).map(|_| rule.after(false, 1, interval).map(|w| w.as_millis())).collect();
        assert_eq!(waits, [Some(50), Some(100), Some(150), Some(150), Some(150)]);
        assert_eq!(rule.after(true, 2, interval), Some(interval));
        assert_eq!(rule.after(true, 2, interval), None);
    }

    #[test]
    fn the_complaint_shows_the_end_of_the_output() {
        let seen = Try { status: Some(3), output: b"first\nthe reason\n".to_vec(), printed: 17 };
        assert_eq!(complaint("it fails", 3, &seen), "it fails (3 tries); its output ends: first\nthe reason");
        assert_eq!(complaint("it fails", 1, &Try::default()), "it fails (1 try) and prints nothing");
    }
}
