//! The steps of a plan, and how they print.

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;

use quilt_record::idmap::IdMap;

use crate::message::Message;
use crate::nft;
use crate::plan::IP_FORWARD;
use crate::shared::{Label, Place};
use crate::subnet::Shard;

/// One step. It prints as one line for each thing that the kernel is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Take the address, or a block of ids: done while planning.
    Lease { path: PathBuf, owner: String },
    /// Look whether the bridge is there: done while planning.
    Look(Message),
    /// Look whether the firewall is whole: done while planning.
    LookFirewall(Vec<nft::Message>),
    /// Make the firewall's tables, if they are not there and whole.
    Tables(Vec<nft::Message>),
    /// Send one batch to nftables.
    Nft(Vec<nft::Message>),
    /// Make a container's interface a port of its bridge again, if it is still there.
    Attach(Place),
    /// Look whether the host's own firewall is in the way.
    Notes(Vec<nft::Message>),
    /// Label a bridge: it is ready.
    Label { name: String, shard: Shard },
    /// Let the host forward packets.
    Forward,
    /// Send one batch from the host's network namespace.
    Host(Vec<Message>),
    /// Mount the directory of pins.
    MountPins(PathBuf),
    /// Make the network namespace and enter it.
    Unshare,
    /// Make a user namespace that owns a network namespace, and enter the latter.
    Pair(IdMap),
    /// Make a user namespace, alone.
    User(IdMap),
    /// Write a sysctl of the network namespace.
    Sysctl { path: Cow<'static, str>, value: Cow<'static, str> },
    /// Go back to the host's network namespace.
    Return,
    /// Pin the network namespace.
    PinNet(PathBuf),
    /// Pin the user namespace.
    PinUser(PathBuf),
    /// Send one batch from inside the network namespace.
    Inside(Vec<Message>),
}

/// The writing of the maps.
fn maps(map: IdMap) -> [String; 2] {
    [("uid_map", map.uid), ("gid_map", map.gid)]
        .map(|(file, first)| format!("write 0 {first} {} to /proc/CHILD/{file}", map.size))
}

impl Step {
    /// What the kernel is asked, one line each.
    pub fn lines(&self) -> Vec<String> {
        let lines = |messages: &[Message], at: &str| messages.iter().map(|m| format!("{at}: {m}")).collect();
        match self {
            Step::Host(messages) => lines(messages, "host"),
            Step::Inside(messages) => lines(messages, "container"),
            Step::Tables(messages) | Step::Nft(messages) | Step::LookFirewall(messages) | Step::Notes(messages) => {
                messages.iter().map(|m| format!("host: {m}")).collect()
            }
            Step::Attach(place) => lines(&place.attach().concat(), "host"),
            Step::Look(message) => vec![format!("host: {message}")],
            Step::Pair(map) => [
                &["clone3 CLONE_NEWUSER|CLONE_NEWNET".to_owned()][..],
                &maps(*map),
                &["setns CLONE_NEWNET: the container's".to_owned()],
            ]
            .concat(),
            Step::User(map) => [&["clone3 CLONE_NEWUSER".to_owned()][..], &maps(*map)].concat(),
            one => vec![one.to_string()],
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::Lease { path, owner } => write!(f, "symlink {} -> {owner}", path.display()),
            Step::Forward => write!(f, "write 1 to {IP_FORWARD}"),
            Step::MountPins(path) => write!(f, "mount tmpfs on {}, private", path.display()),
            Step::Unshare => f.write_str("unshare CLONE_NEWNET"),
            Step::Sysctl { path, value } => write!(f, "write {value} to {path}"),
            Step::Return => f.write_str("setns CLONE_NEWNET: the host's"),
            Step::PinNet(path) => write!(f, "bind the network namespace to {}", path.display()),
            Step::PinUser(path) => write!(f, "bind the user namespace to {}", path.display()),
            Step::Label { name, shard } => {
                let label = Label { shard: *shard, pinned: nft::wants_pinned() };
                write!(f, "host: RTM_NEWLINK {name} alias \"{label}\"")
            }
            Step::LookFirewall(_)
            | Step::Notes(_)
            | Step::Attach(_)
            | Step::Tables(_)
            | Step::Nft(_)
            | Step::Look(_)
            | Step::Host(_)
            | Step::Inside(_)
            | Step::Pair(_)
            | Step::User(_) => f.write_str(&self.lines().join("; ")),
        }
    }
}
