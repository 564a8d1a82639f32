//! What can be asked for, and what it comes to in the kernel's files.

use clap::Args;
use quilt_record::error::{Code, Error};
use quilt_record::units::Size;
use serde::{Deserialize, Serialize};

/// What is asked of the cgroup stage.
#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// Memory the container may use: 512M, 1.5GiB, at least 1MiB; a bare number is MiB [default: no limit]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,

    /// Share of the CPU under contention, in percent: its weight is 10 x PERCENT, from 1 to 10000 [default: 10, a weight of 100]
    #[arg(long, value_name = "PERCENT", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,

    /// CPUs the container may use at most: 1.5 is 150 ms of CPU time in every 100 ms; at least 0.01 [default: no limit]
    #[arg(long, value_name = "CPUS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,

    /// Processes and threads the container may have, at least 1 [default: 2048]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
}

/// Processes and threads of a container that nobody said anything about.
const PIDS: u64 = 2048;

/// The kernel's default period of a CPU quota, in microseconds (`cpu.max`, `cpu.cfs_period_us`); always used.
const PERIOD_US: f64 = 100_000.0;

/// The least memory that is a limit rather than a slip.
const MEMORY_MIN: Size = Size(1 << 20);

/// Above any machine, below what overflows a quota.
const CPUS_MAX: f64 = 100_000.0;

impl Want {
    /// Refuses what no kernel would take, before anything is touched.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |flag: &str, message: &str| Err(Error::new(Code::Invalid, format!("read --{flag}"), message));
        match self {
            Want { memory: Some(size), .. } if *size < MEMORY_MIN => refuse("memory", "at least 1MiB is needed"),
            Want { cpu: Some(percent), .. } if !(percent.is_finite() && *percent > 0.0) => {
                refuse("cpu", "must be a number of percent above 0")
            }
            Want { cpus: Some(cpus), .. } if !(*cpus >= 0.01 && *cpus <= CPUS_MAX) => {
                refuse("cpus", "must be a number of CPUs from 0.01 to 100000")
            }
            Want { pids: Some(0), .. } => refuse("pids", "must be at least 1"),
            _ => Ok(()),
        }
    }

    /// The limits, as file and text, that belong to the controller on a hierarchy of that version.
    pub(crate) fn files(&self, controller: &str, version: u8) -> Vec<(&'static str, String)> {
        let quota = |cpus: f64| (cpus * PERIOD_US).round() as u64;
        match (controller, version) {
            ("memory", 1) => file("memory.limit_in_bytes", self.memory.map(|m| m.0.to_string())),
            ("memory", _) => file("memory.max", self.memory.map(|m| m.0.to_string())),
            ("cpu", 1) => [
                file("cpu.shares", self.cpu.map(|percent| shares(weight(percent)).to_string())),
                file("cpu.cfs_quota_us", self.cpus.map(|cpus| quota(cpus).to_string())),
            ]
            .concat(),
            ("cpu", _) => [
                file("cpu.weight", self.cpu.map(|percent| weight(percent).to_string())),
                file("cpu.max", self.cpus.map(|cpus| format!("{} {PERIOD_US}", quota(cpus)))),
            ]
            .concat(),
            ("pids", _) => file("pids.max", Some(self.pids.unwrap_or(PIDS).to_string())),
            _ => Vec::new(),
        }
    }
}

fn file(name: &'static str, text: Option<String>) -> Vec<(&'static str, String)> {
    text.map(|text| (name, text)).into_iter().collect()
}

/// `cpu.weight` for a share in percent, clamped to what the kernel takes (`CGROUP_WEIGHT_MIN`, `_MAX`).
fn weight(percent: f64) -> u64 {
    (percent / 100.0 * 1000.0).round().clamp(1.0, 10_000.0) as u64
}

/// `cpu.shares` for a weight. The kernel makes shares of `cpu.weight` in just this way (`sched_weight_from_cgroup`,
/// `kernel/sched/sched.h`), so a weight means the same on both: 100 and 1024 are what a cgroup has that nobody set.
fn shares(weight: u64) -> u64 {
    ((weight * 1024 + 50) / 100).clamp(2, 262_144)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_is_a_weight_on_v2_and_the_same_weight_on_v1() {
        for (percent, expected) in [(10.0, (100, 1024)), (50.0, (500, 5120)), (0.01, (1, 10)), (1e9, (10_000, 102_400))]
        {
            assert_eq!((weight(percent), shares(weight(percent))), expected, "{percent}");
        }
    }

    #[test]
    fn every_limit_has_its_files() {
        let want = Want { memory: Some(Size(512 << 20)), cpu: Some(50.0), cpus: Some(1.5), pids: Some(64) };
        let all = |version| ["memory", "cpu", "pids"].map(|c| want.files(c, version)).concat();
        let text = |files: Vec<(&str, String)>| files.iter().map(|(f, t)| format!("{f}={t}")).collect::<Vec<_>>();
        assert_eq!(
            text(all(1)),
            ["memory.limit_in_bytes=536870912", "cpu.shares=5120", "cpu.cfs_quota_us=150000", "pids.max=64"]
        );
        assert_eq!(text(all(2)), ["memory.max=536870912", "cpu.weight=500", "cpu.max=150000 100000", "pids.max=64"]);
        assert_eq!(text(Want::default().files("pids", 2)), ["pids.max=2048"]);
    }

    #[test]
    fn what_no_kernel_takes_is_refused_by_name() {
        for (want, flag) in [
            (Want { memory: Some(Size(4096)), ..Want::default() }, "--memory"),
            (Want { cpu: Some(0.0), ..Want::default() }, "--cpu"),
            (Want { cpu: Some(f64::NAN), ..Want::default() }, "--cpu"),
            (Want { cpus: Some(0.001), ..Want::default() }, "--cpus"),
            (Want { cpus: Some(f64::INFINITY), ..Want::default() }, "--cpus"),
            (Want { pids: Some(0), ..Want::default() }, "--pids"),
        ] {
            let step = want.check().err().map(|e| e.step).unwrap_or_default();
            assert_eq!(step, format!("read {flag}"));
        }
        assert_eq!(Want::default().check(), Ok(()));
    }
}
