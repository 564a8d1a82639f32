//! Looks whether the tables are whole: one question for each chain, all in one send.

use std::net::Ipv4Addr;

use netlink_packet_netfilter::NetfilterProtoFamily as Family;
use quilt_record::{Error, Instance, Step};

use super::layout::{PINNED, RESOLVERS, bytes_of, equal_bytes, expected, resolver_keys};
use super::message::{Message, family_name};
use super::open;
use crate::netlink::attribute_u32_be;
use crate::subnet::Subnet;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Firewall {
    /// The chains that are not there, or have not as many rules as they should: `chain ip quilt input`.
    pub missing: Vec<String>,
    /// The name servers, of those asked about, that containers cannot ask.
    pub unknown: Vec<Ipv4Addr>,
}

impl Firewall {
    /// Whether nothing is missing.
    pub fn is_whole(&self) -> bool {
        self.missing.is_empty() && self.unknown.is_empty()
    }
}

/// `struct nfgenmsg`, before the attributes.
const NFGENMSG: usize = 4;
/// linux/netfilter/nf_tables.h.
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_USE: u16 = 6;

/// The questions of [`look`]: every chain that should be there, and every name server.
pub fn questions(instance: &Instance, subnet: Subnet, pinned: bool, servers: &[Ipv4Addr]) -> Vec<Message> {
    let expected = expected(instance, subnet, pinned);
    let chains = expected.iter().map(|(family, chain, _)| of_chain(instance, *family, chain));
    chains.chain(servers.iter().map(|server| of_server(instance, *server))).collect()
}

fn of_chain(instance: &Instance, family: Family, chain: &'static str) -> Message {
    Message::GetChain { family, table: instance.name(), chain }
}

fn of_server(instance: &Instance, server: Ipv4Addr) -> Message {
    let [key, _] = resolver_keys(server);
    Message::GetElement { family: Family::IPv4, table: instance.name(), set: RESOLVERS, key, text: server.to_string() }
}

/// Looks whether the tables are whole, and the name servers in them.
pub fn look(instance: &Instance, subnet: Subnet, pinned: bool, servers: &[Ipv4Addr]) -> Result<Firewall, Error> {
    let expected = expected(instance, subnet, pinned);
    let chains = expected.iter().map(|(family, chain, _)| of_chain(instance, *family, chain));
    let questions: Vec<Message> = chains.chain(servers.iter().map(|server| of_server(instance, *server))).collect();
    let requests = questions.iter().map(Message::encode).collect();
    let step = || "look at the firewall".to_owned();
    let answers = open()?.batch(requests, questions.len() - 1, true).step(step)?;
    let told = |index: usize| answers.told.iter().find(|(i, _)| *i == index).map(|(_, payload)| payload);
    let mut found = Firewall::default();
    for (index, (family, chain, rules)) in expected.iter().enumerate() {
        let count = told(index).and_then(|payload| attribute_u32_be(payload, NFGENMSG, NFTA_CHAIN_USE));
        if count != Some(*rules) {
            let table = instance.name();
            found.missing.push(format!("chain {} {table} {chain}", family_name(*family)));
        }
    }
    let asked = servers.iter().enumerate().filter(|(i, _)| told(expected.len() + i).is_none());
    found.unknown.extend(asked.map(|(_, server)| *server));
    Ok(found)
}

/// How many elements are asked for at a time: as many answers as a socket has room for.
const AT_A_TIME: usize = 64;

/// Whether the set that addresses are pinned by has all that is for this one, or all that there should be.
pub fn is_pinned(instance: &Instance, address: Option<Ipv4Addr>) -> Result<bool, Error> {
    let mut socket = open()?;
    for keys in address.map_or_else(equal_bytes, bytes_of).chunks(AT_A_TIME) {
        let question = |key: &Vec<u8>| {
            let (table, key) = (instance.name(), key.clone());
            Message::GetElement { family: Family::Bridge, table, set: PINNED, key, text: String::new() }.encode()
        };
        let requests = keys.iter().map(question).collect();
        let answers =
            socket.batch(requests, keys.len() - 1, true).step(|| format!("look at {}", pinned_set(instance)))?;
        if !answers.refused.is_empty() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The set, as nft(8) calls it.
pub fn pinned_set(instance: &Instance) -> String {
    format!("set {} {} {PINNED}", family_name(Family::Bridge), instance.name())
}

/// What the host's own firewall does by default with what it forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It lets it through, as far as Quilt can tell.
    Accept,
    /// It drops it.
    Drop,
    /// The same, and docker has made a chain for others' rules.
    DropBehindDocker,
}

/// The questions of [`forward_policy`].
pub fn policy_questions() -> [Message; 2] {
    ["FORWARD", "DOCKER-USER"].map(|chain| Message::GetChain {
        family: Family::IPv4,
        table: "filter".to_owned(),
        chain,
    })
}

/// The policy of `ip filter FORWARD`, as iptables-nft makes it.
pub fn forward_policy() -> Result<Verdict, Error> {
    let questions = policy_questions();
    let requests = questions.iter().map(Message::encode).collect();
    let answers = open()?.batch(requests, 1, true).step(|| questions[0].to_string())?;
    let told = |index: usize| answers.told.iter().find(|(i, _)| *i == index).map(|(_, payload)| payload);
    const DROP: u32 = 0;
    let policy = told(0).and_then(|payload| attribute_u32_be(payload, NFGENMSG, NFTA_CHAIN_POLICY));
    Ok(match policy {
        Some(DROP) if told(1).is_some() => Verdict::DropBehindDocker,
        Some(DROP) => Verdict::Drop,
        _ => Verdict::Accept,
    })
}
