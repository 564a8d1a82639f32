//! Which devices a container may use: everybody's, and those of the host that it was given.
//!
//! v1 has a hierarchy for it, v2 a program of BPF on the cgroup (`devices/bpf.rs`). It is the third line of defence: a
//! container cannot make a device node (no CAP_MKNOD), and those of its image do not open (its mounts are `nodev`).

mod bpf;
mod policy;
mod resolve;

pub(crate) use policy::Policy;
pub(crate) use resolve::{check, resolve};

use std::fmt;

/// What may be done with a device, in the kernel's own bits (`BPF_DEVCG_ACC_*`, linux/bpf.h): mknod, read, write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access(u8);

impl Access {
    const MKNOD: Access = Access(1);
    const USE: Access = Access(2 | 4);
    const ALL: Access = Access(1 | 2 | 4);
    const LETTERS: [(char, u8); 3] = [('r', 2), ('w', 4), ('m', 1)];

    /// `rw`: some of the three letters, each at most once.
    fn parse(text: &str) -> Option<Access> {
        let bits = text.chars().try_fold(0, |bits, letter| {
            let (_, bit) = Access::LETTERS.iter().find(|(known, _)| *known == letter)?;
            (bits & bit == 0).then_some(bits | bit)
        })?;
        (bits != 0).then_some(Access(bits))
    }

    fn and(self, other: Access) -> Access {
        Access(self.0 | other.0)
    }

    fn has(self, other: Access) -> bool {
        self.0 & other.0 == other.0
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = Access::LETTERS.iter().filter(|(_, bit)| self.0 & bit != 0);
        set.into_iter().try_for_each(|(letter, _)| write!(f, "{letter}"))
    }
}

/// What may be done with some devices; v1 takes it as it is printed (`device-cgroup.rst`): `c 136:* rw`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// `c` or `b`.
    kind: char,
    major: u32,
    /// `None`: every one.
    minor: Option<u32>,
    access: Access,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minor = self.minor.map_or("*".to_owned(), |minor| minor.to_string());
        write!(f, "{} {}:{minor} {}", self.kind, self.major, self.access)
    }
}

/// Everybody's (`Documentation/admin-guide/devices.txt`): null, zero, full, random, urandom and tty, whose nodes the
/// container's init makes before it is confined; ptmx and the terminals, which devpts makes.
const EVERYBODYS: [Rule; 8] = [
    everybodys(1, Some(3), Access::ALL),
    everybodys(1, Some(5), Access::ALL),
    everybodys(1, Some(7), Access::ALL),
    everybodys(1, Some(8), Access::ALL),
    everybodys(1, Some(9), Access::ALL),
    everybodys(5, Some(0), Access::ALL),
    everybodys(5, Some(2), Access::USE),
    everybodys(136, None, Access::USE),
];

const fn everybodys(major: u32, minor: Option<u32>, access: Access) -> Rule {
    Rule { kind: 'c', major, minor, access }
}
