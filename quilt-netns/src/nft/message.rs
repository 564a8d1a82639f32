//! The messages to nftables, as values: they print as a dry run shows them, and turn into the kernel's form.

use std::fmt;

use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_netfilter::nftables::{
    ChainAttribute, ChainMessage, DataAttribute, Hook, InetHookNumber, ListAttribute, NfTablesMessage, RuleAttribute,
    RuleMessage, SetAttribute, SetElementAttribute, SetElementList, SetElementMessage, SetFlags, SetMessage,
    TableAttribute, TableMessage,
};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterMessage, NetfilterProtoFamily as Family};

use super::term::Term;
use crate::netlink::Request;

/// A base chain. Its policy is to accept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    pub name: &'static str,
    pub kind: &'static str,
    pub hook: &'static str,
    pub priority: i32,
}

/// A set, of concatenated keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    pub name: &'static str,
    pub types: &'static [&'static str],
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Makes a table; if `exclusive`, EEXIST ends the whole batch.
    NewTable { family: Family, table: String, exclusive: bool },
    /// Deletes a table with all that is in it.
    DelTable { family: Family, table: String },
    /// Makes a chain.
    NewChain { family: Family, table: String, chain: Chain },
    /// Makes a set.
    NewSet { family: Family, table: String, set: Set },
    /// Adds to a set what is not in it yet.
    Elements { family: Family, table: String, set: &'static str, keys: Vec<Vec<u8>>, text: String },
    /// Appends a rule to a chain.
    Rule { family: Family, table: String, chain: &'static str, terms: Vec<Term> },
    /// Asks for a chain.
    GetChain { family: Family, table: String, chain: &'static str },
    /// Asks for an element of a set.
    GetElement { family: Family, table: String, set: &'static str, key: Vec<u8>, text: String },
}

/// The numbers of nft(8) for types of keys (its datatype.h); the kernel only keeps them. And their lengths in a key.
fn data_type(name: &str) -> (u32, u32) {
    match name {
        "ipv4_addr" => (7, 4),
        "inet_proto" => (12, 4),
        _ => (13, 4),
    }
}

fn elements(table: &str, set: &str, keys: &[Vec<u8>]) -> SetElementMessage {
    let element =
        |key: &Vec<u8>| ListAttribute::Element(vec![SetElementAttribute::Key(DataAttribute::Value(key.clone()))]);
    SetElementMessage {
        attributes: vec![
            SetElementList::Table(table.to_owned()),
            SetElementList::Set(set.to_owned()),
            SetElementList::Elements(keys.iter().map(element).collect()),
        ],
    }
}

fn new_set(table: &str, set: &Set) -> SetMessage {
    let types = set.types.iter().map(|name| data_type(name));
    // Six bits for each part of the key.
    let (kind, length) = types.fold((0, 0), |(kind, length), (number, bytes)| (kind << 6 | number, length + bytes));
    SetMessage {
        attributes: vec![
            SetAttribute::Table(table.to_owned()),
            SetAttribute::Name(set.name.to_owned()),
            SetAttribute::Flags(SetFlags::empty()),
            SetAttribute::KeyType(kind),
            SetAttribute::KeyLen(length),
            SetAttribute::Id(1),
        ],
    }
}

fn new_chain(table: &str, chain: &Chain) -> ChainMessage {
    // A bridge's hooks have the same numbers (linux/netfilter_bridge.h).
    let hook = match chain.hook {
        "prerouting" => InetHookNumber::PreRouting,
        "input" => InetHookNumber::LocalIn,
        "forward" => InetHookNumber::Forward,
        _ => InetHookNumber::PostRouting,
    };
    const ACCEPT: u32 = 1;
    ChainMessage {
        attributes: vec![
            ChainAttribute::Table(table.to_owned()),
            ChainAttribute::Name(chain.name.to_owned()),
            ChainAttribute::Hook(vec![Hook::Number(hook.into()), Hook::Priority(chain.priority as u32)]),
            ChainAttribute::Policy(ACCEPT),
            ChainAttribute::Type(chain.kind.to_owned()),
        ],
    }
}

impl Message {
    /// The family of the table that it is about.
    pub fn family(&self) -> Family {
        match self {
            Message::NewTable { family, .. }
            | Message::DelTable { family, .. }
            | Message::NewChain { family, .. }
            | Message::NewSet { family, .. }
            | Message::Elements { family, .. }
            | Message::Rule { family, .. }
            | Message::GetChain { family, .. }
            | Message::GetElement { family, .. } => *family,
        }
    }

    pub(super) fn encode(&self) -> Request<NetfilterMessage> {
        let named = |table: &String| TableMessage { attributes: vec![TableAttribute::Name(table.clone())] };
        let (payload, flags) = match self {
            Message::NewTable { table, exclusive, .. } => {
                let exclusive = if *exclusive { NLM_F_EXCL } else { 0 };
                (NfTablesMessage::NewTable(named(table)), NLM_F_CREATE | exclusive)
            }
            Message::DelTable { table, .. } => (NfTablesMessage::DeleteTable(named(table)), 0),
            Message::NewChain { table, chain, .. } => {
                (NfTablesMessage::NewChain(new_chain(table, chain)), NLM_F_CREATE)
            }
            Message::NewSet { table, set, .. } => (NfTablesMessage::NewSet(new_set(table, set)), NLM_F_CREATE),
            Message::Elements { table, set, keys, .. } => {
                (NfTablesMessage::NewSetElement(elements(table, set, keys)), NLM_F_CREATE)
            }
            Message::Rule { table, chain, terms, .. } => {
                let expressions = terms.iter().flat_map(Term::encode).map(Into::into).collect();
                let attributes = vec![
                    RuleAttribute::Table(table.clone()),
                    RuleAttribute::Chain((*chain).to_owned()),
                    RuleAttribute::Expressions(expressions),
                ];
                (NfTablesMessage::NewRule(RuleMessage { attributes }), NLM_F_CREATE | NLM_F_APPEND)
            }
            Message::GetChain { table, chain, .. } => {
                let attributes = vec![ChainAttribute::Table(table.clone()), ChainAttribute::Name((*chain).to_owned())];
                (NfTablesMessage::GetChain(ChainMessage { attributes }), 0)
            }
            Message::GetElement { table, set, key, .. } => {
                (NfTablesMessage::GetSetElement(elements(table, set, std::slice::from_ref(key))), 0)
            }
        };
        Request { payload: NetfilterMessage::new(NetfilterHeader::new(self.family(), 0, 0), payload), flags }
    }
}

/// As nft(8) calls it.
pub(super) fn family_name(family: Family) -> &'static str {
    if family == Family::Bridge { "bridge" } else { "ip" }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = family_name(self.family());
        match self {
            Message::NewTable { table, .. } => write!(f, "NFT_MSG_NEWTABLE {of} {table}"),
            Message::DelTable { table, .. } => write!(f, "NFT_MSG_DELTABLE {of} {table}"),
            Message::NewChain { table, chain: Chain { name, kind, hook, priority }, .. } => write!(
                f,
                "NFT_MSG_NEWCHAIN {of} {table} {name} {{ type {kind} hook {hook} priority {priority}; policy accept; }}"
            ),
            Message::NewSet { table, set: Set { name, types }, .. } => {
                write!(f, "NFT_MSG_NEWSET {of} {table} {name} {{ type {}; }}", types.join(" . "))
            }
            Message::Elements { table, set, text, .. } => {
                write!(f, "NFT_MSG_NEWSETELEM {of} {table} {set} {{ {text} }}")
            }
            Message::Rule { table, chain, terms, .. } => {
                let terms: Vec<String> = terms.iter().map(ToString::to_string).collect();
                write!(f, "NFT_MSG_NEWRULE {of} {table} {chain} {}", terms.join(" "))
            }
            Message::GetChain { table, chain, .. } => write!(f, "NFT_MSG_GETCHAIN {of} {table} {chain}"),
            Message::GetElement { table, set, text, .. } => {
                write!(f, "NFT_MSG_GETSETELEM {of} {table} {set} {{ {text} }}")
            }
        }
    }
}
