//! What can be asked of each stage: the stages' own types, under one name each.

#![allow(missing_docs)]

use std::path::PathBuf;

use clap::Args;
pub use quilt_cgroup::Want as Cgroup;
pub use quilt_netns::Want as Netns;
use quilt_record::units::{Size, Span, Timeout};
use serde::{Deserialize, Serialize};

#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct Unpack {
    /// The image: a tar file, plain or compressed with gzip or zstd, or a directory
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<PathBuf>,
}

#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct Spawn {
    /// NAME=VALUE
    #[arg(short, long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// User
    #[arg(short, long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Directory
    #[arg(short, long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// private or host
    #[arg(long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<String>,
    /// Log
    #[arg(long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_size: Option<Size>,
    /// Stop
    #[arg(long, help_heading = "Process")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<Span>,
    /// Command
    #[arg(last = true, help_heading = "Process")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
}

#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
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

impl Spawn {
    pub fn check(&self) -> Result<(), quilt_record::Error> {
        Ok(())
    }
}

impl Probe {
    pub fn check(&self) -> Result<(), quilt_record::Error> {
        Ok(())
    }
}
