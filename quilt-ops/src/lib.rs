//! The operator's verbs, one small program each: rm, stop, kill, pause, unpause, update, ls, inspect, stats, top, wait, logs,
//! gc, repair, version, help. What they share is here; a program in `bin/` parses, calls, reports.
//!
//! Nothing here creates. What it takes back it finds by name, in the directories and in the kernel, and asks the record
//! only for what makes it faster: so it works on a record that is half written or not readable at all.
//!
//! The one hard thing is to take back something that others may be making, removing or finding at the same moment
//! (`remove.rs`, `gc.rs`): always under the container's lock, with its claim marked first, its directory last.

pub mod cli;
pub mod gc;
pub mod in_force;
pub mod list;
pub mod live;
pub mod logs;
pub mod network;
pub mod output;
pub mod pause;
pub mod purge;
pub mod remove;
pub mod repair;
pub mod rest;
pub mod state;
pub mod stats;
pub mod stop;
pub mod top;
pub mod update;
pub mod wait;
