//! `quilt stats`: what containers use, a line of JSON for each or a table; docs/stats.md explains every field.
//!
//! The hard thing is a percentage that means something: of the time since the line before, or since the container's start
//! for the first line, by clocks that nobody sets. And a container that ends while it is looked at is not one that is
//! idle: what was read counts only if its init still lives afterwards.

mod pace;
mod table;

use std::collections::{HashMap, HashSet};
use std::time::{Instant, SystemTime};

use quilt_cgroup::account::{self, Account, Io, Memory, Pids, Pressure, account};
use quilt_netns::{Traffic, traffic};
use quilt_record::{Code, Container, Error, Id, Instance, ProcessId};
use serde::Serialize;

use crate::live::{Live, age_us};
use crate::state;

pub use pace::{Every, Pace};
pub use table::table;

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Stats {
    /// The container's name.
    pub id: Id,
    /// When it was looked at: RFC 3339, UTC.
    pub time: String,
    /// What the host has: `v1`, `hybrid` or `v2`.
    pub cgroup: String,
    /// Memory.
    pub memory: Memory,
    /// CPU time.
    pub cpu: Cpu,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices.
    pub io: Option<Io>,
    /// The container's interface; `None` without one of its own (`--network none`, `host`).
    pub network: Option<Traffic>,
    /// Pressure stall information.
    pub pressure: Option<Pressure>,
}

/// CPU time, and what share it is.
#[derive(Clone, Debug, Serialize)]
pub struct Cpu {
    /// What the kernel says.
    #[serde(flatten)]
    pub account: account::Cpu,
    /// Percent of one CPU that was used in the last `over_us`: 200 is two CPUs all of the time.
    pub percent: Option<f64>,
    /// The span that `percent` is about, in microseconds: since the container's start, or since the line before.
    pub over_us: u64,
}

/// One look at all.
#[derive(Default)]
pub struct Round {
    /// A line for each that runs.
    pub stats: Vec<Stats>,
    /// What could not be looked at; each is in one round only.
    pub failed: Vec<(Id, Error)>,
}

/// Looks at containers again and again.
pub struct Sampler<'a> {
    instance: &'a Instance,
    /// `None`: all that run.
    named: Option<Vec<Id>>,
    before: HashMap<Id, Before>,
    reported: HashSet<Id>,
}

/// What there was at the line before.
struct Before {
    init: ProcessId,
    at: Instant,
    usage_us: u64,
}

impl<'a> Sampler<'a> {
    /// Of the containers with these names, or of all that run, whichever these are at the time.
    pub fn new(instance: &'a Instance, named: Option<Vec<Id>>) -> Sampler<'a> {
        Sampler { instance, named, before: HashMap::new(), reported: HashSet::new() }
    }

    /// Looks at each. One that was named and does not run has failed (`not_found`), unless it did run in a round before:
    /// then it has ended, which is no failure. One that was named is not looked at again after that.
    pub fn round(&mut self) -> Result<Round, Error> {
        let ids = self.named.clone().map_or_else(|| Container::list(self.instance), Ok)?;
        let mut round = Round::default();
        for id in ids {
            match self.sample(&id) {
                Ok(stats) => round.stats.push(stats),
                Err(error) => {
                    let ended = error.code == Code::NotFound && (self.named.is_none() || self.before.contains_key(&id));
                    self.before.remove(&id);
                    if let Some(named) = &mut self.named {
                        named.retain(|name| *name != id);
                    }
                    if !ended && self.reported.insert(id.clone()) {
                        round.failed.push((id, error));
                    }
                }
            }
        }
        Ok(round)
    }

    /// Whether all that were named are gone.
    pub fn is_over(&self) -> bool {
        self.named.as_ref().is_some_and(Vec::is_empty)
    }

    fn sample(&mut self, id: &Id) -> Result<Stats, Error> {
        let live = Live::open(self.instance, id)?;
        let (at, time, age) = (Instant::now(), SystemTime::now(), age_us(live.spawn.init.start));
        let account = account(&live.cgroup);
        let link = state::network(&live.container).and_then(|net| net.link);
        let network = link.map_or(Ok(None), |link| traffic(&link.host));
        live.check()?;
        let (Account { memory, cpu, pids, io, pressure }, network) = (account?, network?);
        let (percent, over_us) = match (self.before.get(id), cpu.usage_us) {
            (Some(before), Some(usage)) if before.init == live.spawn.init => {
                let over = at.duration_since(before.at).as_micros() as u64;
                (percent(usage.saturating_sub(before.usage_us), over), over)
            }
            (_, usage) => (usage.and_then(|usage| percent(usage, age)), age),
        };
        let before = Before { init: live.spawn.init, at, usage_us: cpu.usage_us.unwrap_or(0) };
        self.before.insert(id.clone(), before);
        Ok(Stats {
            id: id.clone(),
            time: humantime::format_rfc3339_millis(time).to_string(),
            cgroup: live.cgroup.version,
            memory,
            cpu: Cpu { account: cpu, percent, over_us },
            pids,
            io,
            network,
            pressure,
        })
    }
}

/// Percent of a span, with two decimals; `None` if there was no span.
fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| (part as f64 / whole as f64 * 10_000.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percents() {
        assert_eq!([percent(1, 3), percent(500_000, 250_000), percent(0, 9)], [Some(33.33), Some(200.0), Some(0.0)]);
        assert_eq!(percent(5, 0), None);
    }
}
