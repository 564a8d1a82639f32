//! Carries out a plan: the sockets, the namespace, the indices of interfaces as they become known.
//!
//! The hard thing: the namespace is made by unshare(2) in the calling thread, which saves a fork; whatever happens, the
//! thread must be back in the host's network namespace afterwards.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};

use netlink_sys::protocols::NETLINK_ROUTE;
use nix::sched::{CloneFlags, setns, unshare};

use quilt_record::{Code, Error, Instance, Step as _, signals};

use crate::check::notes;
use crate::interface::Interface;
use crate::message::{Message, Names};
use crate::namespace::{Namespace, Visit};
use crate::netlink::{Answers, Netlink, Refusal};
use crate::plan::IP_FORWARD;
use crate::shared::Label;
use crate::step::Step;
use crate::subnet::{Mac, Shard, Subnet};
use crate::{nft, pin, userns};

mod host;

/// Sends a batch and returns the answers; the first refusal that does not mean "done already" is the error.
pub(crate) fn send(socket: &mut Netlink, messages: &[Message], names: &Names<'_>) -> Result<Answers, Error> {
    let Some(last) = messages.last() else { return Ok(Answers::default()) };
    let requests = messages.iter().map(|m| m.encode(names)).collect();
    let answers = socket
        .batch(requests, messages.len() - 1, last.is_question())
        .map_err(|e| Error::os(messages[0].to_string(), e))?;
    let tolerated = |r: &&Refusal| messages.get(r.index).is_some_and(|m| m.tolerates(r.errno));
    match answers.refused.iter().find(|r| !tolerated(r)) {
        None => Ok(answers),
        Some(refusal) => {
            let step = messages.get(refusal.index).map(ToString::to_string).unwrap_or_default();
            let mut error = Error::os(step, io::Error::from_raw_os_error(refusal.errno));
            if let Some(text) = &refusal.text {
                error.message = format!("{} ({text})", error.message);
            }
            Err(error)
        }
    }
}

/// A socket of the host's network namespace, on routes and links.
pub(crate) fn host_socket() -> Result<Netlink, Error> {
    Netlink::open(NETLINK_ROUTE).step(|| "open a netlink socket")
}

/// Looks an interface up by its name.
pub(crate) fn find(socket: &mut Netlink, name: &str) -> Result<Option<Interface>, Error> {
    let question = [Message::GetLink { name: name.to_owned() }];
    match send(socket, &question, &Names { indices: &[], netns: None }) {
        Ok(answers) => Ok(answers.told.first().and_then(|(_, payload)| Interface::read(payload))),
        Err(e) if e.errno == Some(libc::ENODEV) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Refuses an interface that has a bridge's name and is not that bridge.
pub(crate) fn check_bridge(found: &Interface, shard: Shard) -> Result<(), Error> {
    if is_bridge(found, shard) {
        return Ok(());
    }
    let name = &found.name;
    let kind = if found.kind.is_empty() { "hardware" } else { &found.kind };
    Err(Error::new(
        Code::Busy,
        format!("find the bridge {name}"),
        format!(
            "the name {name} is in use by a {kind} device that Quilt did not make: rename it (ip link set {name} name \
             OTHER) or delete it (ip link delete {name}), or use another instance (QUILT_ROOT)"
        ),
    ))
}

/// Whether this is the bridge that Quilt makes for the piece: its MAC address follows from the subnet.
pub(crate) fn is_bridge(found: &Interface, shard: Shard) -> bool {
    found.kind == "bridge" && found.mac == Mac::bridge(shard).0
}

fn sysctl(path: &str, value: &str) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(value.as_bytes())
}

fn unmade(namespace: &str) -> Error {
    Error::new(Code::Internal, format!("use the {namespace} namespace"), "it has not been made")
}

/// What carries out a plan.
pub(crate) struct Machine<'a> {
    instance: &'a Instance,
    subnet: Subnet,
    shard: Option<Shard>,
    host: Netlink,
    namespace: Option<Namespace>,
    user: Option<OwnedFd>,
    visit: Option<Visit>,
    indices: Vec<(String, u32)>,
    /// Whether the firewall looks at frames.
    pinned: bool,
    /// What could not be done on this host, as far as it was looked at.
    notes: Vec<String>,
    /// What was not there before, of that which may have been; for who asks.
    pub made: Option<Vec<String>>,
    /// Whether the bridge was made by this machine, and not found.
    made_bridge: bool,
}

impl<'a> Machine<'a> {
    pub fn new(instance: &'a Instance, subnet: Subnet) -> Result<Machine<'a>, Error> {
        Ok(Machine {
            instance,
            subnet,
            shard: None,
            host: host_socket()?,
            namespace: None,
            user: None,
            visit: None,
            indices: vec![("lo".to_owned(), 1)],
            pinned: nft::wants_pinned(),
            notes: Vec::new(),
            made: None,
            made_bridge: false,
        })
    }

    /// One whose container has its network namespace already.
    pub fn in_namespace(instance: &'a Instance, subnet: Subnet, net: OwnedFd) -> Result<Machine<'a>, Error> {
        let mut machine = Machine::new(instance, subnet)?;
        let visit = Visit { home: Some(Visit::own()?) };
        setns(&net, CloneFlags::CLONE_NEWNET).step(|| "enter the container's network namespace")?;
        machine.arrived(net)?;
        visit.end().map(|()| machine)
    }

    /// Whether the firewall looks at frames, as far as is known by now.
    pub fn is_pinned(&self) -> bool {
        self.pinned
    }

    /// What could not be done on this host and is no failure.
    pub fn notes(self) -> Vec<String> {
        let known = || notes(self.instance, self.pinned, false).unwrap_or_default();
        if self.notes.is_empty() { known() } else { self.notes }
    }

    /// The socket on the host's side.
    pub fn host_socket(&mut self) -> &mut Netlink {
        &mut self.host
    }

    /// Looks whether the piece's bridge is there with all that goes with it; its label says how ready.
    pub fn look(&mut self, shard: Shard) -> Result<Option<Label>, Error> {
        self.shard = Some(shard);
        let name = shard.bridge(self.instance);
        let Some(found) = find(&mut self.host, &name)? else { return Ok(None) };
        check_bridge(&found, shard)?;
        self.indices.push((name, found.index));
        let up = found.flags & libc::IFF_UP as u32 != 0 && found.group == nft::BRIDGES;
        Ok(Label::read(&found.alias, shard).filter(|_| up).inspect(|label| self.pinned = label.pinned))
    }

    /// Carries out the plan.
    pub fn run(&mut self, steps: &[Step]) -> Result<(), Error> {
        for step in steps {
            signals::check()?;
            self.step(step)?;
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), Error> {
        let text = || step.to_string();
        match step {
            Step::Lease { .. } | Step::Look(_) | Step::LookFirewall(_) => Ok(()),
            Step::Tables(_) => {
                let ensured = nft::ensure(self.instance, self.subnet)?;
                self.pinned = ensured.pinned;
                if ensured.changed {
                    let first = format!("NFT_MSG_NEWTABLE {}", self.instance.name());
                    self.made.iter_mut().for_each(|made| made.push(first.clone()));
                }
                Ok(())
            }
            Step::Nft(messages) => nft::send(messages),
            Step::Notes(_) => {
                // Not to be able to look is no failure of what is made.
                self.notes = notes(self.instance, self.pinned, true).unwrap_or_default();
                Ok(())
            }
            Step::Label { name, shard } => {
                let label = Label { shard: *shard, pinned: self.pinned }.to_string();
                self.host(&[Message::Label { name: name.clone(), label }])
            }
            Step::Forward => {
                sysctl(IP_FORWARD, "1").step(text)?;
                let note = "quilt-netns: switched on net.ipv4.ip_forward for containers' traffic to the outside";
                let _ = writeln!(io::stderr(), "{note}");
                Ok(())
            }
            Step::Host(messages) => self.host(messages),
            Step::Attach(place) => match place.attach().iter().try_for_each(|messages| self.host(messages)) {
                // It went meanwhile, with its container.
                Err(e) if matches!(e.errno, Some(libc::ENODEV | libc::EINVAL)) => Ok(()),
                done => done,
            },
            Step::MountPins(_) => pin::mount_dir(self.instance),
            Step::Unshare => {
                let home = Visit::own()?;
                unshare(CloneFlags::CLONE_NEWNET).step(text)?;
                self.visit = Some(Visit { home: Some(home) });
                self.arrived(Visit::own()?)
            }
            Step::Pair(map) => {
                let home = Visit::own()?;
                let Some(net) = userns::make_known(*map, true)?.net else { return Err(unmade("network")) };
                setns(&net, CloneFlags::CLONE_NEWNET).step(text)?;
                self.visit = Some(Visit { home: Some(home) });
                self.arrived(net)
            }
            Step::User(map) => {
                self.user = Some(userns::make_known(*map, false)?.user);
                Ok(())
            }
            // Not fs::write: a file that is missing would be EACCES to a kernel asked to create it.
            Step::Sysctl { path, value } => match sysctl(path, value) {
                // A kernel without IPv6 needs it not switched off.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                done => done.step(text),
            },
            Step::Return => self.visit.take().map_or(Ok(()), Visit::end),
            Step::PinNet(path) => self.namespace(|n| pin::pin(n.net.as_fd(), path).step(text)),
            Step::PinUser(path) => match &self.user {
                Some(user) => pin::pin(user.as_fd(), path).step(text),
                None => Err(unmade("user")),
            },
            Step::Inside(messages) => {
                let indices = std::mem::take(&mut self.indices);
                let sent = self
                    .namespace(|n| send(&mut n.socket, messages, &Names { indices: &indices, netns: None }).map(drop));
                self.indices = indices;
                sent
            }
        }
    }

    fn arrived(&mut self, net: OwnedFd) -> Result<(), Error> {
        self.namespace = Some(Namespace { net, socket: host_socket()? });
        Ok(())
    }

    fn namespace(&mut self, act: impl FnOnce(&mut Namespace) -> Result<(), Error>) -> Result<(), Error> {
        match &mut self.namespace {
            Some(namespace) => act(namespace),
            None => Err(unmade("network")),
        }
    }
}
