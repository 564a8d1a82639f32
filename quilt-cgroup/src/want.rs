//! What can be asked for.

use clap::Args;
use quilt_record::error::{Code, Error};
use quilt_record::units::{Limit, Size};
use serde::{Deserialize, Serialize};

use crate::devices;
use crate::io::IoMax;
use crate::numbers::Numbers;

/// What is asked of the cgroup stage.
#[derive(Args, Serialize, Deserialize, Default, Clone, Debug, PartialEq)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// Memory the container may use: 512M, 1.5GiB, at least 1MiB; a bare number is MiB; max: no limit [default: max]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Limit<Size>>,

    /// Memory from which on the container is slowed down and made to give back (memory.high; cgroup v2 only) [default: max]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_high: Option<Limit<Size>>,

    /// Memory that is left to the container when the host runs short (v2's memory.low, v1's soft_limit_in_bytes); 0: none [default: 0]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_soft: Option<Size>,

    /// Swap space the container may use beside its memory; 0: none; on cgroup v1 only with --memory [default: max]
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<Limit<Size>>,

    /// Share of the CPU under contention, in percent: its weight is 10 x PERCENT, from 1 to 10000 [default: 10, a weight of 100]
    #[arg(long, value_name = "PERCENT", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,

    /// The same as a weight (cpu.weight), from 1 to 10000 [default: 100]
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits", conflicts_with_all = ["cpu", "cpu_shares"])]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_weight: Option<u64>,

    /// The same as docker's and v1's shares, from 2 to 262144; on v2 converted as runc does, 1024 to a weight of 100 [default: 1024]
    #[arg(long, value_name = "SHARES", help_heading = "Limits", conflicts_with = "cpu")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<u64>,

    /// CPUs the container may use at most: 1.5 is 150 ms of CPU time in every 100 ms; at least 0.01; max: no limit [default: max]
    #[arg(long, value_name = "CPUS", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Limit<f64>>,

    /// CPUs the container may run on: 0-3,7; all: those of its parent [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset: Option<Numbers>,

    /// NUMA nodes the container may have memory of: 0,1; all: those of its parent [default: all]
    #[arg(long, value_name = "LIST", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpuset_mems: Option<Numbers>,

    /// Processes and threads the container may have, at least 1; max: no limit [default: 2048]
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<Limit<u64>>,

    /// Share of a disk under contention (io.weight, or BFQ's), from 1 to 10000 [default: 100]
    #[arg(long, value_name = "WEIGHT", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub io_weight: Option<u64>,

    /// What the container may read from and write to a disk in a second: /dev/vda,rbps=10M,wbps=max,riops=100,wiops=100; a bare number is bytes; max: no limit
    #[arg(long, value_name = "DISK,KEY=N…", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_max: Vec<IoMax>,

    /// A device of the host for the container: /dev/kvm, /dev/sda:/dev/xvda:r; rights r, w, m [default: rwm]; may be repeated
    #[arg(long, value_name = "SRC[:DST][:rwm]", help_heading = "Mounts")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device: Vec<String>,

    /// The cgroup to make the container's below, in the v2 tree and in every v1 hierarchy: /agents [default: the caller's, if it is delegated, else the root's /quilt]
    #[arg(long, value_name = "PATH", help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_parent: Option<String>,
}

/// The least memory that is a limit rather than a slip.
const MEMORY_MIN: Size = Size(1 << 20);

/// Above any machine, below what overflows a quota.
const CPUS_MAX: f64 = 100_000.0;

impl Want {
    /// Refuses what no kernel would take, before anything is touched.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |flag: &str, message: &str| Err(Error::new(Code::Invalid, format!("read --{flag}"), message));
        let small = |size: Option<Limit<Size>>| size.and_then(Limit::value).is_some_and(|size| size < MEMORY_MIN);
        if small(self.memory) {
            return refuse("memory", "at least 1MiB is needed");
        }
        if small(self.memory_high) {
            return refuse("memory-high", "at least 1MiB is needed");
        }
        if self.cpu.is_some_and(|percent| !(percent.is_finite() && percent > 0.0)) {
            return refuse("cpu", "must be a number of percent above 0");
        }
        if self.cpu_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return refuse("cpu-weight", "must be a number from 1 to 10000");
        }
        if self.cpu_shares.is_some_and(|shares| !(2..=262_144).contains(&shares)) {
            return refuse("cpu-shares", "must be a number from 2 to 262144");
        }
        if [self.cpu.is_some(), self.cpu_weight.is_some(), self.cpu_shares.is_some()].iter().filter(|s| **s).count() > 1
        {
            return refuse("cpu", "--cpu, --cpu-weight and --cpu-shares say the same: give one of them");
        }
        if self.cpus.and_then(Limit::value).is_some_and(|cpus| !(0.01..=CPUS_MAX).contains(&cpus)) {
            return refuse("cpus", "must be a number of CPUs from 0.01 to 100000");
        }
        if self.pids == Some(Limit::Of(0)) {
            return refuse("pids", "must be at least 1");
        }
        if self.io_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
            return refuse("io-weight", "must be a number from 1 to 10000");
        }
        devices::check(&self.device)?;
        Ok(())
    }

    /// Puts what `changes` asks for in place of what was asked before; what it does not mention stays.
    pub fn update(&mut self, changes: &Want) {
        fn take<T: Clone>(old: &mut Option<T>, new: &Option<T>) {
            if new.is_some() {
                old.clone_from(new);
            }
        }
        if changes.cpu.is_some() || changes.cpu_weight.is_some() || changes.cpu_shares.is_some() {
            // Three words for one thing.
            (self.cpu, self.cpu_weight, self.cpu_shares) = (None, None, None);
        }
        take(&mut self.memory, &changes.memory);
        take(&mut self.memory_high, &changes.memory_high);
        take(&mut self.memory_soft, &changes.memory_soft);
        take(&mut self.swap, &changes.swap);
        take(&mut self.cpu, &changes.cpu);
        take(&mut self.cpu_weight, &changes.cpu_weight);
        take(&mut self.cpu_shares, &changes.cpu_shares);
        take(&mut self.cpus, &changes.cpus);
        take(&mut self.cpuset, &changes.cpuset);
        take(&mut self.cpuset_mems, &changes.cpuset_mems);
        take(&mut self.pids, &changes.pids);
        take(&mut self.io_weight, &changes.io_weight);
        take(&mut self.cgroup_parent, &changes.cgroup_parent);
        for change in &changes.io_max {
            match self.io_max.iter_mut().find(|old| old.disk == change.disk) {
                Some(old) => old.update(change),
                None => self.io_max.push(change.clone()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_kernel_takes_is_refused_by_name() {
        for (want, flag) in [
            (Want { memory: Some(Limit::Of(Size(4096))), ..Want::default() }, "--memory"),
            (Want { memory_high: Some(Limit::Of(Size(0))), ..Want::default() }, "--memory-high"),
            (Want { cpu: Some(0.0), ..Want::default() }, "--cpu"),
            (Want { cpu: Some(f64::NAN), ..Want::default() }, "--cpu"),
            (Want { cpu: Some(1.0), cpu_shares: Some(2), ..Want::default() }, "--cpu"),
            (Want { cpu_weight: Some(0), ..Want::default() }, "--cpu-weight"),
            (Want { cpu_shares: Some(1), ..Want::default() }, "--cpu-shares"),
            (Want { cpus: Some(Limit::Of(0.001)), ..Want::default() }, "--cpus"),
            (Want { cpus: Some(Limit::Of(f64::INFINITY)), ..Want::default() }, "--cpus"),
            (Want { cpus: Some(Limit::Of(f64::NAN)), ..Want::default() }, "--cpus"),
            (Want { pids: Some(Limit::Of(0)), ..Want::default() }, "--pids"),
            (Want { io_weight: Some(10_001), ..Want::default() }, "--io-weight"),
        ] {
            let step = want.check().err().map(|e| e.step).unwrap_or_default();
            assert_eq!(step, format!("read {flag}"));
        }
        let lifted = Want { memory: Some(Limit::Max), pids: Some(Limit::Max), ..Want::default() };
        assert_eq!((Want::default().check(), lifted.check()), (Ok(()), Ok(())));
    }

    #[test]
    fn a_change_leaves_the_rest() -> Result<(), Box<dyn std::error::Error>> {
        let io = |text: &str| text.parse::<IoMax>();
        let mut want = Want {
            memory: Some(Limit::Of(Size(1 << 30))),
            cpu: Some(50.0),
            io_max: vec![io("/dev/vda,rbps=1M,wiops=5")?],
            ..Want::default()
        };
        let changes = Want {
            cpu_weight: Some(7),
            pids: Some(Limit::Max),
            io_max: vec![io("/dev/vda,rbps=max,riops=9")?, io("8:0,wbps=5")?],
            ..Want::default()
        };
        want.update(&changes);
        assert_eq!(
            want,
            Want {
                memory: Some(Limit::Of(Size(1 << 30))),
                cpu_weight: Some(7),
                pids: Some(Limit::Max),
                io_max: vec![io("/dev/vda,rbps=max,riops=9,wiops=5")?, io("8:0,wbps=5")?],
                ..Want::default()
            }
        );
        Ok(())
    }
}
