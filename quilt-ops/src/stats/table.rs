//! The same for a person.

use super::Stats;
use crate::output::{bytes, cell, columns};

/// The table: a line of headings, then one for each.
pub fn table(stats: &[Stats]) -> String {
    let headings =
        ["NAME", "CPU%", "CPUS", "THROTTLED", "MEMORY", "LIMIT", "PEAK", "OOM", "PIDS", "RX", "TX", "READ", "WRITTEN"];
    let mut rows = vec![headings.map(str::to_owned)];
    for Stats { id, memory, cpu, pids, io, network, .. } in stats {
        let throttled = cpu.account.throttled_periods.zip(cpu.account.periods.filter(|periods| *periods > 0));
        rows.push([
            id.to_string(),
            cell(cpu.percent),
            cell(cpu.account.limit_cpus),
            cell(throttled.map(|(throttled, periods)| format!("{}%", throttled * 100 / periods))),
            cell(memory.current_bytes.map(bytes)),
            cell(memory.limit_bytes.map(bytes)),
            cell(memory.peak_bytes.map(bytes)),
            cell(memory.oom_kills),
            cell(pids.current),
            cell(network.map(|net| bytes(net.rx_bytes))),
            cell(network.map(|net| bytes(net.tx_bytes))),
            cell(io.as_ref().map(|io| bytes(io.read_bytes))),
            cell(io.as_ref().map(|io| bytes(io.write_bytes))),
        ]);
    }
    columns(&rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quilt_cgroup::account::{self, Memory, Pids};

    #[test]
    fn a_table() -> Result<(), String> {
        let account = account::Cpu {
            limit_cpus: Some(0.2),
            periods: Some(8),
            throttled_periods: Some(3),
            ..account::Cpu::default()
        };
        let stats = Stats {
            id: "web".parse()?,
            time: String::new(),
            cgroup: "v2".to_owned(),
            memory: Memory { current_bytes: Some(1536), oom_kills: Some(2), ..Memory::default() },
            cpu: super::super::Cpu { account, percent: Some(19.97), over_us: 1 },
            pids: Pids { current: Some(3), ..Pids::default() },
            io: None,
            network: Some(quilt_netns::Traffic { rx_bytes: 10, tx_bytes: 2048, ..Default::default() }),
            pressure: None,
        };
        assert_eq!(
            table(&[stats]),
            "NAME  CPU%   CPUS  THROTTLED  MEMORY  LIMIT  PEAK  OOM  PIDS  RX   TX    READ  WRITTEN\n\
             web   19.97  0.2   37%        1.5KiB  -      -     2    3     10B  2KiB  -     -\n"
        );
        Ok(())
    }
}
