//! The text of the container's `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`. What writes them is spawn.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use crate::want::{HOST_GATEWAY, Network, Want, host_entry};

/// Where the host says how names are looked up (resolv.conf(5)).
const RESOLV: &str = "/etc/resolv.conf";
/// Where systemd-resolved says whom it asks itself; its own address, 127.0.0.53, means nothing in a container.
const UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// What the files are about.
pub(crate) struct Place<'a> {
    pub hostname: &'a str,
    pub address: Option<Ipv4Addr>,
    pub gateway: Option<Ipv4Addr>,
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The container's `/etc/resolv.conf`.
pub(crate) fn resolv_conf(want: &Want) -> String {
    resolv(want, &read(RESOLV), || read(UPSTREAM))
}

/// The name servers in a container's `/etc/resolv.conf`, as far as there is a way to them.
pub(crate) fn servers(resolv: &str) -> Vec<Ipv4Addr> {
    let mut all = Vec::new();
    for server in resolv.lines().filter_map(server) {
        match server {
            IpAddr::V4(address) if reachable(server) && !all.contains(&address) => all.push(address),
            _ => {}
        }
    }
    all
}

/// The same of a container's files.
pub(crate) fn servers_in(files: &[(String, String)]) -> Vec<Ipv4Addr> {
    files.iter().find(|(path, _)| path == RESOLV).map(|(_, text)| servers(text)).unwrap_or_default()
}

/// The files: absolute path and content.
pub(crate) fn all(want: &Want, place: &Place<'_>, resolv: String) -> Vec<(String, String)> {
    vec![
        (RESOLV.to_owned(), resolv),
        ("/etc/hosts".to_owned(), hosts(want, place, || read("/etc/hosts"))),
        ("/etc/hostname".to_owned(), format!("{}\n", place.hostname)),
    ]
}

/// The address of a `nameserver` line.
fn server(line: &str) -> Option<IpAddr> {
    let mut words = line.split_whitespace();
    // Behind a link-local address stands the interface: `fe80::1%eth0`.
    words.next().filter(|w| *w == "nameserver")?;
    words.next()?.split('%').next()?.parse().ok()
}

/// Whether a container on the bridge can reach the server: not the host's loopback, and IPv6 is off inside.
fn reachable(server: IpAddr) -> bool {
    server.is_ipv4() && !server.is_loopback()
}

fn resolv(want: &Want, host: &str, upstream: impl FnOnce() -> String) -> String {
    let network = want.network();
    let mut text = host.to_owned();
    if network == Network::Bridge && want.dns.is_empty() {
        let servers: Vec<IpAddr> = host.lines().filter_map(server).collect();
        if !servers.iter().any(|s| reachable(*s)) && servers.iter().any(|s| s.is_loopback()) {
            text = Some(upstream()).filter(|t| !t.is_empty()).unwrap_or(text);
        }
    }
    let keyword = |line: &str| line.split_whitespace().next().unwrap_or_default().to_owned();
    let keep = |line: &&str| match keyword(line).as_str() {
        "nameserver" => {
            want.dns.is_empty()
                && match network {
                    Network::Bridge => server(line).is_some_and(reachable),
                    Network::None => false,
                    Network::Host => true,
                }
        }
        "search" | "domain" => want.dns_search.is_empty(),
        word => !word.is_empty() && !word.starts_with(['#', ';']),
    };
    let mut lines: Vec<String> = text.lines().filter(keep).map(str::to_owned).collect();
    lines.extend(want.dns.iter().map(|server| format!("nameserver {server}")));
    if want.dns_search.iter().any(|domain| domain != ".") {
        lines.push(format!("search {}", want.dns_search.join(" ")));
    }
    if !lines.iter().any(|line| line.starts_with("nameserver")) {
        lines.push("# no name server: the host's cannot be reached from here (quilt: --dns)".to_owned());
    }
    lines.join("\n") + "\n"
}

fn hosts(want: &Want, place: &Place<'_>, host: impl FnOnce() -> String) -> String {
    let mut text = if want.network() == Network::Host {
        let mut text = host();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text
    } else {
        // Not `::1 localhost`: what listens on 127.0.0.1 alone would be tried there first.
        "127.0.0.1\tlocalhost\n::1\tip6-localhost ip6-loopback\n".to_owned()
    };
    let own = place.address.unwrap_or(Ipv4Addr::new(127, 0, 1, 1));
    text += &format!("{own}\t{}\n", place.hostname);
    for (name, address) in want.add_host.iter().filter_map(|entry| host_entry(entry).ok()) {
        match (address, place.gateway) {
            (HOST_GATEWAY, Some(gateway)) => text += &format!("{gateway}\t{name}\n"),
            (HOST_GATEWAY, None) => text += &format!("127.0.0.1\t{name}\n"),
            _ => text += &format!("{address}\t{name}\n"),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const STUB: &str = "# systemd\nnameserver 127.0.0.53\noptions edns0\nsearch lan\n";

    fn bridge(host: &str, upstream: &str) -> String {
        resolv(&Want::default(), host, || upstream.to_owned())
    }

    #[test]
    fn a_stub_resolver_is_replaced_by_those_it_asks() {
        assert_eq!(bridge("nameserver 10.0.0.2\nnameserver fd00::2\n", "x"), "nameserver 10.0.0.2\n");
        assert_eq!(bridge(STUB, "nameserver 10.0.0.3\nsearch lan\n"), "nameserver 10.0.0.3\nsearch lan\n");
        let none =
            "options edns0\nsearch lan\n# no name server: the host's cannot be reached from here (quilt: --dns)\n";
        assert_eq!(bridge(STUB, ""), none);
        let host = Want { network: Some(Network::Host), ..Want::default() };
        assert_eq!(resolv(&host, STUB, String::new), "nameserver 127.0.0.53\noptions edns0\nsearch lan\n");
    }

    #[test]
    fn what_is_asked_replaces_what_the_host_has() {
        let want = Want {
            dns: vec![IpAddr::from([1, 1, 1, 1])],
            dns_search: vec!["a.example".into(), "b.example".into()],
            ..Want::default()
        };
        assert_eq!(resolv(&want, STUB, String::new), "options edns0\nnameserver 1.1.1.1\nsearch a.example b.example\n");
        let want = Want { dns_search: vec![".".into()], ..Want::default() };
        assert_eq!(resolv(&want, "nameserver 10.0.0.2\nsearch lan\n", String::new), "nameserver 10.0.0.2\n");
    }

    #[test]
    fn hosts_name_the_container_and_what_was_asked() {
        let want = Want { add_host: vec!["db:10.0.0.7".into(), "up:host-gateway".into()], ..Want::default() };
        let address = Some(Ipv4Addr::new(10, 42, 0, 9));
        let place = Place { hostname: "web", address, gateway: Some(Ipv4Addr::new(10, 42, 0, 1)) };
        assert_eq!(
            hosts(&want, &place, String::new),
            "127.0.0.1\tlocalhost\n::1\tip6-localhost ip6-loopback\n10.42.0.9\tweb\n10.0.0.7\tdb\n10.42.0.1\tup\n"
        );
    }
}
