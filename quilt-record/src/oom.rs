//! Processes that the kernel killed for lack of memory.

use std::fs;

use crate::have::Hierarchy;

/// How many processes of a container the kernel has killed because its memory was at the limit (or the host's was used
/// up), since its cgroup was made: `oom_kill` of v2's `memory.events`, with the cgroups below (Linux
/// `Documentation/admin-guide/cgroup-v2.rst`), or of v1's `memory.oom_control`, where all processes are in the cgroup
/// itself (Linux 4.13). `None` if no hierarchy counts, or the container's cgroup is gone.
pub fn kills(hierarchies: &[Hierarchy]) -> Option<u64> {
    let memory = hierarchies.iter().find(|h| h.has("memory"))?;
    let file = if memory.version == 1 { "memory.oom_control" } else { "memory.events" };
    let text = fs::read_to_string(memory.path.join(file)).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// What to tell a person of `count` kills.
pub fn sentence(count: u64) -> String {
    let processes = if count == 1 { "a process".to_owned() } else { format!("{count} processes") };
    format!("the kernel killed {processes} of the container for lack of memory (oom_kill)")
}
