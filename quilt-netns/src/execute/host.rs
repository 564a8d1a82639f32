//! What is sent on the host's side, and what the answers tell.

use std::os::fd::AsFd;

use quilt_record::{Code, Error};

use super::{Machine, check_bridge, send};
use crate::interface::{Interface, route_interface};
use crate::message::{ETH, Message, Names};
use crate::subnet::Shard;

impl Machine<'_> {
    /// Sends the messages, and sees to what the answers ask for.
    pub(super) fn host(&mut self, messages: &[Message]) -> Result<(), Error> {
        let netns = self.namespace.as_ref().map(|n| n.net.as_fd());
        let names = Names { indices: &self.indices, netns };
        let answers = match send(&mut self.host, messages, &names) {
            // The container of that name before this one is gone, its interface not yet: the kernel takes namespaces
            // down later. The claim on the name is ours, so what is left under it is nobody's.
            Err(e)
                if e.errno == Some(libc::EEXIST)
                    && let Some(Message::NewVeth { name, .. }) = messages.first() =>
            {
                send(&mut self.host, &[Message::DelLink { name: name.clone() }], &names)?;
                send(&mut self.host, messages, &names)?
            }
            sent => sent?,
        };
        for (index, payload) in &answers.told {
            if let (Some(Message::GetLink { name }), Some(found)) = (messages.get(*index), Interface::read(payload)) {
                self.learn(name, &found)?;
            }
        }
        if let Some(made) = &mut self.made {
            use Message::{BridgeRoute, NewAddress, NewBridge};
            let may_be = |m: &Message| matches!(m, NewBridge { .. } | NewAddress { .. } | BridgeRoute { .. });
            let refused = |index: usize| answers.refused.iter().any(|r| r.index == index);
            let news = messages.iter().enumerate().filter(|(index, message)| may_be(message) && !refused(*index));
            made.extend(news.map(|(_, message)| message.to_string()));
        }
        for (index, message) in messages.iter().enumerate() {
            let refused = answers.refused.iter().any(|refusal| refusal.index == index);
            self.made_bridge |= matches!(message, Message::NewBridge { .. }) && !refused;
        }
        for refusal in &answers.refused {
            if let Some(Message::BridgeRoute { name, shard, .. }) = messages.get(refusal.index) {
                self.check_route(name, *shard)?;
            }
        }
        Ok(())
    }

    /// Keeps the index of an interface that the kernel told of, and of the end inside if it is a pair's.
    fn learn(&mut self, name: &str, found: &Interface) -> Result<(), Error> {
        if let Some(shard) = self.shard.filter(|s| s.bridge(self.instance) == name) {
            check_bridge(found, shard)?;
        } else {
            self.indices.push((ETH.to_owned(), found.peer));
        }
        self.indices.push((name.to_owned(), found.index));
        Ok(())
    }

    /// A route to the piece is there already: ours, or is the subnet somebody else's?
    fn check_route(&mut self, bridge: &str, shard: Shard) -> Result<(), Error> {
        let to = std::net::Ipv4Addr::from(u32::from(shard.network) + 2);
        let names = Names { indices: &self.indices, netns: None };
        let answers = send(&mut self.host, &[Message::GetRoute { to }], &names)?;
        let by = answers.told.first().and_then(|(_, payload)| route_interface(payload));
        if by.is_some() && by == self.indices.iter().find(|(name, _)| name == bridge).map(|(_, index)| *index) {
            return Ok(());
        }
        // One that was there has containers on it, and its own route once; what else there is now is not ours to judge.
        if !self.made_bridge {
            return Ok(());
        }
        // A bridge that can never be ready is of no use to anyone.
        send(&mut self.host, &[Message::DelLink { name: bridge.to_owned() }], &names)?;
        Err(Error::new(
            Code::Busy,
            format!("route {shard} to {bridge}"),
            format!(
                "this host has a route to {shard} already: give this instance a subnet of its own (--subnet, now {})",
                self.subnet
            ),
        ))
    }
}
