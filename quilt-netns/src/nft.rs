//! The instance's own nftables tables: masquerade to the outside; nothing from one container to another by way of the
//! gateway, nothing to the host but what it is asked for; and, among a bridge's frames, nobody in another's name. All of it
//! is static: no container adds a rule.
//!
//! The hard thing: rules have no names, so adding one twice adds two. The batch begins with the table and NLM_F_EXCL; it
//! is one transaction, so whoever comes second gets EEXIST for the table and has changed nothing. What is there then may be
//! half of it, or what another version of Quilt made: it is replaced, in one transaction again, by one at a time.

mod layout;
mod look;
mod message;
mod term;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use quilt_record::{Code, Error, Instance, Step, lock};

use crate::netlink::{Netlink, Refusal, Request};
use crate::subnet::Subnet;

pub use layout::{pins, plan, removal, resolvers, wants_pinned};
pub use look::{Firewall, Verdict, forward_policy, is_pinned, look, pinned_set, policy_questions, questions};
pub use message::{Chain, Message, Set};
pub use term::{BRIDGES, Term};

/// The frame of a batch: which subsystem it is for (`NFNL_SUBSYS_NFTABLES`).
fn frame(message: ControlMessage) -> Request<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, libc::NFNL_SUBSYS_NFTABLES as u16);
    Request { payload: NetfilterMessage::new(header, message), flags: 0 }
}

fn unsupported(what: &str, e: Error) -> Error {
    let hint = "this kernel has no nftables (CONFIG_NF_TABLES, NFT_CT, NFT_MASQ, NFT_NAT)";
    let message = format!("{}: {hint}: use --network none", e.message);
    Error { code: Code::Unsupported, step: what.to_owned(), message, ..e }
}

fn open() -> Result<Netlink, Error> {
    Netlink::open(NETLINK_NETFILTER).map_err(|e| unsupported("open nftables", Error::os("", e)))
}

/// Sends the batch; what the kernel refused, if it did: then nothing was changed.
fn transact(messages: &[Message]) -> Result<Option<Refusal>, Error> {
    let step = || messages.first().map(ToString::to_string).unwrap_or_default();
    let requests: Vec<_> = std::iter::once(frame(ControlMessage::BatchBegin))
        .chain(messages.iter().map(Message::encode))
        .chain([frame(ControlMessage::BatchEnd)])
        .collect();
    // The end of a batch is not acknowledged before Linux 6.10: the last message in it is.
    let answers = open()?.batch(requests, messages.len(), false).step(step)?;
    Ok(answers.refused.into_iter().next())
}

fn refused(messages: &[Message], Refusal { index, errno, text }: Refusal) -> Error {
    let step = index.checked_sub(1).and_then(|i| messages.get(i)).or(messages.first()).map(ToString::to_string);
    let step = step.unwrap_or_default();
    let mut error = Error::os(step.clone(), io::Error::from_raw_os_error(errno));
    if let Some(text) = text {
        error.message = format!("{} ({text})", error.message);
    }
    if lacks(errno) { unsupported(&step, error) } else { error }
}

/// Whether the errno says that the kernel does not have something.
fn lacks(errno: i32) -> bool {
    matches!(errno, libc::EOPNOTSUPP | libc::EAFNOSUPPORT | libc::EINVAL | libc::ENOENT | libc::EPROTONOSUPPORT)
}

/// Sends the batch. That a table which it deletes is gone already is success.
pub fn send(messages: &[Message]) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    let Some(refusal) = transact(messages)? else { return Ok(()) };
    match refusal.index.checked_sub(1).and_then(|i| messages.get(i)) {
        Some(Message::DelTable { .. }) if refusal.errno == libc::ENOENT => Ok(()),
        _ => Err(refused(messages, refusal)),
    }
}

/// What [`ensure`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// Whether frames are looked at: not by a kernel without CONFIG_NF_TABLES_BRIDGE.
    pub pinned: bool,
    /// Whether there was something to do.
    pub changed: bool,
}

/// Sees to it that the tables are there, and whole.
pub fn ensure(instance: &Instance, subnet: Subnet) -> Result<Ensured, Error> {
    let mut pinned = wants_pinned();
    loop {
        let messages = plan(instance, subnet, pinned);
        let Some(refusal) = transact(&messages)? else { return Ok(Ensured { pinned, changed: true }) };
        match refusal.index.checked_sub(1).and_then(|i| messages.get(i)) {
            Some(Message::NewTable { .. }) if refusal.errno == libc::EEXIST => break,
            Some(message) if message.family() == NetfilterProtoFamily::Bridge && lacks(refusal.errno) => pinned = false,
            _ => return Err(refused(&messages, refusal)),
        }
    }
    // A kernel that has no bridge family says so only to who makes something in it, and what was there came first.
    let whole = |pinned| look(instance, subnet, pinned, &[]).map(|found| found.missing.is_empty());
    if whole(pinned)? {
        return Ok(Ensured { pinned, changed: false });
    }
    let path = instance.run().join("net.lock");
    let step = || format!("lock {}", path.display());
    let file = File::options().create(true).truncate(false).write(true).open(&path).step(step)?;
    lock::acquire(file.as_fd(), Duration::from_secs(10), "the firewall's tables")?;
    if whole(pinned)? {
        return Ok(Ensured { pinned, changed: false });
    }
    let messages = layout::replacement(instance, subnet, pinned);
    match transact(&messages)? {
        None => return Ok(Ensured { pinned, changed: true }),
        Some(refusal) => {
            let message = refusal.index.checked_sub(1).and_then(|i| messages.get(i));
            let bridge = message.is_some_and(|m| m.family() == NetfilterProtoFamily::Bridge);
            if !(pinned && bridge && lacks(refusal.errno)) {
                return Err(refused(&messages, refusal));
            }
        }
    }
    if whole(false)? {
        return Ok(Ensured { pinned: false, changed: false });
    }
    send(&layout::replacement(instance, subnet, false)).map(|()| Ensured { pinned: false, changed: true })
}
