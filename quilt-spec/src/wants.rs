//! What can be asked of each stage: the stages' own types, under one name each.

#![allow(missing_docs)]

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::Args;
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
pub struct Netns {
    /// bridge, none or host
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
    /// Address
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,
    /// Resolver
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Search domain
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,
    /// NAME:IP
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_host: Vec<String>,
    /// Host name
    #[arg(long, help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

#[derive(Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
pub struct Cgroup {
    /// Memory
    #[arg(long, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Size>,
    /// Weight
    #[arg(long, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu: Option<f64>,
    /// Quota
    #[arg(long, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// Processes
    #[arg(long, help_heading = "Limits")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pids: Option<u64>,
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
