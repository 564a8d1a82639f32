//! The little netlink (rtnetlink(7)) that the network phase needs: three questions, one wish, and the announcements of
//! neighbours. Built and read by hand: the messages are few and their layout is the kernel's oldest promise.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
/// `struct nlmsghdr`.
const HEADER: usize = 16;
/// `RTMGRP_NEIGH`.
const NEIGHBOURS: u32 = 0x4;

/// A neighbour's address is known to be right.
const REACHABLE: u16 = 0x02;
/// The neighbour was asked and did not answer.
const FAILED: u16 = 0x20;

/// A link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// Its number.
    pub(crate) index: u32,
    /// `IFF_*` (netdevice(7)).
    pub(crate) flags: u32,
}

/// The way to somewhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Route {
    /// Through which link.
    pub(crate) link: Option<u32>,
    /// By which gateway.
    pub(crate) gateway: Option<Ipv4Addr>,
    /// From which address.
    pub(crate) source: Option<Ipv4Addr>,
}

/// What is announced about a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It answered.
    Reachable,
    /// It did not.
    Failed,
}

/// A socket of the network namespace that it was opened in.
pub(crate) struct Netlink {
    socket: Socket,
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Netlink {
    /// Opens one that hears of neighbours.
    pub(crate) fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, NEIGHBOURS))?;
        Ok(Netlink { socket })
    }

    /// The link of a name; `None` if there is none (RTM_GETLINK).
    pub(crate) fn link(&self, name: &str) -> io::Result<Option<Link>> {
        const RTM_GETLINK: u16 = 18;
        const RTM_NEWLINK: u16 = 16;
        const IFLA_IFNAME: u16 = 3;
        let mut body = vec![0u8; 16];
        attribute(&mut body, IFLA_IFNAME, &[name.as_bytes(), b"\0"].concat());
        let answer = match self.ask(RTM_GETLINK, &body, RTM_NEWLINK) {
            Err(e) if e.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answer => answer?,
        };
        Ok(number(&answer, 4).zip(number(&answer, 8)).map(|(index, flags)| Link { index, flags }))
    }

    /// The way to an address (RTM_GETROUTE); an empty one if there is none.
    pub(crate) fn route(&self, to: Ipv4Addr) -> io::Result<Route> {
        const RTM_GETROUTE: u16 = 26;
        const RTM_NEWROUTE: u16 = 24;
        const RTA_DST: u16 = 1;
        const RTA_OIF: u16 = 4;
        const RTA_GATEWAY: u16 = 5;
        const RTA_PREFSRC: u16 = 7;
        let mut body = vec![libc::AF_INET as u8, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        attribute(&mut body, RTA_DST, &to.octets());
        let answer = match self.ask(RTM_GETROUTE, &body, RTM_NEWROUTE) {
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => {
                return Ok(Route::default());
            }
            answer => answer?,
        };
        let mut route = Route::default();
        for (kind, value) in attributes(answer.get(12..).unwrap_or_default()) {
            match kind {
                RTA_OIF => route.link = number(value, 0),
                RTA_GATEWAY => route.gateway = address(value),
                RTA_PREFSRC => route.source = address(value),
                _ => {}
            }
        }
        Ok(route)
    }

    /// Forgets what is known about a neighbour, if anything, so that it must be asked anew (RTM_DELNEIGH).
    pub(crate) fn forget(&self, link: u32, neighbour: Ipv4Addr) -> io::Result<()> {
        const RTM_DELNEIGH: u16 = 29;
        const NDA_DST: u16 = 1;
        let mut body = vec![libc::AF_INET as u8, 0, 0, 0];
        body.extend_from_slice(&link.to_ne_bytes());
        body.extend_from_slice(&[0; 4]);
        attribute(&mut body, NDA_DST, &neighbour.octets());
        match self.ask(RTM_DELNEIGH, &body, u16::MAX) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            other => other.map(drop),
        }
    }

    /// What has been announced about a neighbour since the last question; does not wait.
    pub(crate) fn heard(&self, link: u32, neighbour: Ipv4Addr) -> io::Result<Option<Answer>> {
        loop {
            let mut buffer: Vec<u8> = Vec::with_capacity(8 << 10);
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                // Some were lost in a flood of others.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(e) => return Err(e),
            }
            if let Some(answer) = messages(&buffer).find_map(|(kind, body)| announced(kind, body, link, neighbour)) {
                return Ok(Some(answer));
            }
        }
    }

    /// Asks one question; the answer's body, or that of the acknowledgement. The kernel has answered when the send
    /// returns. Announcements that come in between are passed over.
    fn ask(&self, kind: u16, body: &[u8], answer: u16) -> io::Result<Vec<u8>> {
        const NLMSG_ERROR: u16 = 2;
        let ack = if answer == u16::MAX { ACK } else { 0 };
        let mut message = Vec::with_capacity(HEADER + body.len());
        message.extend_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&(REQUEST | ack).to_ne_bytes());
        message.extend_from_slice(&[0; 8]);
        message.extend_from_slice(body);
        self.socket.send(&message, 0)?;
        loop {
            let mut buffer: Vec<u8> = Vec::with_capacity(16 << 10);
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => continue,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("the kernel's answer was lost"));
                }
                Err(e) => return Err(e),
            }
            for (kind, body) in messages(&buffer) {
                match number(body, 0).map(|n| n as i32) {
                    Some(error) if kind == NLMSG_ERROR && error != 0 => {
                        return Err(io::Error::from_raw_os_error(-error));
                    }
                    _ if kind == answer || kind == NLMSG_ERROR => return Ok(body.to_vec()),
                    _ => {}
                }
            }
        }
    }
}

/// The messages of a datagram: type and body.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = number(bytes, 0)? as usize;
        let kind = bytes.get(4..6).map(|k| u16::from_ne_bytes([k[0], k[1]]))?;
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes at the end of a message: type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const TYPE_MASK: u16 = 0x3fff;
    std::iter::from_fn(move || {
        let head = bytes.get(..4)?;
        let (length, kind) = (u16::from_ne_bytes([head[0], head[1]]), u16::from_ne_bytes([head[2], head[3]]));
        let value = bytes.get(4..length.into())?;
        bytes = bytes.get(usize::from(length).next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// Appends an attribute, padded.
fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend_from_slice(&((4 + value.len()) as u16).to_ne_bytes());
    body.extend_from_slice(&kind.to_ne_bytes());
    body.extend_from_slice(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// What an announcement says about the neighbour (`struct ndmsg`: the link at 4, the state at 8).
fn announced(kind: u16, body: &[u8], link: u32, neighbour: Ipv4Addr) -> Option<Answer> {
    const RTM_NEWNEIGH: u16 = 28;
    const NDA_DST: u16 = 1;
    if kind != RTM_NEWNEIGH || number(body, 4)? != link {
        return None;
    }
    let about = attributes(body.get(12..)?).find(|(kind, _)| *kind == NDA_DST).and_then(|(_, value)| address(value));
    let state = u16::from_ne_bytes([*body.get(8)?, *body.get(9)?]);
    match state {
        _ if about != Some(neighbour) => None,
        REACHABLE => Some(Answer::Reachable),
        FAILED => Some(Answer::Failed),
        _ => None,
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_ne_bytes([b[0], b[1], b[2], b[3]]))
}

fn address(value: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(value).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_is_about_one_neighbour_of_one_link() {
        let gateway = Ipv4Addr::new(10, 42, 0, 1);
        let mut body = vec![2, 0, 0, 0, 7, 0, 0, 0, 2, 0, 0, 1];
        attribute(&mut body, 1, &gateway.octets());
        assert_eq!(announced(28, &body, 7, gateway), Some(Answer::Reachable));
        assert_eq!(announced(28, &body, 8, gateway), None);
        assert_eq!(announced(28, &body, 7, Ipv4Addr::new(10, 42, 0, 2)), None);
        assert_eq!(announced(29, &body, 7, gateway), None);
        body[8] = 0x20;
        assert_eq!(announced(28, &body, 7, gateway), Some(Answer::Failed));
        assert_eq!(announced(28, &body[..9], 7, gateway), None);
    }

    #[test]
    fn broken_messages_end_the_reading() {
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[255; 20]).count(), 0);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0, 1]).count(), 0);
    }
}
