//! `quilt top`: the processes of a container, as the host's `/proc` has them. Nothing is entered, and nothing inside is
//! asked. A process that has ended and was not reaped is in no cgroup's list, and not shown.
//!
//! The hard thing is that pids are used again: one that was listed may be another's, of the host, when its files are read.
//! So the container's cgroups are asked twice, before and after, and only who is in both lists is shown.

mod process;

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime};

use quilt_record::process::ticks_us;
use quilt_record::{Error, Id, Instance, leaf};
use serde::Serialize;

use crate::live::{Live, age_us};
use crate::output::{bytes, cell, columns, duration};
use process::{Found, uid_inside};

/// One process.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Process {
    /// Its pid inside; `None` for one that is in the container's cgroups but not in its pid namespace.
    pub pid: Option<i32>,
    /// The pid inside of its parent; 0 if that is outside.
    pub ppid: i32,
    /// Its pid on the host.
    pub host_pid: i32,
    /// Its effective user, as a number that means the same inside.
    pub uid: u32,
    /// Its state, a letter: `R`, `S`, `D`, `T`, `t`, `Z`, `X`, `I` (proc_pid_stat(5)).
    pub state: char,
    /// How many threads it has.
    pub threads: u64,
    /// Memory that is in RAM and mapped, shared pages included, in bytes (`VmRSS`, which may be late by 64 pages a thread
    /// before Linux 6.2); `None` for one whose first thread has ended.
    pub rss_bytes: Option<u64>,
    /// CPU time used, in microseconds; counted in ticks of 10 ms.
    pub cpu_us: u64,
    /// When it began: RFC 3339, UTC.
    pub started: String,
    /// How long ago that was, in microseconds.
    pub elapsed_us: u64,
    /// What it belongs to: `init` (the container's own processes) or `x-N` (those of one exec).
    pub leaf: Option<String>,
    /// The name that the kernel has for it, at most 15 bytes.
    pub name: String,
    /// Its command line, which the process may have changed, up to 64 KiB; empty for one whose first thread has ended.
    pub command: Vec<String>,
}

/// The processes of a container, by their pids inside.
pub fn top(instance: &Instance, id: &Id) -> Result<Vec<Process>, Error> {
    let live = Live::open(instance, id)?;
    let hierarchies = &live.cgroup.hierarchies;
    let listed = leaf::processes(hierarchies)?;
    let init = live.spawn.init.pid;
    let depth = Found::read(init).map(|init| init.pids.len());
    let uids = std::fs::read_to_string(format!("/proc/{init}/uid_map")).unwrap_or_default();
    let found: Vec<(Option<String>, Found)> =
        listed.into_iter().filter_map(|(pid, leaf)| Some((leaf, Found::read(pid)?))).collect();
    let still: HashSet<i32> = leaf::processes(hierarchies)?.into_iter().map(|(pid, _)| pid).collect();
    live.check()?;
    let depth = depth.unwrap_or(1);
    let now = SystemTime::now();
    let inside: HashMap<i32, i32> =
        found.iter().filter_map(|(_, p)| Some((p.host_pid(), *p.pids.get(depth - 1)?))).collect();
    // With the host's pid namespace, everybody is inside.
    let parent = |pid: i32| inside.get(&pid).copied().unwrap_or(if depth == 1 { pid } else { 0 });
    let mut processes: Vec<Process> = found
        .into_iter()
        .filter(|(_, p)| still.contains(&p.host_pid()))
        .map(|(leaf, p)| {
            let elapsed_us = age_us(p.start);
            let started = now.checked_sub(Duration::from_micros(elapsed_us)).unwrap_or(SystemTime::UNIX_EPOCH);
            Process {
                pid: inside.get(&p.host_pid()).copied(),
                ppid: parent(p.parent),
                host_pid: p.host_pid(),
                uid: uid_inside(&uids, p.uid),
                state: p.state,
                threads: p.threads,
                rss_bytes: p.rss_bytes,
                cpu_us: ticks_us(p.cpu),
                started: humantime::format_rfc3339_millis(started).to_string(),
                elapsed_us,
                leaf,
                name: p.name,
                command: p.command,
            }
        })
        .collect();
    processes.sort_by_key(|p| (p.pid.is_none(), p.pid, p.host_pid));
    Ok(processes)
}

/// The table: a line of headings, then one for each.
pub fn table(processes: &[Process]) -> String {
    let headings = ["PID", "PPID", "HOST", "UID", "S", "THREADS", "RSS", "CPU", "ELAPSED", "LEAF", "COMMAND"];
    let mut rows = vec![headings.map(str::to_owned)];
    for p in processes {
        rows.push([
            cell(p.pid),
            p.ppid.to_string(),
            p.host_pid.to_string(),
            p.uid.to_string(),
            p.state.to_string(),
            p.threads.to_string(),
            cell(p.rss_bytes.map(bytes)),
            duration(p.cpu_us),
            duration(p.elapsed_us),
            cell(p.leaf.as_ref()),
            if p.command.is_empty() { format!("[{}]", p.name) } else { p.command.join(" ") },
        ]);
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table() {
        let sleep = Process {
            pid: Some(7),
            ppid: 1,
            host_pid: 4711,
            uid: 1000,
            state: 'S',
            threads: 1,
            rss_bytes: Some(1 << 20),
            cpu_us: 10_000,
            started: String::new(),
            elapsed_us: 3_725_000_000,
            leaf: Some("x-9".to_owned()),
            name: "sleep".to_owned(),
            command: vec!["sleep".to_owned(), "it's\x1b]0;x\x07".to_owned()],
        };
        let state = 'Z';
        let name = "evil\x1b[2J".to_owned();
        let husk =
            Process { pid: None, leaf: None, rss_bytes: None, state, name, command: Vec::new(), ..sleep.clone() };
        assert_eq!(
            table(&[sleep, husk]),
            "PID  PPID  HOST  UID   S  THREADS  RSS   CPU    ELAPSED  LEAF  COMMAND\n\
             7    1     4711  1000  S  1        1MiB  0.01s  1h2m5s   x-9   sleep it's\\u{1b}]0;x\\u{7}\n\
             -    1     4711  1000  Z  1        -     0.01s  1h2m5s   -     [evil\\u{1b}[2J]\n"
        );
    }
}
