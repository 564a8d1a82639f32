//! The instance's subnet, cut into one piece of at most 1,024 addresses per bridge: that is how many ports a Linux
//! bridge has (`BR_MAX_PORTS`, net/bridge/br_private.h).

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use quilt_record::{Error, Instance};

use crate::kept;

/// The prefix length of a bridge's piece.
const SHARD: u8 = 22;

/// An IPv4 subnet, /16 to /28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    network: Ipv4Addr,
    prefix: u8,
}

impl Default for Subnet {
    fn default() -> Subnet {
        Subnet { network: Ipv4Addr::new(10, 42, 0, 0), prefix: 16 }
    }
}

/// The piece of the subnet that one bridge carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// The number of the bridge.
    pub index: u32,
    /// The first address.
    pub network: Ipv4Addr,
    /// The prefix length in bits.
    pub prefix: u8,
}

/// A prefix length as a mask.
pub(crate) fn mask_of(prefix: u8) -> Ipv4Addr {
    Ipv4Addr::from(mask(prefix))
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl Subnet {
    /// The first address, which is nobody's.
    pub fn network(self) -> Ipv4Addr {
        self.network
    }

    /// The prefix length in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The prefix as a mask.
    pub fn mask(self) -> Ipv4Addr {
        mask_of(self.prefix)
    }

    /// The gateway of every container: the first address after the network's own. Every bridge has it.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.network) + 1)
    }

    /// Which of its addresses this is, from 0.
    pub fn index(self, address: Ipv4Addr) -> u32 {
        u32::from(address) & !mask(self.prefix)
    }

    /// How many bridges there can be.
    pub fn shards(self) -> u32 {
        1 << SHARD.saturating_sub(self.prefix)
    }

    /// The piece that bridge `index` carries.
    pub fn shard(self, index: u32) -> Shard {
        let prefix = self.prefix.max(SHARD);
        Shard { index, prefix, network: Ipv4Addr::from(u32::from(self.network) + (index << (32 - prefix))) }
    }

    /// The piece that an address is in; `None` if it is outside, or is one that nobody gets: the first and the last
    /// of each piece, and the gateway.
    pub fn shard_of(self, address: Ipv4Addr) -> Option<Shard> {
        let bits = u32::from(address);
        if bits & mask(self.prefix) != u32::from(self.network) || address == self.gateway() {
            return None;
        }
        let shard = self.shard((bits - u32::from(self.network)) >> (32 - self.prefix.max(SHARD)));
        let offset = bits - u32::from(shard.network);
        (offset != 0 && offset != shard.size() - 1).then_some(shard)
    }

    /// The addresses of a piece that containers get, in the order in which they are tried for a container whose id has
    /// this hash.
    pub fn candidates(self, shard: Shard, hash: u64) -> impl Iterator<Item = Ipv4Addr> {
        let count = shard.size() - 2;
        let first = (hash % u64::from(count)) as u32;
        (0..count)
            .map(move |i| Ipv4Addr::from(u32::from(shard.network) + 1 + (first + i) % count))
            .filter(move |address| *address != self.gateway())
    }

    /// The subnet of the instance: what its first use chose. `asked` must agree. Keeps it if `keep` is set.
    pub fn of(instance: &Instance, asked: Option<Subnet>, keep: bool) -> Result<Subnet, Error> {
        kept::setting(instance, "subnet", asked, keep)
    }
}

impl Shard {
    /// How many addresses it has.
    pub fn size(self) -> u32 {
        1 << (32 - self.prefix)
    }

    /// The name of the bridge.
    pub fn bridge(self, instance: &Instance) -> String {
        format!("{}{}", instance.bridge_prefix(), self.index)
    }
}

/// `10.42.4.0/22`
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A locally administered MAC address that follows from an IPv4 address: who gets an address again gets its MAC address
/// too, so that no neighbour cache is wrong. `first` tells the roles apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    fn new(first: u8, address: Ipv4Addr) -> Mac {
        let [a, b, c, d] = address.octets();
        Mac([first, 0x51, a, b, c, d])
    }

    /// The container's own.
    pub fn container(address: Ipv4Addr) -> Mac {
        Mac::new(0x02, address)
    }

    /// The host's end of the container's pair.
    pub fn host(address: Ipv4Addr) -> Mac {
        Mac::new(0x06, address)
    }

    /// A bridge's.
    pub fn bridge(shard: Shard) -> Mac {
        Mac::new(0x0a, shard.network)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Subnet, String> {
        let (address, prefix) = text.split_once('/').ok_or("a subnet is ADDRESS/BITS, as in 10.42.0.0/16")?;
        let address: Ipv4Addr = address.parse().map_err(|_| format!("`{address}` is not an IPv4 address"))?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (16..=28).contains(p)).ok_or("the bits must be 16 to 28")?;
        let network = Ipv4Addr::from(u32::from(address) & mask(prefix));
        if network != address {
            return Err(format!("{address} is inside the subnet {network}/{prefix}: write that"));
        }
        if address.is_loopback() || address.is_multicast() || address.octets()[0] == 0 || address.octets()[0] >= 240 {
            return Err(format!("{text} is not for hosts: take one of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16"));
        }
        Ok(Subnet { network, prefix })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl Serialize for Subnet {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Subnet {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Subnet, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn subnets_are_read_strictly() {
        for good in ["10.42.0.0/16", "192.168.7.0/24", "172.20.0.16/28"] {
            assert_eq!(good.parse::<Subnet>().map(|s| s.to_string()), Ok(good.to_owned()));
        }
        for bad in ["10.42.0.0", "10.0.0.0/8", "10.42.0.0/29", "10.42.0.1/16", "127.0.0.0/16", "224.1.0.0/16", "x/16"] {
            assert!(bad.parse::<Subnet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn every_address_is_somebodys_or_refused() {
        for (text, shards, given) in [
            ("10.42.0.0/16", 64, 64 * 1022 - 1),
            ("10.42.0.0/20", 4, 4087),
            ("10.9.8.0/24", 1, 253),
            ("10.9.8.16/28", 1, 13),
        ] {
            let subnet: Subnet = text.parse().unwrap_or_default();
            assert_eq!(subnet.shards(), shards, "{text}");
            let mut seen = BTreeSet::new();
            for shard in (0..shards).map(|k| subnet.shard(k)) {
                for address in subnet.candidates(shard, 0xdead_beef) {
                    assert_eq!(subnet.shard_of(address), Some(shard), "{address}");
                    assert!(seen.insert(address), "{address} twice");
                }
            }
            assert_eq!(seen.len(), given, "{text}");
        }
    }

    #[test]
    fn the_gateway_and_the_ends_of_a_piece_are_nobodys() {
        let subnet = Subnet::default();
        for none in ["10.42.0.0", "10.42.0.1", "10.42.3.255", "10.42.4.0", "10.42.255.255", "10.43.0.5", "10.41.255.9"]
        {
            assert_eq!(none.parse().ok().and_then(|a| subnet.shard_of(a)), None, "{none}");
        }
        assert_eq!(
            subnet.shard_of(Ipv4Addr::new(10, 42, 9, 5)).map(|s| s.to_string()),
            Some("10.42.8.0/22".to_owned())
        );
    }
}
