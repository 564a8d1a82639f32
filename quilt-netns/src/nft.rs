//! The instance's own nftables table: masquerade to the outside, and nothing from one container to another by way of
//! the gateway. All of it is static: no container adds to it.
//!
//! The hard thing: rules have no names, so adding one twice adds two. The batch begins with the table and NLM_F_EXCL; it
//! is one transaction, so whoever comes second gets EEXIST for the table and has changed nothing.

use std::fmt;
use std::io;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    Bitwise, ChainAttribute, ChainMessage, Cmp, DataAttribute, Expressions, Hook, Immediate, InetHookNumber, Meta,
    MetaKey, NfTablesMessage, Operator, Payload, Register, RuleAttribute, RuleMessage, TableAttribute, TableMessage,
    Verdict, VerdictAttribute,
};
use netlink_packet_netfilter::none::ControlMessage;
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily};
use netlink_sys::protocols::NETLINK_NETFILTER;

use quilt_record::{Code, Error, Instance};

use crate::netlink::{Netlink, Refusal, Request};
use crate::subnet::Subnet;

/// One message of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Makes the table; EEXIST ends the whole batch.
    NewTable { table: String },
    /// Where connections to the outside get the host's address.
    PostroutingChain { table: String },
    /// Where what goes from container to container is dropped.
    ForwardChain { table: String },
    /// From the subnet, out by anything but our bridges.
    Masquerade { table: String, subnet: Subnet, bridges: String },
    /// In by one of our bridges, out by one of our bridges. Isolated ports isolate frames; this isolates packets.
    Drop { table: String, bridges: String },
    /// Deletes the table with all that is in it.
    DelTable { table: String },
}

/// The batch that makes the table.
pub fn plan(instance: &Instance, subnet: Subnet) -> Vec<Message> {
    let (table, bridges) = (instance.name(), instance.bridge_prefix());
    vec![
        Message::NewTable { table: table.clone() },
        Message::PostroutingChain { table: table.clone() },
        Message::ForwardChain { table: table.clone() },
        Message::Masquerade { table: table.clone(), subnet, bridges: bridges.clone() },
        Message::Drop { table, bridges },
    ]
}

const POSTROUTING: &str = "postrouting";
const FORWARD: &str = "forward";
/// `NFT_PAYLOAD_NETWORK_HEADER`, linux/netfilter/nf_tables.h.
const NETWORK_HEADER: u32 = 1;
/// Where the source address stands in it (RFC 791).
const SOURCE: u32 = 12;
/// `NF_ACCEPT` as a policy and `NF_DROP` as a verdict, linux/netfilter.h.
const ACCEPT: u32 = 1;
const DROP: u32 = 0;
/// `NF_IP_PRI_NAT_SRC`, linux/netfilter_ipv4.h.
const PRIORITY_SOURCE_NAT: u32 = 100;
const PRIORITY_FILTER: u32 = 0;

fn value(bytes: &[u8]) -> DataAttribute {
    DataAttribute::Value(bytes.to_vec())
}

fn compare(operator: Operator, bytes: &[u8]) -> Expressions {
    Expressions::Cmp(vec![Cmp::SourceRegister(Register::Reg1), Cmp::Op(operator), Cmp::Data(value(bytes))])
}

/// Compares the start of an interface's name: a comparison of fewer bytes than the register holds is a prefix's.
fn interface(key: MetaKey, operator: Operator, prefix: &str) -> [Expressions; 2] {
    let load = Expressions::Meta(vec![Meta::DestinationRegister(Register::Reg1), Meta::Key(key)]);
    [load, compare(operator, prefix.as_bytes())]
}

/// Compares the source address under the subnet's mask.
fn source(subnet: Subnet) -> [Expressions; 3] {
    let (load, mask) = (Register::Reg1, subnet.mask().octets());
    [
        Expressions::Payload(vec![
            Payload::DestinationRegister(load),
            Payload::Base(NETWORK_HEADER),
            Payload::Offset(SOURCE),
            Payload::Len(4),
        ]),
        Expressions::Bitwise(vec![
            Bitwise::SourceRegister(load),
            Bitwise::DestinationRegister(load),
            Bitwise::Length(4),
            Bitwise::Mask(value(&mask)),
            Bitwise::Xor(value(&[0; 4])),
        ]),
        compare(Operator::Equal, &subnet.network().octets()),
    ]
}

fn chain(table: &str, name: &str, kind: &str, hook: InetHookNumber, priority: u32) -> NfTablesMessage {
    NfTablesMessage::NewChain(ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(name.to_owned()),
            ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(priority)]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(kind.to_owned()),
        ],
    })
}

fn rule(table: &str, chain: &str, expressions: impl IntoIterator<Item = Expressions>) -> NfTablesMessage {
    NfTablesMessage::NewRule(RuleMessage {
        attributes: vec![
            RuleAttribute::Table(table.to_owned()),
            RuleAttribute::Chain(chain.to_owned()),
            RuleAttribute::Expressions(expressions.into_iter().map(Into::into).collect()),
        ],
    })
}

impl Message {
    fn encode(&self) -> Request<NetfilterMessage> {
        let named = |table: &String| TableMessage { attributes: vec![TableAttribute::Name(table.clone())] };
        let (payload, flags) = match self {
            Message::NewTable { table } => (NfTablesMessage::NewTable(named(table)), NLM_F_CREATE | NLM_F_EXCL),
            Message::PostroutingChain { table } => {
                (chain(table, POSTROUTING, "nat", InetHookNumber::PostRouting, PRIORITY_SOURCE_NAT), NLM_F_CREATE)
            }
            Message::ForwardChain { table } => {
                (chain(table, FORWARD, "filter", InetHookNumber::Forward, PRIORITY_FILTER), NLM_F_CREATE)
            }
            Message::Masquerade { table, subnet, bridges } => {
                let masquerade = Expressions::Other { expression_type: "masq".to_owned(), attributes: Vec::new() };
                let all = source(*subnet)
                    .into_iter()
                    .chain(interface(MetaKey::Oifname, Operator::NotEqual, bridges))
                    .chain([masquerade]);
                (rule(table, POSTROUTING, all), NLM_F_CREATE | NLM_F_APPEND)
            }
            Message::Drop { table, bridges } => {
                let verdict = DataAttribute::Verdict(vec![VerdictAttribute::Code(Verdict::Other(DROP))]);
                let drop = Expressions::Immediate(vec![
                    Immediate::DestinationRegister(Register::Verdict),
                    Immediate::Data(verdict),
                ]);
                let all = interface(MetaKey::Iifname, Operator::Equal, bridges)
                    .into_iter()
                    .chain(interface(MetaKey::Oifname, Operator::Equal, bridges))
                    .chain([drop]);
                (rule(table, FORWARD, all), NLM_F_CREATE | NLM_F_APPEND)
            }
            Message::DelTable { table } => (NfTablesMessage::DeleteTable(named(table)), 0),
        };
        let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
        Request { payload: NetfilterMessage::new(header, payload), flags }
    }
}

/// The frame of a batch: which subsystem it is for (`NFNL_SUBSYS_NFTABLES`).
fn frame(message: ControlMessage) -> Request<NetfilterMessage> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, libc::NFNL_SUBSYS_NFTABLES as u16);
    Request { payload: NetfilterMessage::new(header, message), flags: 0 }
}

/// Sends the batch. That the table is there already, or already gone, is success.
pub fn send(messages: &[Message]) -> Result<(), Error> {
    let unsupported = |what: &str, e: Error| {
        let hint = "this kernel has no nftables (CONFIG_NF_TABLES, NFT_MASQ, NFT_NAT)";
        Error {
            code: Code::Unsupported,
            step: what.to_owned(),
            message: format!("{}: {hint}: use --network none", e.message),
            ..e
        }
    };
    let first = messages.first().map(ToString::to_string).unwrap_or_default();
    let mut socket = Netlink::open(NETLINK_NETFILTER).map_err(|e| unsupported("open nftables", Error::os("", e)))?;
    let requests: Vec<_> = std::iter::once(frame(ControlMessage::BatchBegin))
        .chain(messages.iter().map(Message::encode))
        .chain([frame(ControlMessage::BatchEnd)])
        .collect();
    // The end of a batch is not acknowledged before Linux 6.10: the last message in it is.
    let last = messages.len();
    let answers = socket.batch(requests, last, false).map_err(|e| Error::os(first.clone(), e))?;
    let Some(Refusal { index, errno, text }) = answers.refused.into_iter().next() else { return Ok(()) };
    let message = index.checked_sub(1).and_then(|i| messages.get(i));
    match message {
        Some(Message::NewTable { .. }) if errno == libc::EEXIST => return Ok(()),
        Some(Message::DelTable { .. }) if errno == libc::ENOENT => return Ok(()),
        _ => {}
    }
    let step = message.map_or(first, ToString::to_string);
    let mut error = Error::os(step.clone(), io::Error::from_raw_os_error(errno));
    if let Some(text) = text {
        error.message = format!("{} ({text})", error.message);
    }
    match errno {
        libc::EOPNOTSUPP | libc::EINVAL | libc::ENOENT | libc::EPROTONOSUPPORT => Err(unsupported(&step, error)),
        _ => Err(error),
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Message::NewTable { table } => write!(f, "NFT_MSG_NEWTABLE ip {table}"),
            Message::PostroutingChain { table } => write!(
                f,
                "NFT_MSG_NEWCHAIN ip {table} {POSTROUTING} {{ type nat hook postrouting priority 100; policy accept; }}"
            ),
            Message::ForwardChain { table } => write!(
                f,
                "NFT_MSG_NEWCHAIN ip {table} {FORWARD} {{ type filter hook forward priority 0; policy accept; }}"
            ),
            Message::Masquerade { table, subnet, bridges } => write!(
                f,
                "NFT_MSG_NEWRULE ip {table} {POSTROUTING} ip saddr {subnet} oifname != \"{bridges}*\" masquerade"
            ),
            Message::Drop { table, bridges } => {
                write!(f, "NFT_MSG_NEWRULE ip {table} {FORWARD} iifname \"{bridges}*\" oifname \"{bridges}*\" drop")
            }
            Message::DelTable { table } => write!(f, "NFT_MSG_DELTABLE ip {table}"),
        }
    }
}
