//! What can be asked of each stage: the stages' own types, under one name each.

#![allow(missing_docs)]

use clap::Args;
pub use quilt_cgroup::Want as Cgroup;
pub use quilt_netns::Want as Netns;
use quilt_record::units::Timeout;
pub use quilt_spawn::Want as Spawn;
pub use quilt_unpack::Want as Unpack;
use serde::{Deserialize, Serialize};

#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Probe {
    /// Check
    #[arg(long, help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<String>,
    /// Overall
    #[arg(long, help_heading = "Readiness")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout: Option<Timeout>,
    /// Keep
    #[arg(long, help_heading = "Readiness")]
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub keep_failed: bool,
}

impl Probe {
    pub fn check(&self) -> Result<(), quilt_record::Error> {
        Ok(())
    }
}
