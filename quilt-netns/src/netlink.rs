//! A netlink socket, used in the way that costs least: many messages in one send, and one answer for all that went
//! well. The kernel handles the messages in order, goes on after one that it refuses, and has queued every answer when
//! the send returns; so an answer that is not there is lost, and nothing ever waits.
//!
//! Answers are read by hand, attribute by attribute: a later kernel's attributes must not turn a good answer into an
//! error.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable,
};
use netlink_sys::Socket;

use list::List;

mod list;

/// `NLMSG_ERROR`, linux/netlink.h; also what an acknowledgement is.
const ERROR: u16 = 2;
/// `NLMSGERR_ATTR_MSG`, linux/netlink.h: why, in words.
const ATTR_MSG: u16 = 1;
/// `struct nlmsghdr`.
const HEADER: usize = 16;

/// One message of a batch.
pub struct Request<T> {
    /// What it asks for.
    pub payload: T,
    /// `NLM_F_*`, without REQUEST and ACK.
    pub flags: u16,
}

/// The kernel's no to one message of a batch.
#[derive(Debug)]
pub struct Refusal {
    /// Which message, from 0.
    pub index: usize,
    /// Why, as a number.
    pub errno: i32,
    /// Why, in the kernel's words, if it has any.
    pub text: Option<String>,
}

/// The kernel's answers to a batch.
#[derive(Debug, Default)]
pub struct Answers {
    /// What it refused, in order.
    pub refused: Vec<Refusal>,
    /// What it told: number of the message, and the answer without netlink's header.
    pub told: Vec<(usize, Vec<u8>)>,
}

/// Message type and payload of each announcement.
pub type Announcements = Vec<(u16, Vec<u8>)>;

/// A netlink socket. It belongs to the network namespace in which it was opened, wherever the caller goes.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    /// Opens one: `protocol` is NETLINK_ROUTE or NETLINK_NETFILTER (netlink(7)).
    pub fn open(protocol: isize) -> io::Result<Netlink> {
        let socket = Socket::new(protocol)?;
        // Both since Linux 4.12 or earlier, and only for better errors.
        let _ = socket.set_ext_ack(true);
        let _ = socket.set_cap_ack(true);
        Ok(Netlink { socket, sequence: 1 })
    }

    /// Sends the batch and collects the answers. The last message that asks for an answer is `last`: a question gets
    /// its answer, anything else is made to be acknowledged.
    pub fn batch<T: NetlinkSerializable>(
        &mut self,
        requests: Vec<Request<T>>,
        last: usize,
        question: bool,
    ) -> io::Result<Answers> {
        let first = self.sequence;
        let mut bytes = Vec::with_capacity(1024);
        for (index, request) in requests.into_iter().enumerate() {
            let mut header = NetlinkHeader::default();
            header.sequence_number = first + index as u32;
            header.flags = request.flags | NLM_F_REQUEST;
            if index == last && !question {
                header.flags |= NLM_F_ACK;
            }
            let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.payload));
            message.finalize();
            let at = bytes.len();
            bytes.resize(at + message.buffer_len().next_multiple_of(4), 0);
            message.serialize(&mut bytes[at..]);
            self.sequence += 1;
        }
        self.socket.send(&bytes, 0)?;
        self.collect(first, last)
    }

    fn collect(&self, first: u32, last: usize) -> io::Result<Answers> {
        let mut answers = Answers::default();
        let mut buffer: Vec<u8> = Vec::with_capacity(16 << 10);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Err(io::Error::other("the kernel's answer was lost"));
                }
                Err(e) => return Err(e),
            }
            let mut ended = false;
            for message in messages(&buffer) {
                let Some(index) = message.sequence.checked_sub(first).map(|i| i as usize) else { continue };
                ended |= index == last;
                match message.refusal(index) {
                    None => answers.told.push((index, message.payload.to_vec())),
                    Some(refusal) if refusal.errno != 0 => answers.refused.push(refusal),
                    Some(_) => {}
                }
            }
            if ended {
                answers.refused.sort_by_key(|r| r.index);
                return Ok(answers);
            }
        }
    }

    /// Sends a question that has a list for an answer (NLM_F_DUMP), and collects what is in it, without netlink's headers. The
    /// kernel makes the next part of it as the one before is taken, so again nothing ever waits. A list that changed while it
    /// was made may be without what was there all the time: it is asked for again.
    pub fn list<T: NetlinkSerializable>(&mut self, request: Request<T>) -> io::Result<Vec<Vec<u8>>> {
        /// How often; the kernel makes a list in microseconds.
        const TRIES: u32 = 10;
        let mut header = NetlinkHeader::default();
        header.flags = request.flags | NLM_F_REQUEST;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request.payload));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        let mut buffer: Vec<u8> = Vec::with_capacity(32 << 10);
        for _ in 0..TRIES {
            let mut list = List::new(self.sequence);
            self.sequence += 1;
            message.header.sequence_number = list.sequence;
            message.serialize(&mut bytes);
            self.socket.send(&bytes, 0)?;
            while !list.ended {
                buffer.clear();
                self.socket.recv(&mut buffer, libc::MSG_DONTWAIT)?;
                list.read(&buffer)?;
            }
            if !list.interrupted {
                return Ok(list.all);
            }
        }
        Err(io::Error::other(format!("the list changed {TRIES} times while the kernel made it")))
    }

    /// Subscribes to the announcements of all links: groups are bits, `RTMGRP_*` (rtnetlink(7)).
    pub fn subscribe(&mut self, groups: u32) -> io::Result<()> {
        self.socket.bind(&netlink_sys::SocketAddr::new(0, groups))
    }

    /// The announcements that have arrived; `None` if some were lost.
    pub fn announced(&self) -> io::Result<Option<Announcements>> {
        let mut all = Vec::new();
        let mut buffer: Vec<u8> = Vec::with_capacity(32 << 10);
        loop {
            buffer.clear();
            match self.socket.recv(&mut buffer, libc::MSG_DONTWAIT) {
                Ok(_) => all.extend(messages(&buffer).map(|m| (m.kind, m.payload.to_vec()))),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(Some(all)),
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => return Ok(None),
                Err(e) => return Err(e),
            }
        }
    }
}

impl std::os::fd::AsFd for Netlink {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A message as it came.
struct Raw<'a> {
    kind: u16,
    flags: u16,
    sequence: u32,
    payload: &'a [u8],
}

impl Raw<'_> {
    /// What an error message says (errno 0: an acknowledgement); `None` if it is none.
    fn refusal(&self, index: usize) -> Option<Refusal> {
        if self.kind != ERROR {
            return None;
        }
        let errno = -i32_at(self.payload, 0)?;
        let mut text = None;
        if self.flags & NLM_F_ACK_TLVS != 0 {
            // Behind the error stands the refused message: its header only, if it is capped.
            let quoted = if self.flags & NLM_F_CAPPED != 0 { HEADER } else { u32_at(self.payload, 4)? as usize };
            let attributes = self.payload.get(4 + quoted.next_multiple_of(4)..).unwrap_or_default();
            text = attribute(attributes, ATTR_MSG).map(string);
        }
        Some(Refusal { index, errno, text })
    }
}

fn messages(buffer: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let mut rest = buffer;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0)? as usize;
        let raw = Raw {
            kind: u16_at(rest, 4)?,
            flags: u16_at(rest, 6)?,
            sequence: u32_at(rest, 8)?,
            payload: rest.get(HEADER..length)?,
        };
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(raw)
    })
}

pub(crate) fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

/// The value of the first attribute of that type.
pub(crate) fn attribute(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// The upper two bits are flags (`NLA_TYPE_MASK`, linux/netlink.h).
    const TYPE: u16 = 0x3fff;
    let mut rest = attributes;
    loop {
        let length = usize::from(u16_at(rest, 0)?);
        if u16_at(rest, 2)? & TYPE == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..)?;
    }
}

pub(crate) fn string(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned()
}

/// The number in network order that is the value of an attribute, as netfilter has them; `header` is how much stands before
/// the attributes.
pub fn attribute_u32_be(payload: &[u8], header: usize, kind: u16) -> Option<u32> {
    attribute(payload.get(header..)?, kind).and_then(|v| array(v, 0)).map(u32::from_be_bytes)
}
