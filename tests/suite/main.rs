//! All tests of Quilt as a whole: real commands on a real kernel. As root: `cargo test -p quilt-tests`.
//!
//! Every test has a machine of its own (`harness/mod.rs`) and leaves it as it was; they take turns.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod harness;

mod attack;
mod attack_caller;
mod attack_end;
mod attack_host;
mod attack_image;
mod attack_join;
mod attack_trace;
mod attacks;
mod attacks_files;
mod cgroup;
mod cgroup_inside;
mod concurrency;
mod confine;
mod deviations;
mod devices;
mod exec;
mod failure;
mod hostile_image;
mod kill;
mod kill_held;
mod lifecycle;
mod limits;
mod mounts;
mod neighbours;
mod netns;
mod oom;
mod ops;
mod pause;
mod plan;
mod probe;
mod prober;
mod repair;
mod repair_parts;
mod run;
mod seed;
mod signals;
mod spawn;
mod spec;
mod stats;
mod stats_shown;
mod steps;
mod top;
mod unpack;
mod userns;
mod userns_debian;
mod volumes;
mod zz_selfcheck;
