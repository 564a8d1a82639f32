//! What all processes of one container are held to, as its record says it.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::capability::CapSet;
use super::rlimit::Rlimit;

/// What the processes of a container are held to, whoever they run as. Made by spawn from what was asked, and the same for
/// init, every command and every check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// The bounding set; what root has.
    pub capabilities: CapSet,
    /// Whether no exec grants anything (no_new_privs).
    pub no_new_privs: bool,
    /// The filter of system calls.
    pub seccomp: Seccomp,
    /// Resource limits of each process: those that are not named are none (RLIM_INFINITY).
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub rlimits: Vec<Rlimit>,
}

/// By its number in linux/capability.h.
const SYS_PTRACE: CapSet = CapSet(1 << 19);

impl Rules {
    /// Whether what runs inside may look into others that are not dumpable, where its user namespace is that of their
    /// memory (ptrace(2), "ptrace access mode checking").
    pub fn may_trace(&self) -> bool {
        self.capabilities.has(SYS_PTRACE)
    }

    /// Whether what joins has the filter already when it forks the process that is seen inside: without no_new_privs it
    /// takes a capability that goes before that ([`super::apply`]), and whoever may trace must see nobody without it.
    pub fn filter_comes_early(&self) -> bool {
        self.may_trace() || !self.no_new_privs
    }
}

/// Which filter of system calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Seccomp {
    /// The one that is built in.
    Default,
    /// One made for this container, in its directory's [`FILTER`].
    File,
    /// None.
    Off,
    /// None of its own, but that of who started it, which nobody can take off.
    Inherited,
}

/// The file in a container's directory that holds its own filter: `struct sock_filter`s (linux/filter.h), nothing else.
pub const FILTER: &str = "seccomp.bpf";

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            capabilities: CapSet::DEFAULT,
            no_new_privs: true,
            seccomp: Seccomp::Default,
            rlimits: vec![Rlimit { name: "core".to_owned(), soft: Some(0), hard: Some(0) }],
        }
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "capabilities {}", self.capabilities)?;
        f.write_str(if self.no_new_privs { ", no_new_privs" } else { "" })?;
        match self.seccomp {
            Seccomp::Default => f.write_str(", the default seccomp filter"),
            Seccomp::File => f.write_str(", a seccomp filter of its own"),
            Seccomp::Off => Ok(()),
            Seccomp::Inherited => f.write_str(", the caller's own seccomp filter"),
        }
    }
}
