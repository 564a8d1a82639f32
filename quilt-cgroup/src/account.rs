//! What a container has used and is kept from using, as the kernel accounts for it: the same fields on cgroup v1, hybrid
//! and v2. What a kernel does not account for is `None`, never 0.
//!
//! The hard thing is that v1 has counters that are those of one cgroup and not of the ones below it (processes killed for
//! lack of memory, forks refused); they are added up over the container's tree (`Dir::sum`).
//!
//! Sources: `Documentation/admin-guide/cgroup-v2.rst`, `cgroup-v1/*.rst`, `Documentation/accounting/psi.rst` of Linux;
//! docs/stats.md has them field by field.

mod dir;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use quilt_record::Error;
use quilt_record::have::Cgroup;
use quilt_record::process::ticks_us;
use serde::Serialize;

use dir::Dir;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Account {
    /// Memory.
    pub memory: Memory,
    /// CPU time.
    pub cpu: Cpu,
    /// Processes and threads.
    pub pids: Pids,
    /// Block devices; `None` where the kernel does not account for them.
    pub io: Option<Io>,
    /// Pressure stall information; `None` without a v2 tree, or where it is off (`psi=0`).
    pub pressure: Option<Pressure>,
}

/// Memory, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// In use now, page cache and the kernel's own included (`memory.current`; v1: `memory.usage_in_bytes`).
    pub current_bytes: Option<u64>,
    /// The most that was in use (`memory.peak`, Linux 5.19; v1: `memory.max_usage_in_bytes`).
    pub peak_bytes: Option<u64>,
    /// The limit; `None` if there is none (`memory.max`; v1: `memory.limit_in_bytes`).
    pub limit_bytes: Option<u64>,
    /// Page cache, tmpfs and shared memory included (`file` of `memory.stat`; v1: `total_cache`).
    pub file_bytes: Option<u64>,
    /// Memory of processes that belongs to no file (`anon` of `memory.stat`; v1: `total_rss`).
    pub anon_bytes: Option<u64>,
    /// Swap in use (`memory.swap.current`; v1: `total_swap` of `memory.stat`).
    pub swap_bytes: Option<u64>,
    /// The limit of swap; `None` if there is none (`memory.swap.max`; v1: `memory.memsw.limit_in_bytes` less the limit).
    pub swap_limit_bytes: Option<u64>,
    /// Processes that were killed for lack of memory (`oom_kill` of `memory.events`; v1: of `memory.oom_control`).
    pub oom_kills: Option<u64>,
}

/// CPU time, in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Cpu {
    /// All of it (`usage_usec` of `cpu.stat`, of the v2 tree on hybrid too; v1 alone: `cpuacct.usage`).
    pub usage_us: Option<u64>,
    /// Outside the kernel (`user_usec`; v1 alone: `user` of `cpuacct.stat`).
    pub user_us: Option<u64>,
    /// In the kernel (`system_usec`; v1 alone: `system` of `cpuacct.stat`).
    pub system_us: Option<u64>,
    /// CPUs that may be used at most; `None` if there is no limit (`cpu.max`; v1: `cpu.cfs_quota_us` / `cpu.cfs_period_us`).
    pub limit_cpus: Option<f64>,
    /// Periods of the limit in which somebody wanted to run (`nr_periods` of `cpu.stat`).
    pub periods: Option<u64>,
    /// Those in which the limit was reached (`nr_throttled`).
    pub throttled_periods: Option<u64>,
    /// How long the container's run queues were held back, each CPU's counted (`throttled_usec`; v1: `throttled_time`, ns).
    pub throttled_us: Option<u64>,
}

/// Processes and threads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Pids {
    /// How many there are (`pids.current`).
    pub current: Option<u64>,
    /// How many there may be; `None` if there is no limit (`pids.max`).
    pub limit: Option<u64>,
    /// The most there were (`pids.peak`, Linux 6.1).
    pub peak: Option<u64>,
    /// Forks that the limit refused (`max` of `pids.events`).
    pub refused: Option<u64>,
}

/// Block devices, all together: what reached a device, not what the page cache answered (`io.stat`; v1:
/// `blkio.throttle.io_service_bytes_recursive` and `io_serviced_recursive`, or those of `blkio.bfq`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Io {
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

/// How much time is lost waiting for a resource (`cpu.pressure`, `memory.pressure`, `io.pressure` of the v2 tree).
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    /// For a CPU.
    pub cpu: Option<Stalls>,
    /// For memory.
    pub memory: Option<Stalls>,
    /// For block devices.
    pub io: Option<Stalls>,
}

/// The two kinds of loss.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stalls {
    /// While at least one process waited.
    pub some: Stall,
    /// While all that had something to do waited; of the CPU since Linux 5.13.
    pub full: Option<Stall>,
}

/// Time lost.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last five minutes.
    pub avg300: f64,
    /// Since the container was made, in microseconds.
    pub total_us: u64,
}

/// Reads the account of a container. Of one that ends meanwhile there may be nothing but `None`.
pub fn account(cgroup: &Cgroup) -> Result<Account, Error> {
    Ok(Account {
        memory: of(cgroup, "memory", memory)?.unwrap_or_default(),
        cpu: cpu(cgroup)?,
        pids: of(cgroup, "pids", pids)?.unwrap_or_default(),
        io: match Dir::v1(cgroup, "blkio") {
            Some(dir) => blkio(&dir)?,
            None => Dir::v2(cgroup).map_or(Ok(None), |dir| dir.map("io.stat", |text| Some(parse::io_stat(text))))?,
        },
        pressure: Dir::v2(cgroup).map_or(Ok(None), |dir| pressure(&dir))?,
    })
}

/// What `read` finds in the directory of a controller: the v1 one if there is one, else that of the v2 tree, which lacks
/// the files of controllers that it does not have.
fn of<T>(cgroup: &Cgroup, name: &str, read: impl FnOnce(&Dir<'_>) -> Result<T, Error>) -> Result<Option<T>, Error> {
    Dir::v1(cgroup, name).or(Dir::v2(cgroup)).map(|dir| read(&dir)).transpose()
}

fn memory(dir: &Dir<'_>) -> Result<Memory, Error> {
    if dir.version == 2 {
        let stat = dir.read("memory.stat")?.unwrap_or_default();
        return Ok(Memory {
            current_bytes: dir.number("memory.current")?,
            peak_bytes: dir.number("memory.peak")?,
            limit_bytes: dir.number("memory.max")?,
            file_bytes: parse::keyed(&stat, "file"),
            anon_bytes: parse::keyed(&stat, "anon"),
            swap_bytes: dir.number("memory.swap.current")?,
            swap_limit_bytes: dir.number("memory.swap.max")?,
            oom_kills: dir.map("memory.events", |text| parse::keyed(text, "oom_kill"))?,
        });
    }
    let stat = dir.read("memory.stat")?.unwrap_or_default();
    let limit = dir.number("memory.limit_in_bytes")?;
    // v1 limits the sum of both.
    let both = dir.number("memory.memsw.limit_in_bytes")?;
    Ok(Memory {
        current_bytes: dir.number("memory.usage_in_bytes")?,
        peak_bytes: dir.number("memory.max_usage_in_bytes")?,
        limit_bytes: limit,
        file_bytes: parse::keyed(&stat, "total_cache"),
        anon_bytes: parse::keyed(&stat, "total_rss"),
        swap_bytes: parse::keyed(&stat, "total_swap"),
        swap_limit_bytes: both.zip(limit).map(|(both, limit)| both.saturating_sub(limit)),
        oom_kills: dir.sum("memory.oom_control", "oom_kill")?,
    })
}

fn cpu(cgroup: &Cgroup) -> Result<Cpu, Error> {
    let mut cpu = of(cgroup, "cpu", quota)?.unwrap_or_default();
    if let Some(dir) = Dir::v2(cgroup) {
        // Every cgroup below the root of a v2 tree has this, without any controller.
        let stat = dir.read("cpu.stat")?.unwrap_or_default();
        cpu.usage_us = parse::keyed(&stat, "usage_usec");
        cpu.user_us = parse::keyed(&stat, "user_usec");
        cpu.system_us = parse::keyed(&stat, "system_usec");
    } else if let Some(dir) = Dir::v1(cgroup, "cpuacct") {
        let stat = dir.read("cpuacct.stat")?.unwrap_or_default();
        cpu.usage_us = dir.number("cpuacct.usage")?.map(|ns| ns / 1000);
        cpu.user_us = parse::keyed(&stat, "user").map(ticks_us);
        cpu.system_us = parse::keyed(&stat, "system").map(ticks_us);
    }
    Ok(cpu)
}

/// The limit of CPU time and what came of it.
fn quota(dir: &Dir<'_>) -> Result<Cpu, Error> {
    let stat = dir.read("cpu.stat")?.unwrap_or_default();
    let (limit_cpus, throttled_us) = if dir.version == 2 {
        (dir.map("cpu.max", parse::quota)?, parse::keyed(&stat, "throttled_usec"))
    } else {
        let quota = dir.number("cpu.cfs_quota_us")?.zip(dir.number("cpu.cfs_period_us")?);
        let throttled_ns = parse::keyed(&stat, "throttled_time");
        (quota.and_then(|(quota, period)| parse::cpus(quota, period)), throttled_ns.map(|ns| ns / 1000))
    };
    let periods = parse::keyed(&stat, "nr_periods");
    let throttled_periods = parse::keyed(&stat, "nr_throttled");
    Ok(Cpu { limit_cpus, periods, throttled_periods, throttled_us, ..Cpu::default() })
}

fn pids(dir: &Dir<'_>) -> Result<Pids, Error> {
    // A refused fork counts where it was tried, on v2 before Linux 6.11 too: but there the controller is not passed on to
    // the leaves, so it is the container's own cgroup.
    Ok(Pids {
        current: dir.number("pids.current")?,
        limit: dir.number("pids.max")?,
        peak: dir.number("pids.peak")?,
        refused: if dir.version == 2 {
            dir.map("pids.events", |text| parse::keyed(text, "max"))?
        } else {
            dir.sum("pids.events", "max")?
        },
    })
}

/// v1 counts in the policies of a device: in throttling (since Linux 6.10 only of a device for which anybody has ever set
/// a limit), or in the BFQ scheduler. Where nothing was counted, the hierarchy's root says whether anything can be.
fn blkio(dir: &Dir<'_>) -> Result<Option<Io>, Error> {
    let mut io = None;
    let mut devices = BTreeMap::new();
    for policy in ["bfq", "throttle"] {
        let text = |what: &str| dir.read(&format!("blkio.{policy}.{what}_recursive"));
        let operations = parse::blkio(&text("io_serviced")?.unwrap_or_default());
        for (device, bytes) in parse::blkio(&text("io_service_bytes")?.unwrap_or_default()) {
            let operations = operations.get(&device).copied().unwrap_or_default();
            devices.insert(device, (bytes, operations));
        }
    }
    for (bytes, operations) in devices.into_values() {
        let sum = io.get_or_insert_with(Io::default);
        sum.read_bytes += bytes.0;
        sum.write_bytes += bytes.1;
        sum.reads += operations.0;
        sum.writes += operations.1;
    }
    if io.is_none() {
        const FILE: &str = "blkio.throttle.io_service_bytes_recursive";
        let root = dir.path.ancestors().take_while(|path| path.join(FILE).exists()).last();
        let counts = |root| Dir { version: 1, path: root }.map(FILE, |text| Some(!parse::blkio(text).is_empty()));
        io = root.map(counts).transpose()?.flatten().unwrap_or(false).then(Io::default);
    }
    Ok(io)
}

fn pressure(dir: &Dir<'_>) -> Result<Option<Pressure>, Error> {
    let pressure = Pressure {
        cpu: dir.map("cpu.pressure", parse::pressure)?,
        memory: dir.map("memory.pressure", parse::pressure)?,
        io: dir.map("io.pressure", parse::pressure)?,
    };
    Ok(Some(pressure).filter(|pressure| *pressure != Pressure::default()))
}
