//! Claims: who may create and destroy what is named after an id.
//!
//! The claim of a container is a symlink `claim` in its directory, whose target is the claim's text: made and
//! replaced atomically with its content. While a wrapper's pipeline is at work, the target also names the wrapper's
//! process, so that `gc` can tell a create that died from one that was stopped on purpose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::process::ProcessId;
use crate::sys;

/// 128 random bits, as 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim(u128);

impl Claim {
    /// A claim that nobody else has (getrandom(2)).
    pub fn generate() -> Claim {
        Claim(sys::random_u128())
    }

    /// The bits.
    pub fn bits(self) -> u128 {
        self.0
    }
}

impl FromStr for Claim {
    type Err = String;

    /// 32 hexadecimal digits; dashes are passed over, so that `/proc/sys/kernel/random/uuid` is a claim too.
    fn from_str(text: &str) -> Result<Claim, String> {
        let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
        if digits.len() != 32 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("a claim is 32 hexadecimal digits".to_owned());
        }
        u128::from_str_radix(&digits, 16).map(Claim).map_err(|e| e.to_string())
    }
}

impl fmt::Display for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl Serialize for Claim {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Claim {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Claim, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the `claim` symlink says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The claim.
    pub claim: Claim,
    /// What is being done under it.
    pub work: Work,
}

/// What is being done under a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: the container is as somebody wanted it.
    Settled,
    /// A pipeline is creating it; dead if this process (the wrapper) is. Undoing it removes all of it.
    Creating(ProcessId),
    /// A pipeline is starting one that was there before, or resuming one. Undoing it makes it a stopped container.
    Starting(ProcessId),
    /// It is being removed, and what is left of it is nobody's.
    Removing,
}

impl FromStr for Holder {
    type Err = String;

    fn from_str(text: &str) -> Result<Holder, String> {
        let (claim, work) = text.split_once(' ').unwrap_or((text, ""));
        let work = match work {
            "" => Work::Settled,
            "removing" => Work::Removing,
            work => match work.split_once(' ') {
                Some(("creating", process)) => Work::Creating(process.parse()?),
                Some(("starting", process)) => Work::Starting(process.parse()?),
                _ => return Err(format!("`{work}` is nothing that is done under a claim")),
            },
        };
        Ok(Holder { claim: claim.parse()?, work })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.work {
            Work::Settled => write!(f, "{}", self.claim),
            Work::Creating(process) => write!(f, "{} creating {process}", self.claim),
            Work::Starting(process) => write!(f, "{} starting {process}", self.claim),
            Work::Removing => write!(f, "{} removing", self.claim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_a_claim() {
        let uuid = "0123abcd-4567-89ab-cdef-0123456789ab\n".parse::<Claim>().map(|c| c.to_string());
        assert_eq!(uuid, Ok("0123abcd456789abcdef0123456789ab".to_owned()));
        for bad in ["", "12", "+123abcd456789abcdef0123456789ab", "../../../../../../../../../../etc"] {
            assert!(bad.parse::<Claim>().is_err(), "{bad}");
        }
    }

    #[test]
    fn holders_round_trip() {
        for text in [
            "0123abcd456789abcdef0123456789ab",
            "0123abcd456789abcdef0123456789ab removing",
            "0123abcd456789abcdef0123456789ab creating 12.3456@7d0bb7f0-94a4-4af4-9f5a-6e45e6a6ad36",
            "0123abcd456789abcdef0123456789ab starting 12.3456@7d0bb7f0-94a4-4af4-9f5a-6e45e6a6ad36",
        ] {
            assert_eq!(text.parse::<Holder>().map(|h| h.to_string()), Ok(text.to_owned()));
        }
    }
}
