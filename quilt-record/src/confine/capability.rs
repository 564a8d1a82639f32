//! Sets of capabilities (capabilities(7)), and their names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// All that there are, in the order of their numbers (`linux/capability.h`, 5.9 and later), without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A set of capabilities, as the mask that `/proc/PID/status` shows. In JSON a list of names, `["CAP_CHOWN", …]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CapSet(pub u64);

impl CapSet {
    /// All of [`NAMES`].
    pub const ALL: CapSet = CapSet((1 << NAMES.len()) - 1);

    /// The default: podman's eleven.
    pub const DEFAULT: CapSet = CapSet(0x8004_05fb);

    /// Both.
    pub fn with(self, other: CapSet) -> CapSet {
        CapSet(self.0 | other.0)
    }

    /// What the other has not.
    pub fn without(self, other: CapSet) -> CapSet {
        CapSet(self.0 & !other.0)
    }

    /// Whether all of the other is in it.
    pub fn has(self, other: CapSet) -> bool {
        other.0 & !self.0 == 0
    }

    /// The names, `CAP_CHOWN`.
    pub fn names(self) -> impl Iterator<Item = String> {
        let named = NAMES.iter().enumerate().filter(move |(n, _)| self.0 & (1 << n) != 0);
        named.map(|(_, name)| format!("CAP_{name}"))
    }
}

/// One name, in any case, with or without `CAP_`, or `ALL`.
impl FromStr for CapSet {
    type Err = String;

    fn from_str(text: &str) -> Result<CapSet, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Ok(CapSet::ALL);
        }
        let number = NAMES.iter().position(|known| *known == name);
        let bad = || format!("`{}` is not a capability (capabilities(7)), nor ALL", text.escape_default());
        number.map(|number| CapSet(1 << number)).ok_or_else(bad)
    }
}

impl fmt::Display for CapSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl Serialize for CapSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.names())
    }
}

impl<'de> Deserialize<'de> for CapSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<CapSet, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names
            .iter()
            .try_fold(CapSet(0), |set, name| name.parse().map(|one| set.with(one)).map_err(serde::de::Error::custom))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_podmans_eleven() {
        let names: Vec<String> = CapSet::DEFAULT.names().map(|name| name.replace("CAP_", "")).collect();
        assert_eq!(
            names.join(" "),
            "CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT SETFCAP"
        );
    }

    #[test]
    fn names_come_back() -> Result<(), serde_json::Error> {
        for set in [CapSet(0), CapSet::DEFAULT, CapSet::ALL, CapSet(1 << 40)] {
            assert_eq!(serde_json::from_str::<CapSet>(&serde_json::to_string(&set)?)?, set);
        }
        assert_eq!("net_raw".parse(), Ok(CapSet(1 << 13)));
        assert_eq!("CAP_NET_RAW".parse(), Ok(CapSet(1 << 13)));
        assert_eq!("all".parse(), Ok(CapSet::ALL));
        for bad in ["", "CAP_", "RAW", "13", "CAP_CAP_CHOWN"] {
            assert!(bad.parse::<CapSet>().is_err(), "{bad}");
        }
        Ok(())
    }
}
