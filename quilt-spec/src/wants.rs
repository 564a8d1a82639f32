//! What can be asked of each stage: the stages' own types, under one name each.

pub use quilt_cgroup::Want as Cgroup;
pub use quilt_netns::Want as Netns;
pub use quilt_probe::Want as Probe;
pub use quilt_spawn::Want as Spawn;
pub use quilt_unpack::Want as Unpack;
