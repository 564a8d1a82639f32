//! Starts a container: a child in namespaces of its own, a root put together from the image's layers, /proc, /sys and
//! /dev, confinement, and init in its place. Returns when init says that it runs.
//!
//! It makes no network, sets no limits and unpacks nothing: it uses what the record says the tools before it made. It
//! mounts nothing in the host's mount namespace, so nothing has to be unmounted.
//!
//! The one hard thing is the image, which is not trusted and says what every path inside means: see `inside.rs`.

pub mod init;
pub mod masks;
pub mod plan;
pub mod report;
pub mod rules;

mod extra;
mod files;
mod host_devices;
mod inside;
mod own;
mod start;
mod sysctl;
mod tmpfs;
mod undo;
mod volume;
mod want;

use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::Mode;
use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use quilt_record::confine::Seccomp;
use quilt_record::idmap::IdMap;
use quilt_record::process::boot_id;
use quilt_record::stage::{Context, Outcome, Stage};
use quilt_record::{Code, Error, Id, Instance, Record, Step, defence, have, readonly};
use serde::Deserialize;
use serde::de::IgnoredAny;

use extra::Extra;
use masks::Present;
use own::Own;
use plan::{Input, plan};
use rules::Caller;
use volume::{Source, Volume};

pub use volume::absolute as absolute_volume;
pub use want::{Pid, Want};

/// `quilt-spawn`.
pub const STAGE: Stage<Want, have::Spawn> = Stage { name: "spawn", act, undo: undo::undo, again: false };

/// The files that quilt-netns gives every container.
const NETWORK_FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname"];

fn act(context: &Context<'_, Want>) -> anyhow::Result<Outcome<have::Spawn>> {
    context.want.check()?;
    let record = context.record;
    let unpack = record.have::<have::Unpack>("unpack")?;
    let netns = record.have::<have::Netns>("netns")?;
    let cgroup = record.have::<have::Cgroup>("cgroup")?;
    let Some(container) = context.container else {
        let input = guess(context, unpack, netns, cgroup)?;
        plan::check_ids(&input)?;
        sources(context.instance, &input)?;
        return Ok(Outcome::Plan(plan(&input).iter().map(ToString::to_string).collect()));
    };
    let (unpack, netns, cgroup) = (required("unpack", unpack)?, required("netns", netns)?, required("cgroup", cgroup)?);
    for (stage, boot) in [("netns", &netns.boot), ("cgroup", &cgroup.boot)] {
        if boot != boot_id() {
            return Err(absent(stage, "was made before the last boot").into());
        }
    }
    let exempt = context.want.privileged || defence::out("userns");
    if context.want.pid == Some(Pid::Host) && netns.ids.is_none() && !exempt {
        let why = "it needs a user namespace (--userns auto), or root inside could kill every process of the host";
        return Err(Error::new(Code::Invalid, "read --pid host", why).into());
    }
    let confinement = rules::confinement(context.want, Caller::of(context.want)?)?;
    let input = Input {
        tools: readonly::missing(context.instance),
        container: container.path().clone(),
        hide: hidden(context.instance, unpack.digest.is_none(), &unpack.lower)?,
        extras: context.want.extras()?,
        sysctls: context.want.sysctls()?,
        host_devices: host_devices(context.want),
        lower: unpack.lower,
        upper: unpack.upper,
        work: unpack.work,
        net: netns.net,
        user: netns.user,
        ids: netns.ids,
        hierarchies: cgroup.hierarchies,
        devices: cgroup.devices,
        files: netns.files.iter().map(|(path, _)| path.into()).collect(),
        hostname: netns.hostname,
        rules: confinement.rules.clone(),
        present: Present::look(),
        want: context.want.clone(),
    };
    if input.net.is_none() {
        context.want.check_with_hosts_network()?;
    }
    plan::check_ids(&input)?;
    let sources = sources(context.instance, &input)?;
    if confinement.rules.seccomp == Seccomp::Inherited {
        let _ = writeln!(io::stderr(), "quilt-spawn: {}", rules::INHERITED);
    }
    Ok(Outcome::Done(start::start(context.instance, container, &input, confinement, &netns.files, &sources)?))
}

fn required<H>(stage: &str, have: Option<H>) -> Result<H, Error> {
    have.ok_or_else(|| absent(stage, "is not there"))
}

fn absent(stage: &str, what: &str) -> Error {
    let step = format!("read `{stage}.have` of the record");
    Error::new(Code::NotFound, step, format!("it {what}: run quilt-{stage} for this container first"))
}

/// What the volumes are of. Found here, and never again by their paths.
fn sources(instance: &Instance, input: &Input) -> Result<Vec<(Volume, Source)>, Error> {
    let volumes: Vec<&Volume> = input.extras.iter().filter_map(Extra::volume).collect();
    if volumes.is_empty() {
        return Ok(Vec::new());
    }
    let mut own = Own::find(instance)?;
    volumes.into_iter().map(|volume| Ok((volume.clone(), volume::find(volume, &mut own)?))).collect()
}

fn host_devices(want: &Want) -> Vec<have::Device> {
    if want.privileged { host_devices::all() } else { Vec::new() }
}

/// What is to be hidden of an image that is a directory of the host: this instance's state, and the machine's own.
fn hidden(instance: &Instance, is_directory: bool, lower: &[PathBuf]) -> Result<Vec<PathBuf>, Error> {
    let [lower] = lower else { return Ok(Vec::new()) };
    if !is_directory {
        return Ok(Vec::new());
    }
    let step = || format!("use the image {}", lower.display());
    let dir = openat(AT_FDCWD, lower, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).step(step)?;
    match Own::find(instance)?.within(dir.as_fd()) {
        Ok(Some(below)) => Ok(below.iter().map(|path| Path::new("/").join(path)).collect()),
        Ok(None) => Err(Error::new(Code::Invalid, step(), "it belongs to Quilt's own state")),
        Err(e) => Err(Error { step: step(), ..e }),
    }
}

/// For a dry run: what the tools before would have made, as far as it can be known.
fn guess(
    context: &Context<'_, Want>,
    unpack: Option<have::Unpack>,
    netns: Option<have::Netns>,
    cgroup: Option<have::Cgroup>,
) -> Result<Input, Error> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Asked {
        image: Option<PathBuf>,
        network: Option<String>,
        hostname: Option<String>,
    }
    let (instance, id) = (context.instance, &context.id);
    let (image, network): (Asked, Asked) = (context.record.want("unpack")?, context.record.want("netns")?);
    let directory = image.image.filter(|path| path.is_dir()).and_then(|path| path.canonicalize().ok());
    let container = instance.containers().join(id.as_str());
    let (lower, is_directory) = match (unpack, directory) {
        (Some(unpack), _) => (unpack.lower, unpack.digest.is_none()),
        (None, Some(directory)) => (vec![directory], true),
        (None, None) => (vec![instance.images().join("IMAGE")], false),
    };
    let named = network.hostname.unwrap_or_else(|| id.to_string());
    let (ids, user) = planned_ids(context.record)?;
    let (net, user, ids, hostname, files) = match netns {
        Some(netns) => {
            let files = netns.files.into_iter().map(|(path, _)| path.into()).collect();
            (netns.net, netns.user, netns.ids, netns.hostname, files)
        }
        None => {
            let net = (network.network.as_deref() != Some("host")).then(|| instance.run().join("ns").join(id.as_str()));
            (net, user, ids, named, NETWORK_FILES.map(PathBuf::from).to_vec())
        }
    };
    Ok(Input {
        tools: readonly::missing(instance),
        hide: hidden(instance, is_directory, &lower)?,
        extras: context.want.extras()?,
        sysctls: context.want.sysctls()?,
        host_devices: host_devices(context.want),
        lower,
        upper: container.join("upper"),
        work: container.join("work"),
        container,
        net,
        devices: match &cgroup {
            Some(cgroup) => cgroup.devices.clone(),
            None => planned(context.record, "device ")?.iter().filter_map(|line| line.parse().ok()).collect(),
        },
        user,
        ids,
        hierarchies: match cgroup {
            Some(cgroup) => cgroup.hierarchies,
            None => planned_hierarchies(context.record, id)?,
        },
        files,
        hostname,
        rules: rules::confinement(context.want, Caller::FREE)?.rules,
        present: Present::look(),
        want: context.want.clone(),
    })
}

/// The ids, and the pin of their user namespace, as the plan of quilt-netns has them.
fn planned_ids(record: &Record) -> Result<(Option<IdMap>, Option<PathBuf>), Error> {
    let section = record.section::<IgnoredAny, IgnoredAny>("netns")?;
    let plan = section.and_then(|section| section.plan).unwrap_or_default();
    let map = |file: &str| {
        let end = format!(" to /proc/CHILD/{file}");
        let text = plan.iter().find_map(|line| line.strip_prefix("write 0 ")?.strip_suffix(end.as_str()))?;
        let (first, size) = text.split_once(' ')?;
        Some((first.parse().ok()?, size.parse().ok()?))
    };
    let ids = map("uid_map").zip(map("gid_map")).map(|((uid, size), (gid, _))| IdMap { uid, gid, size });
    let pin = plan.iter().find_map(|line| line.strip_prefix("bind the user namespace to ")).map(PathBuf::from);
    Ok((ids, pin))
}

/// What follows a word in the lines of quilt-cgroup's plan, which was made before in the same dry run.
fn planned(record: &Record, word: &str) -> Result<Vec<String>, Error> {
    let section = record.section::<IgnoredAny, IgnoredAny>("cgroup")?;
    let plan = section.and_then(|section| section.plan).unwrap_or_default();
    Ok(plan.iter().filter_map(|line| line.strip_prefix(word)).map(str::to_owned).collect())
}

/// The container's directories as that plan has them.
fn planned_hierarchies(record: &Record, id: &Id) -> Result<Vec<have::Hierarchy>, Error> {
    let made = planned(record, "mkdir ")?.into_iter().map(PathBuf::from);
    let own = made.filter(|path| path.file_name().is_some_and(|name| name == id.as_str()));
    let version = |path: &Path| {
        let there = path.ancestors().find_map(|dir| statfs(dir).ok());
        if there.is_some_and(|fs| fs.filesystem_type() == CGROUP2_SUPER_MAGIC) { 2 } else { 1 }
    };
    // The usual places have the controllers' names: /sys/fs/cgroup/freezer.
    let controllers = |path: &Path| {
        let below = path.strip_prefix("/sys/fs/cgroup").ok().and_then(|below| below.iter().next());
        below.map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    };
    let hierarchy = |path: PathBuf| have::Hierarchy { version: version(&path), controllers: controllers(&path), path };
    Ok(own.map(hierarchy).collect())
}
