//! The network phase: the host's side is whole, the interface is up, has its address and a default route, and the gateway
//! answers.
//!
//! The host's side (bridge, port, firewall, forwarding) is what others may take away while the container runs. A create has
//! just looked at it, so the probe at its end does not, unless something is wrong.
//!
//! It is looked at from outside: the sockets belong to the container's network namespace, the process does not. Whether
//! the gateway answers is told by ARP: one byte goes to its discard port, which makes the container's kernel ask for the
//! gateway's hardware address and announce the answer. Nothing leaves the host.

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use quilt_exec::Target;
use quilt_netns::Verdict;
use quilt_record::have::{Link, Netns};
use quilt_record::stage::{Context, in_pipeline};
use quilt_record::{Error, Step};

use crate::Want;
use crate::entered::seconds;
use crate::netlink::{Answer, Netlink};
use crate::report::Evidence;
use crate::watch::{Event, Stop, Watch, no};

/// How long the network phase may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The discard service (RFC 863): whoever has it throws away what it gets.
const DISCARD: u16 = 9;

/// An address that is nobody's (TEST-NET-1, RFC 5737): the way there is the default route.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// Looks at the network that was asked for.
pub(crate) fn look(
    context: &Context<'_, Want>,
    target: &Target,
    watch: &Watch<'_>,
    evidence: &mut Evidence,
) -> Result<(), Stop> {
    let Some(have) = context.record.have::<Netns>("netns")? else { return Err(no("the container has no network")) };
    evidence.note("network", &have.network);
    if !target.spawn.namespaces.iter().any(|(name, _)| name == "net") {
        evidence.note("skipped", "the host's network is not ours to judge");
        return Ok(());
    }
    if !in_pipeline() {
        host_side(context, &have, evidence)?;
    }
    match inside(&have, target, watch, evidence) {
        Err(Stop::Failed(error)) if in_pipeline() => {
            host_side(context, &have, evidence)?;
            Err(Stop::Failed(error))
        }
        looked => looked,
    }
}

/// Looks at what others may have flushed, deleted or switched off since the container was made.
fn host_side(context: &Context<'_, Want>, have: &Netns, evidence: &mut Evidence) -> Result<(), Stop> {
    let Verdict { missing, notes } = Verdict::of(context.instance, &context.id, have)?;
    if !notes.is_empty() {
        evidence.note("notes", notes);
    }
    if missing.is_empty() {
        return Ok(());
    }
    let message =
        format!("on the host, this is missing or wrong: {}: `quilt repair` makes it right", missing.join(", "));
    evidence.note("missing", missing);
    Err(no(message))
}

/// Looks at what the container has.
fn inside(have: &Netns, target: &Target, watch: &Watch<'_>, evidence: &mut Evidence) -> Result<(), Stop> {
    let deadline = watch.deadline(LIMIT);
    let (netlink, udp) = sockets(target)?;
    let step = || "look at the container's network";
    let lo = netlink.link("lo").step(step)?;
    let up = |flags: u32| flags & libc::IFF_UP as u32 != 0;
    if !lo.is_some_and(|lo| up(lo.flags)) {
        return Err(no("the loopback interface is not up"));
    }
    evidence.note("loopback", "up");
    let Some(link) = &have.link else { return Ok(()) };
    evidence.note("interface", &link.name);
    let Some(eth) = netlink.link(&link.name).step(step)? else { return Err(no(format!("there is no {}", link.name))) };
    if !up(eth.flags) {
        return Err(no(format!("{} is not up", link.name)));
    }
    if eth.flags & libc::IFF_LOWER_UP as u32 == 0 {
        return Err(no(format!("{} has no carrier: {} is down on the host", link.name, link.host)));
    }
    let route = netlink.route(ELSEWHERE).step(step)?;
    evidence.note("address", route.source);
    evidence.note("gateway", route.gateway);
    if route.link != Some(eth.index) || route.gateway != Some(link.gateway) {
        return Err(no(format!("there is no default route by {} through {}", link.gateway, link.name)));
    }
    if route.source != Some(link.address) {
        return Err(no(format!("{} does not have the address {}", link.name, link.address)));
    }
    // What was known about the gateway may be old.
    netlink.forget(eth.index, link.gateway).step(step)?;
    while netlink.heard(eth.index, link.gateway).step(step)?.is_some() {}
    ask(&netlink, &udp, eth.index, link, watch, deadline)?;
    evidence.note("arp", "answered");
    Ok(())
}

/// Makes the container's kernel ask for the gateway, and waits for the answer.
fn ask(
    netlink: &Netlink,
    udp: &UdpSocket,
    index: u32,
    link: &Link,
    watch: &Watch<'_>,
    deadline: std::time::Instant,
) -> Result<(), Stop> {
    let step = || format!("send a byte to {}", link.gateway);
    udp.send_to(&[0], (link.gateway, DISCARD)).step(step)?;
    loop {
        match netlink.heard(index, link.gateway).step(|| "listen for neighbours")? {
            Some(Answer::Reachable) => return Ok(()),
            // The kernel goes on asking as long as somebody wants it to.
            Some(Answer::Failed) => drop(udp.send_to(&[0], (link.gateway, DISCARD))),
            None => match watch.wait(&[netlink.as_fd()], deadline)? {
                Event::Ready(_) => {}
                Event::Late => {
                    let limit = seconds(LIMIT);
                    return Err(no(format!(
                        "no ARP answer from the gateway {} within {limit}: try `quilt repair`",
                        link.gateway
                    )));
                }
            },
        }
    }
}

/// Sockets of the container's network namespace. The process has one thread and comes back at once.
fn sockets(target: &Target) -> Result<(Netlink, UdpSocket), Stop> {
    let step = || "open sockets in the container's network namespace";
    let own = File::open("/proc/self/ns/net").step(step)?;
    match setns(&target.pidfd, CloneFlags::CLONE_NEWNET) {
        Ok(()) => {}
        Err(nix::errno::Errno::ESRCH) => return Err(Stop::Dead),
        Err(e) => return Err(Stop::Broken(Error::os(step(), e))),
    }
    let opened = Netlink::open().and_then(|netlink| Ok((netlink, UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?)));
    setns(&own, CloneFlags::CLONE_NEWNET).step(|| "return to the host's network namespace")?;
    opened.step(step).map_err(Stop::Broken)
}
