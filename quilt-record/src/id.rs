//! Names: the container's id, and what is derived from it for the kernel.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A container's id, which is its name: `[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}`.
///
/// The pattern leaves no room for a path separator, an option (`-rf`), white space or a control character, so an
/// id may stand in a path, a cgroup name or a shell word as it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(String);

/// The longest id, in bytes (a DNS label, RFC 1035, so that the id is a legal host name component).
pub const ID_MAX: usize = 63;

impl Id {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A fresh id for a container that nobody named: `c` and twelve hexadecimal digits.
    pub fn generate(random: u128) -> Id {
        Id(format!("c{:012x}", random & 0xffff_ffff_ffff))
    }
}

impl FromStr for Id {
    type Err = String;

    fn from_str(text: &str) -> Result<Id, String> {
        let first = text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
        let rest = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b));
        if first && rest && text.len() <= ID_MAX {
            Ok(Id(text.to_owned()))
        } else {
            Err(format!("a name is a letter or digit, then up to {} of letters, digits, `_`, `.`, `-`", ID_MAX - 1))
        }
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Id, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// FNV-1a, 64 bits: where a name must be shorter than the id allows. What is named so carries the id as a label.
pub fn hash64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3))
}

/// The low `5 * digits` bits of a hash as lower-case base 32 (RFC 4648 alphabet): safe in interface names.
pub fn base32(hash: u64, digits: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    (0..digits).map(|i| char::from(ALPHABET[(hash >> (5 * i)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_reach_a_shell_or_a_path_are_refused() {
        for bad in ["", "-rf", ".", "..", "a/b", "a b", "$(id)", "a;b", "a\nb", "*", "é", "_x", &"a".repeat(64)] {
            assert!(bad.parse::<Id>().is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "0", "agent-1", "A_b.c-d", &"a".repeat(63)] {
            assert!(good.parse::<Id>().is_ok(), "{good:?} was refused");
        }
    }
}
