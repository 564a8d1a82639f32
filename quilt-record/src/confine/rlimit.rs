//! Resource limits (getrlimit(2)): which there are, what they are here, and how they are set.

use std::io;

use nix::errno::Errno;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

/// All that Linux has, by the names that docker and setrlimit(2) have for them, in small letters.
const KNOWN: [(&str, Resource); 16] = [
    ("as", Resource::RLIMIT_AS),
    ("core", Resource::RLIMIT_CORE),
    ("cpu", Resource::RLIMIT_CPU),
    ("data", Resource::RLIMIT_DATA),
    ("fsize", Resource::RLIMIT_FSIZE),
    ("locks", Resource::RLIMIT_LOCKS),
    ("memlock", Resource::RLIMIT_MEMLOCK),
    ("msgqueue", Resource::RLIMIT_MSGQUEUE),
    ("nice", Resource::RLIMIT_NICE),
    ("nofile", Resource::RLIMIT_NOFILE),
    ("nproc", Resource::RLIMIT_NPROC),
    ("rss", Resource::RLIMIT_RSS),
    ("rtprio", Resource::RLIMIT_RTPRIO),
    ("rttime", Resource::RLIMIT_RTTIME),
    ("sigpending", Resource::RLIMIT_SIGPENDING),
    ("stack", Resource::RLIMIT_STACK),
];

/// Those without any of which no process gets as far as to say so.
const NEEDED: [&str; 5] = ["as", "data", "nofile", "nproc", "stack"];

/// A resource limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// `nofile`: without `RLIMIT_`, in small letters.
    pub name: String,
    /// The soft limit; absent for none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub soft: Option<u64>,
    /// The hard limit; absent for none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hard: Option<u64>,
}

impl Rlimit {
    /// Reads `NAME=SOFT[:HARD]`, numbers or `max`; the hard limit is the soft one if it is not given.
    pub fn parse(text: &str) -> Result<Rlimit, String> {
        let bad = |why: &str| format!("`{}`: {why}", text.escape_default());
        let (name, value) = text.split_once('=').ok_or_else(|| bad("write NAME=SOFT[:HARD], nofile=1024:4096"))?;
        let name = name.to_ascii_lowercase();
        if !KNOWN.iter().any(|(known, _)| *known == name) {
            let names = KNOWN.map(|(name, _)| name).join(", ");
            return Err(bad(&format!("there are {names} (getrlimit(2))")));
        }
        let number = |text: &str| match text {
            "max" | "unlimited" | "-1" => Ok(None),
            digits => digits.parse().map(Some).map_err(|_| bad("a limit is a number or max")),
        };
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let (soft, hard) = (number(soft)?, number(hard)?);
        match (soft, hard) {
            (Some(0), _) if NEEDED.contains(&&*name) => Err(bad("nothing can run without any")),
            (Some(soft), Some(hard)) if soft > hard => Err(bad("the soft limit is above the hard one")),
            (None, Some(_)) => Err(bad("the soft limit is above the hard one")),
            _ => Ok(Rlimit { name, soft, hard }),
        }
    }
}

/// The names of all that there are.
pub fn names() -> impl Iterator<Item = &'static str> {
    KNOWN.into_iter().map(|(name, _)| name)
}

/// The limits of this process that are any.
pub fn current() -> io::Result<Vec<Rlimit>> {
    let finite = |limit: u64| (limit != RLIM_INFINITY).then_some(limit);
    let mut limits = Vec::new();
    for (name, resource) in KNOWN {
        let (soft, hard) = getrlimit(resource)?;
        if (soft, hard) != (RLIM_INFINITY, RLIM_INFINITY) {
            limits.push(Rlimit { name: name.to_owned(), soft: finite(soft), hard: finite(hard) });
        }
    }
    Ok(limits)
}

/// Gives this process those limits, and none of the others. A hard limit can only be lowered without CAP_SYS_RESOURCE:
/// where it is below what is asked, that is how far it goes.
pub fn set(limits: &[Rlimit]) -> io::Result<()> {
    for (name, resource) in KNOWN {
        let asked = limits.iter().find(|limit| limit.name == name);
        let of = |limit: Option<u64>| limit.unwrap_or(RLIM_INFINITY);
        let (soft, hard) = asked.map_or((RLIM_INFINITY, RLIM_INFINITY), |limit| (of(limit.soft), of(limit.hard)));
        match setrlimit(resource, soft, hard) {
            Err(Errno::EPERM) => {
                let (_, most) = getrlimit(resource)?;
                setrlimit(resource, soft.min(most), hard.min(most))?;
            }
            other => other?,
        }
    }
    Ok(())
}

/// Raises the hard limits to what [`set`] will ask, as far as this process may, and lowers none. Before it enters a user
/// namespace, where it may not (`capable(CAP_SYS_RESOURCE)` in `do_prlimit`, Linux kernel/sys.c).
pub fn raise(limits: &[Rlimit]) -> io::Result<()> {
    for (name, resource) in KNOWN {
        let asked =
            limits.iter().find(|limit| limit.name == name).and_then(|limit| limit.hard).unwrap_or(RLIM_INFINITY);
        let (soft, hard) = getrlimit(resource)?;
        if asked > hard {
            match setrlimit(resource, soft, asked) {
                Ok(()) | Err(Errno::EPERM) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_asked() {
        let limit = |name: &str, soft, hard| Ok(Rlimit { name: name.to_owned(), soft, hard });
        assert_eq!(Rlimit::parse("nofile=1024:4096"), limit("nofile", Some(1024), Some(4096)));
        assert_eq!(Rlimit::parse("CORE=0"), limit("core", Some(0), Some(0)));
        assert_eq!(Rlimit::parse("nproc=10:max"), limit("nproc", Some(10), None));
        assert_eq!(Rlimit::parse("nproc=-1"), limit("nproc", None, None));
        for bad in [
            "",
            "nofile",
            "nofile=",
            "nofile=x",
            "files=1",
            "nofile=2:1",
            "nproc=0",
            "nproc=0:9",
            "nofile=max:1",
            "nofile=1:2:3",
        ] {
            assert!(Rlimit::parse(bad).is_err(), "{bad}");
        }
    }
}
