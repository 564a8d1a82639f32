//! What can be asked of the network, and whether it makes sense: all of it is looked at before anything is touched.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use clap::ValueEnum;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use quilt_record::idmap::IdMap;
use quilt_record::{Code, Error, Id};

use crate::ids::Range;
use crate::subnet::Subnet;

/// The network of a container: the command line's flags and the record's `netns.want`.
#[derive(clap::Args, Serialize, Deserialize, Default, Clone, Debug)]
#[serde(default, deny_unknown_fields)]
#[group(skip)]
pub struct Want {
    /// bridge: an address of its own and a way out; none: loopback only; host: the host's network [default: bridge]
    #[arg(long, value_name = "MODE", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,

    /// The container's IPv4 address, inside the subnet [default: the first free one]
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip: Option<Ipv4Addr>,

    /// A name server, instead of the host's (may be given several times)
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,

    /// A domain to search for short names in, instead of the host's (may be given several times; `.` for none)
    #[arg(long, value_name = "DOMAIN", help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dns_search: Vec<String>,

    /// A line for /etc/hosts; the address `host-gateway` is the host as the container sees it (may be given several times)
    #[arg(long, value_name = "NAME:ADDRESS", help_heading = "Network")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub add_host: Vec<String>,

    /// The container's host name, at most 63 bytes [default: the container's name]
    #[arg(long, value_name = "NAME", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,

    /// The IPv4 subnet of all containers of this instance, /16 to /28; stays what its first use made it [default: 10.42.0.0/16]
    #[arg(long, value_name = "ADDRESS/BITS", help_heading = "Network")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Subnet>,

    /// Whose ids the container's are: auto: 65,536 of the host's that nobody else has; host: the host's own, so that root is
    /// root; or those of the host from UID and GID on [default: auto]
    #[arg(long, value_name = "auto|host|UID:GID:SIZE", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns: Option<Userns>,

    /// The host's ids that --userns auto takes from, 65,536 for each container; stays what its first use made it
    /// [default: 1073741824:1073741824]
    #[arg(long, value_name = "FIRST:COUNT", help_heading = "Security")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns_range: Option<Range>,
}

/// Whose ids a container's are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Userns {
    /// A block of the instance's range.
    Auto,
    /// The host's: no user namespace.
    Host,
    /// These.
    Map(IdMap),
}

impl Userns {
    /// What a container gets that asks for nothing.
    pub const DEFAULT: Userns = Userns::Auto;
}

impl FromStr for Userns {
    type Err = String;

    fn from_str(text: &str) -> Result<Userns, String> {
        match text {
            "auto" => Ok(Userns::Auto),
            "host" => Ok(Userns::Host),
            map if map.contains(':') => map.parse().map(Userns::Map),
            _ => Err(format!("`{text}` is none of auto, host and UID:GID:SIZE")),
        }
    }
}

impl fmt::Display for Userns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Userns::Auto => f.write_str("auto"),
            Userns::Host => f.write_str("host"),
            Userns::Map(map) => map.fmt(f),
        }
    }
}

impl Serialize for Userns {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Userns {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Userns, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How a container is connected.
#[derive(ValueEnum, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A port of a bridge, an address, a default route, masquerade.
    #[default]
    Bridge,
    /// A network namespace with nothing but loopback.
    None,
    /// The host's network namespace.
    Host,
}

impl Network {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Network::Bridge => "bridge",
            Network::None => "none",
            Network::Host => "host",
        }
    }
}

fn invalid(step: &str, message: impl Into<String>) -> Error {
    Error::new(Code::Invalid, step, message)
}

/// Whether the text can stand as a host name in /etc/hosts and as the argument of sethostname(2). Wider than RFC 1123
/// by `_`, because the default is the container's name.
fn is_hostname(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !text.is_empty() && text.len() <= 63 && !text.starts_with(['-', '.']) && text.bytes().all(allowed)
}

/// An entry of `--add-host`.
pub(crate) fn host_entry(text: &str) -> Result<(&str, &str), Error> {
    const STEP: &str = "read --add-host";
    let bad = || invalid(STEP, format!("`{text}` is not NAME:ADDRESS"));
    // The first colon: an IPv6 address has more.
    let (name, address) = text.split_once(':').ok_or_else(bad)?;
    let address = address.strip_prefix('[').and_then(|a| a.strip_suffix(']')).unwrap_or(address);
    if !is_hostname(name) || (address != HOST_GATEWAY && address.parse::<IpAddr>().is_err()) {
        return Err(bad());
    }
    Ok((name, address))
}

/// The address in `--add-host` that stands for the host.
pub(crate) const HOST_GATEWAY: &str = "host-gateway";

impl Want {
    /// The mode, with the default applied.
    pub fn network(&self) -> Network {
        self.network.unwrap_or_default()
    }

    /// The host name, with the default applied; refuses what cannot be one.
    pub fn hostname(&self, id: &Id) -> Result<String, Error> {
        let name = self.hostname.as_deref().unwrap_or(id.as_str());
        if !is_hostname(name) {
            return Err(invalid("read --hostname", format!("`{name}` is not a host name: {NAME_RULE}")));
        }
        Ok(name.to_owned())
    }

    /// Refuses what contradicts itself or does not parse.
    pub fn check(&self) -> Result<(), Error> {
        let network = self.network();
        if self.ip.is_some() && network != Network::Bridge {
            return Err(invalid("read --ip", format!("--network {} has no address to choose", network.as_str())));
        }
        for domain in &self.dns_search {
            if domain != "." && !is_hostname(domain.trim_end_matches('.')) {
                return Err(invalid("read --dns-search", format!("`{domain}` is not a domain")));
            }
        }
        for entry in &self.add_host {
            let (_, address) = host_entry(entry)?;
            if address == HOST_GATEWAY && network == Network::None {
                return Err(invalid("read --add-host", "--network none has no way to the host"));
            }
        }
        Ok(())
    }
}

const NAME_RULE: &str = "1 to 63 letters, digits, `.`, `_`, `-`, not starting with `-` or `.`";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_entries_are_read_at_the_first_colon() {
        assert_eq!(host_entry("db:10.0.0.7"), Ok(("db", "10.0.0.7")));
        assert_eq!(host_entry("db:fd00::7"), Ok(("db", "fd00::7")));
        assert_eq!(host_entry("db:[fd00::7]"), Ok(("db", "fd00::7")));
        assert_eq!(host_entry("h:host-gateway"), Ok(("h", "host-gateway")));
        for bad in ["db", "db:", ":10.0.0.7", "a b:10.0.0.7", "db:10.0.0.7\n1.1.1.1 x", "-x:10.0.0.7"] {
            assert!(host_entry(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn user_namespaces_are_read_as_they_are_written() {
        for text in ["auto", "host", "100000:200000:65536"] {
            assert_eq!(text.parse::<Userns>().map(|u| u.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "Auto", "none", "0:0:65536", "1:2", "100000"] {
            assert!(bad.parse::<Userns>().is_err(), "{bad}");
        }
    }

    #[test]
    fn contradictions_are_refused() {
        let ip = Some(Ipv4Addr::new(10, 42, 0, 9));
        for (want, field) in [
            (Want { network: Some(Network::None), ip, ..Want::default() }, "--ip"),
            (Want { dns_search: vec!["a b".to_owned()], ..Want::default() }, "--dns-search"),
            (
                Want { network: Some(Network::None), add_host: vec!["h:host-gateway".into()], ..Want::default() },
                "--add-host",
            ),
        ] {
            assert!(want.check().is_err_and(|e| e.step.contains(field)), "{field}");
        }
        assert_eq!(Want { ip, ..Want::default() }.check(), Ok(()));
    }
}
