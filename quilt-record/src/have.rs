//! What each tool says it did: the `have` of its section, which the tools after it and the operator's verbs read.
//!
//! What a tool was asked, the `want`, is that tool's own type; what it did is a promise to others, so it stands here.

mod device;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::confine::{Rules, User};
use crate::idmap::IdMap;
use crate::process::ProcessId;

pub use device::Device;

/// `unpack`: where the root file system is. Outlives a reboot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unpack {
    /// `sha256:…` of the image file; absent for a directory, which is used in place.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<String>,
    /// The read-only layers, the topmost first: absolute paths.
    pub lower: Vec<PathBuf>,
    /// The container's own writable layer: an absolute path.
    pub upper: PathBuf,
    /// The work directory that overlayfs needs beside `upper`.
    pub work: PathBuf,
    /// Whether the image had been unpacked before.
    pub cached: bool,
}

/// `netns`: the network, until the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Netns {
    /// The boot it belongs to.
    pub boot: String,
    /// `bridge`, `none` or `host`.
    pub network: String,
    /// The pinned network namespace (a bind of an nsfs file), until spawn has entered it; absent with `host`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub net: Option<PathBuf>,
    /// The pinned user namespace of a container that has one beside the host's network. (Else it is the one that `net`
    /// belongs to, and needs no pin.)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<PathBuf>,
    /// Which ids of the host the container's are, if it has a user namespace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ids: Option<IdMap>,
    /// The container's address and what belongs to it; absent without a bridge.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<Link>,
    /// The container's host name.
    pub hostname: String,
    /// Files that the container's root gets before it starts: absolute path and content.
    pub files: Vec<(String, String)>,
    /// What could not be done on this host and is no failure, in words.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// A container's place on the bridge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The interface inside: `eth0`.
    pub name: String,
    /// The host's end.
    pub host: String,
    /// The bridge that the host's end is a port of.
    pub bridge: String,
    /// The container's IPv4 address.
    pub address: std::net::Ipv4Addr,
    /// The prefix length that the container sees, in bits.
    pub prefix: u8,
    /// The default gateway.
    pub gateway: std::net::Ipv4Addr,
    /// The container's MAC address, `02:…`.
    pub mac: String,
}

/// `cgroup`: where the limits are, until the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cgroup {
    /// The boot it belongs to.
    pub boot: String,
    /// `v1`, `hybrid` (v1 controllers beside a v2 tree without) or `v2`.
    pub version: String,
    /// Every hierarchy that the container has a directory in.
    pub hierarchies: Vec<Hierarchy>,
    /// The devices of the host that it may use beside everybody's.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub devices: Vec<Device>,
    /// What could not be done on this host and is no failure, in words.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// One directory of a container, which carries the limits. Its processes are in `init` and `x-N` below it in one hierarchy
/// ([`crate::leaf::judge`]), and in the directory itself in the others, which are v1's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchy {
    /// 1 or 2.
    pub version: u8,
    /// The controllers, comma-separated as in `/proc/PID/cgroup` (`cpu,cpuacct`); empty for a v2 tree without any.
    pub controllers: String,
    /// The container's directory: an absolute path.
    pub path: PathBuf,
}

impl Hierarchy {
    /// Whether it has the controller, by the name that its version has for it.
    pub fn has(&self, controller: &str) -> bool {
        self.controllers.split(',').any(|name| name == controller)
    }
}

/// `spawn`: the running container, until the next boot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spawn {
    /// The container's init.
    #[serde(flatten)]
    pub init: ProcessId,
    /// When it started: RFC 3339.
    pub started: String,
    /// The namespaces that were made for it: `user`, `net`, `mnt`, `uts`, `ipc`, `cgroup`, `pid`, with their inode numbers
    /// (`/proc/PID/ns/*`, namespaces(7)).
    pub namespaces: Vec<(String, u64)>,
    /// Which ids of the host its own are, if it has a user namespace.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ids: Option<IdMap>,
    /// Whom its commands run as that name nobody: found once, in the image's files, for the container's own command and for
    /// those that come later. Absent in a record from before this was said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user: Option<User>,
    /// The environment of its commands, HOME of that user with it: `NAME=value`.
    pub env: Vec<String>,
    /// What its processes are held to; the default for a container that was started before this was said.
    #[serde(default)]
    pub confine: Rules,
    /// What could not be done on this host and is no failure, in words.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub notes: Vec<String>,
}

/// `probe`: how it was found ready.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Probe {
    /// Whether every phase passed.
    pub ready: bool,
    /// The boot it was found in.
    pub boot: String,
    /// From the start of the first phase to the end of the last, in microseconds.
    pub us: u64,
    /// The phases in the order they were looked at.
    pub phases: Vec<Phase>,
}

/// One phase of readiness.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Phase {
    /// `process`, `namespaces`, `exec`, `network` or `health`.
    pub name: String,
    /// Whether it passed.
    pub ok: bool,
    /// How often it was tried.
    pub tries: u32,
    /// How long it took, in microseconds.
    pub us: u64,
    /// What was seen: an object whose keys depend on the phase.
    pub evidence: serde_json::Value,
}
