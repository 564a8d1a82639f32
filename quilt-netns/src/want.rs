//! What can be asked of the network, and whether it makes sense: all of it is looked at before anything is touched.

use std::net::{IpAddr, Ipv4Addr};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use quilt_record::{Code, Error, Id};

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

    /// Own the network namespace by a user namespace of the container's own, with these ids. Not offered on the command line yet.
    #[arg(skip)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub userns: Option<IdMap>,
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

/// Which ids of the host the ids 0 to `size - 1` of a user namespace are (user_namespaces(7)).
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct IdMap {
    /// The host's uid of the container's root.
    pub uid: u32,
    /// The host's gid of the container's root group.
    pub gid: u32,
    /// How many ids.
    pub size: u32,
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
        if self.userns.is_some() && network == Network::Host {
            return Err(invalid("read `userns`", "a user namespace cannot own the host's network"));
        }
        if let Some(map) = self.userns {
            let fits = |first: u32| first.checked_add(map.size).is_some();
            if map.size == 0 || !fits(map.uid) || !fits(map.gid) {
                return Err(invalid("read `userns`", "uid + size and gid + size must be 1 to 4294967295"));
            }
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
    fn contradictions_are_refused() {
        let ip = Some(Ipv4Addr::new(10, 42, 0, 9));
        for (want, field) in [
            (Want { network: Some(Network::None), ip, ..Want::default() }, "--ip"),
            (Want { dns_search: vec!["a b".to_owned()], ..Want::default() }, "--dns-search"),
            (Want { userns: Some(IdMap { uid: 1, gid: 1, size: u32::MAX }), ..Want::default() }, "userns"),
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
