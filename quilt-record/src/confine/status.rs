//! What the kernel says of a process's confinement (proc_pid_status(5)).

use std::fmt::Display;
use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::CapSet;

/// The text of `/proc/PID/status`. No value has a line feed in it: the kernel escapes the name of the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Status(String);

impl Status {
    /// Reads that of a process: its number, or `self`.
    pub fn read(who: impl Display) -> io::Result<Status> {
        // The name of a process need not be UTF-8.
        let text = fs::read(format!("/proc/{who}/status"))?;
        Ok(Status(String::from_utf8_lossy(&text).into_owned()))
    }

    /// The value of a field; empty if there is none.
    pub fn field(&self, name: &str) -> &str {
        let found = self.0.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.unwrap_or_default().trim()
    }

    /// A set of capabilities: `CapBnd`, …; all that there may ever be if it is not there to be read.
    pub fn capabilities(&self, name: &str) -> CapSet {
        CapSet(u64::from_str_radix(self.field(name), 16).unwrap_or(u64::MAX))
    }

    /// Whether no exec grants it anything.
    pub fn no_new_privs(&self) -> bool {
        self.field("NoNewPrivs") == "1"
    }

    /// Whether its system calls are filtered (seccomp(2), SECCOMP_MODE_FILTER).
    pub fn filtered(&self) -> bool {
        self.field("Seccomp") == "2"
    }
}

/// From text, to try things out.
impl From<&str> for Status {
    fn from(text: &str) -> Status {
        Status(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_names() {
        let text = "Name:\tNoNewPrivs:\\n1\nCapBnd:\t0000000000000003\nNoNewPrivs:\t0\nSeccomp_filters:\t1\nSeccomp:\t2\nGroups:\t \n";
        let status = Status::from(text);
        assert_eq!((status.field("Name"), status.field("Groups"), status.field("Cap")), ("NoNewPrivs:\\n1", "", ""));
        assert_eq!((status.capabilities("CapBnd"), status.capabilities("CapEff")), (CapSet(3), CapSet(u64::MAX)));
        assert_eq!((status.no_new_privs(), status.filtered()), (false, true));
    }

    #[test]
    fn ones_own_can_be_read() -> io::Result<()> {
        let status = Status::read("self")?;
        assert_eq!(status.field("Pid"), std::process::id().to_string());
        Ok(())
    }
}
