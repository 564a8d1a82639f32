//! Whose ids a container's are: the host's own, or a block of them that no one else has.
//!
//! A container's block follows from its address: one lease is enough for both, and nothing is asked of the disk. Those
//! without an address, and the few whose address is beyond the first half of the blocks, lease one of the second half. Of a
//! small range all are leased: the half that belongs to addresses would lie idle, but for the few that are in use.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use std::net::Ipv4Addr;

use quilt_record::defence::out;
use quilt_record::have::Unpack;
use quilt_record::id::hash64;
use quilt_record::idmap::IdMap;
use quilt_record::{Claim, Code, Error, Id, Instance};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::lease::{self, Name};
use crate::subnet::Subnet;
use crate::want::{Userns, Want};
use crate::{kept, trial};

/// How many ids a container gets: what fits 16 bits, so that `nobody` (65534) is among them.
pub const BLOCK: u32 = 1 << 16;

/// A range of fewer blocks is small: half of them would not do for the addresses of the first bridge.
const SMALL: u32 = 1 << 11;

/// The setting's name.
pub(crate) const RANGE: &str = "userns-range";

/// The ids of the host that containers get theirs from, as text `FIRST:COUNT`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: u32,
    count: u32,
}

impl Default for Range {
    /// A quarter of all there are, from 2^30: 16,384 blocks.
    fn default() -> Range {
        Range { first: 1 << 30, count: 1 << 30 }
    }
}

impl Range {
    /// The range of the instance: what its first use chose. `asked` must agree. Keeps it if `keep` is set.
    pub fn of(instance: &Instance, asked: Option<Range>, keep: bool) -> Result<Range, Error> {
        kept::setting(instance, RANGE, asked, keep)
    }

    fn blocks(self) -> u32 {
        self.count / BLOCK
    }

    /// Block `number`, as a map.
    pub fn block(self, number: u32) -> IdMap {
        let first = self.first + number * BLOCK;
        IdMap { uid: first, gid: first, size: BLOCK }
    }

    /// How many blocks, from the first, go with addresses.
    fn followers(self) -> u32 {
        if self.blocks() < SMALL { 0 } else { self.blocks() / 2 }
    }

    /// The number of the block that goes with an address, if one does.
    pub fn follows(self, subnet: Subnet, address: Ipv4Addr) -> Option<u32> {
        Some(subnet.index(address)).filter(|index| *index < self.followers())
    }

    /// The numbers of the blocks that are leased by themselves, in the order in which they are tried for an id with this
    /// hash.
    fn candidates(self, hash: u64) -> impl Iterator<Item = u32> {
        let first = self.followers();
        let count = self.blocks() - first;
        (0..count).map(move |i| first + ((hash % u64::from(count)) as u32 + i) % count)
    }

    /// Whether the map has ids of the range.
    fn meets(self, map: IdMap) -> bool {
        let meets = |first: u32| first < self.first + self.count && self.first < first + map.size;
        meets(map.uid) || meets(map.gid)
    }
}

impl FromStr for Range {
    type Err = String;

    fn from_str(text: &str) -> Result<Range, String> {
        let numbers = text.split_once(':').map(|(first, count)| (first.parse::<u32>(), count.parse::<u32>()));
        let Some((Ok(first), Ok(count))) = numbers else {
            return Err(format!("`{text}` is not FIRST:COUNT, as in 1073741824:1073741824"));
        };
        if first < BLOCK || first.checked_add(count).is_none() || count < 2 * BLOCK {
            return Err(format!(
                "{text}: FIRST must be 65536 at least (below are the host's users), COUNT 131072 at least (two containers), \
                 and FIRST + COUNT 4294967295 at most"
            ));
        }
        Ok(Range { first, count })
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.first, self.count)
    }
}

impl Serialize for Range {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Range {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Range, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What the ids of a container depend on, beside what is asked of its network.
#[derive(Clone, Debug, Default)]
pub struct Around {
    /// Its layers, whose file systems must be able to do it. Not known in a dry run.
    pub layers: Option<Unpack>,
    /// Whether it has the host's process ids (`--pid host`).
    pub host_pids: bool,
    /// Whether it is to have no protection at all (`--privileged`).
    pub privileged: bool,
}

/// What is to be done about the ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// They are the host's; why, if something else was wanted.
    Host(Option<String>),
    /// These, as they were asked for.
    Map(IdMap),
    /// A block of the range.
    Auto(Range),
}

impl Choice {
    /// What there is to say about it.
    pub fn note(&self) -> Vec<String> {
        if let Choice::Host(note) = self { note.iter().cloned().collect() } else { Vec::new() }
    }
}

/// Decides. Nothing has been touched before, but what is found out about the machine is kept, unless it is a dry run.
pub(crate) fn choose(instance: &Instance, want: &Want, around: &Around, dry: bool) -> Result<Choice, Error> {
    if out("userns") {
        return Ok(Choice::Host(None));
    }
    // Its processes are the host's root's, and see the host's: `kill -9 -1` would be the end of them.
    let unsafe_pids = around.host_pids && !around.privileged;
    let map = match want.userns.unwrap_or(Userns::DEFAULT) {
        Userns::Host if unsafe_pids => {
            let why = "it needs a user namespace, or root inside could kill every process of the host: \
                       add --userns auto (or --privileged, which is no protection at all)";
            return Err(Error::new(Code::Invalid, "read --pid host", why));
        }
        Userns::Host => return Ok(Choice::Host(None)),
        Userns::Auto if want.userns.is_none() && around.privileged => {
            return Ok(Choice::Host(Some("no user namespace: --privileged".to_owned())));
        }
        Userns::Auto => None,
        Userns::Map(map) => Some(map),
    };
    // Kept for those who name their own as well: what is asked of them now must hold for the blocks that come later.
    let range = Range::of(instance, want.userns_range, !dry)?;
    if let Some(map) = map.filter(|map| range.meets(*map)) {
        let why = format!("{map} has ids of {range}, which containers with --userns auto get (--userns-range)");
        return Err(Error::new(Code::Invalid, "read --userns", why));
    }
    let refusal = trial::refusal(instance, around.layers.as_ref(), map.unwrap_or_else(|| range.block(0)), dry)?;
    match (refusal, map) {
        (None, None) => Ok(Choice::Auto(range)),
        (None, Some(map)) => Ok(Choice::Map(map)),
        (Some(why), Some(map)) => Err(Error::new(Code::Unsupported, format!("use --userns {map}"), why)),
        (Some(why), None) if unsafe_pids => {
            let why =
                format!("it needs a user namespace, and {why} (--privileged, no protection at all, does without)");
            Err(Error::new(Code::Unsupported, "use --pid host", why))
        }
        (Some(why), None) => Ok(Choice::Host(Some(format!("no user namespace: {why}")))),
    }
}

/// A lease of a block.
#[derive(Clone, Debug)]
pub struct Lease {
    /// The symlink that is the lease.
    pub path: PathBuf,
    /// Its target.
    pub owner: String,
}

/// The block of a container that has this address, and the lease of it, where there is one for it alone.
pub(crate) fn block(
    range: Range,
    address: Option<(Subnet, Ipv4Addr)>,
    (instance, id, claim): (&Instance, &Id, Claim),
    dry: bool,
) -> Result<(IdMap, Option<Lease>), Error> {
    if let Some(number) = address.and_then(|(subnet, address)| range.follows(subnet, address)) {
        return Ok((range.block(number), None));
    }
    let owner = lease::owner(id, claim);
    let free = || -> Result<Option<u32>, Error> {
        // The one it has, before one that became free before it.
        let own = lease::list(instance)?.into_iter().find_map(|(name, whose)| match name {
            Name::Ids(number) if whose == owner && number < range.blocks() => Some(number),
            _ => None,
        });
        if own.is_some() {
            return Ok(own);
        }
        for number in range.candidates(hash64(id.as_str().as_bytes())) {
            if lease::take(instance, Name::Ids(number), &owner, dry)?.is_none() {
                return Ok(Some(number));
            }
        }
        Ok(None)
    };
    let found = match free()? {
        None if !dry && lease::reclaim(instance)? > 0 => free()?,
        found => found,
    };
    let Some(number) = found else {
        let message = format!("every block of {range} is taken (quilt gc frees what dead containers left)");
        return Err(Error::new(Code::Exhausted, "lease a block of ids", message));
    };
    let path = lease::dir(instance).join(Name::Ids(number).to_string());
    Ok((range.block(number), Some(Lease { path, owner })))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ranges_are_read_strictly() {
        for good in ["1073741824:1073741824", "65536:131072", "100000:4294867295"] {
            assert_eq!(good.parse::<Range>().map(|r| r.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "1", "65536:131071", "65535:131072", "100000:4294867296", "a:b", "1:2:3"] {
            assert!(bad.parse::<Range>().is_err(), "{bad}");
        }
    }

    #[test]
    fn blocks_are_in_the_range_and_of_one_kind_each() {
        let subnet = Subnet::default();
        for blocks in [2, 5, SMALL - 1, SMALL, SMALL + 1, 1 << 14] {
            let range = Range { first: 1 << 30, count: blocks * BLOCK + 7 };
            let follow: BTreeSet<u32> =
                (0..1 << 16).filter_map(|i| range.follows(subnet, Ipv4Addr::from(0x0a2a_0000 + i))).collect();
            let leased: BTreeSet<u32> = range.candidates(0xdead_beef).collect();
            assert!(follow.is_disjoint(&leased));
            let all: Vec<u32> = follow.union(&leased).copied().collect();
            assert_eq!(all, (0..range.blocks()).collect::<Vec<_>>());
            let last = range.block(range.blocks() - 1);
            assert!(last.check().is_ok() && last.uid + last.size <= range.first + range.count);
            assert!(range.meets(range.block(0)) && range.meets(last));
            assert!(!range.meets(IdMap { uid: 1, gid: 1, size: range.first - 1 }));
            // A block for every address would be idle with every other.
            assert!(follow.is_empty() == (range.blocks() < SMALL), "{range}");
        }
    }
}
