//! The first two phases: the process, the namespaces.

use quilt_exec::Target;
use quilt_record::have::Spawn;
use quilt_record::process::{namespace, stat};
use quilt_record::stage::in_pipeline;
use quilt_record::{Code, Error, Id, Instance, Record};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use crate::report::Evidence;
use crate::watch::{Stop, no};

/// The namespaces that every container has to itself.
const ALWAYS: [&str; 4] = ["mnt", "uts", "ipc", "cgroup"];

/// What a record asks of its namespaces.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Asked {
    network: Option<String>,
    pid: Option<String>,
}

/// The namespaces that were asked for.
pub(crate) fn asked(record: &Record) -> Result<Vec<&'static str>, Error> {
    let net = record.want::<Asked>("netns")?.network;
    let pid = record.want::<Asked>("spawn")?.pid;
    let host = |asked: Option<String>| asked.as_deref() == Some("host");
    let mut names = ALWAYS.to_vec();
    names.extend(gets_ids(record)?.then_some("user"));
    names.extend((!host(net)).then_some("net"));
    names.extend((!host(pid)).then_some("pid"));
    Ok(names)
}

/// Whether the container gets a user namespace, as quilt-netns says, or in a dry run its plan.
fn gets_ids(record: &Record) -> Result<bool, Error> {
    #[derive(Deserialize)]
    struct Found {
        have: Option<Ids>,
        plan: Option<Vec<String>>,
    }
    #[derive(Deserialize)]
    struct Ids {
        ids: Option<IgnoredAny>,
    }
    let Some(Found { have, plan }) = record.get("netns")? else { return Ok(false) };
    let planned = || plan.iter().flatten().any(|step| step.starts_with("clone3 CLONE_NEWUSER"));
    Ok(have.map_or_else(planned, |have| have.ids.is_some()))
}

/// The init lives: its pidfd, its start time, not a zombie.
pub(crate) fn process(instance: &Instance, id: &Id, record: &Record, evidence: &mut Evidence) -> Result<Target, Stop> {
    let spawn: Option<Spawn> = record.have("spawn")?;
    if let Some(spawn) = &spawn {
        evidence.note("pid", spawn.init.pid);
        evidence.note("start", spawn.init.start);
        if let Ok((state, start)) = stat(spawn.init.pid)
            && start == spawn.init.start
        {
            evidence.note("state", state);
        }
    }
    match (Target::of(instance, id, record), spawn) {
        // One that is being made is in nobody's hands but this create's.
        (Ok(target), _) if in_pipeline() => Ok(target),
        (Ok(target), _) => match target.refuse_paused() {
            Ok(()) => Ok(target),
            Err(e) if e.code == Code::Busy => {
                evidence.note("paused", true);
                Err(no(e.message))
            }
            Err(e) if e.code == Code::NotFound => Err(Stop::Dead),
            Err(e) => Err(Stop::Broken(e)),
        },
        (Err(e), Some(_)) if e.code == Code::NotFound => Err(Stop::Dead),
        (Err(e), None) if e.code == Code::NotFound => Err(no("the container has no init: it has not been started")),
        (Err(e), _) => Err(Stop::Broken(e)),
    }
}

/// The init is in the namespaces that were made for it, all that were asked for, and none of them is the host's.
pub(crate) fn namespaces(target: &Target, asked: &[&str], evidence: &mut Evidence) -> Result<(), Stop> {
    let mut inside = Map::new();
    let mut wrong = None;
    for (name, recorded) in &target.spawn.namespaces {
        let (seen, host) = (inode(&target.spawn.init.pid.to_string(), name)?, inode("self", name)?);
        inside.insert(name.clone(), Value::from(seen));
        if seen == host {
            wrong = wrong.or(Some(format!("its {name} namespace is the host's")));
        } else if seen != *recorded {
            wrong = wrong.or(Some(format!("its {name} namespace is {seen}, not {recorded}, which was made for it")));
        }
    }
    let made = |name: &&&str| target.spawn.namespaces.iter().any(|(made, _)| made == **name);
    if let Some(missing) = asked.iter().find(|name| !made(name)) {
        wrong = wrong.or(Some(format!("it has no {missing} namespace of its own")));
    }
    evidence.note("inodes", inside);
    if let Some(ids) = target.spawn.ids {
        for (file, first) in [("uid_map", ids.uid), ("gid_map", ids.gid)] {
            let seen = map(target.spawn.init.pid, file)?;
            if seen != format!("0 {first} {}", ids.size) {
                wrong = wrong.or(Some(format!("its {file} is `{seen}`, and its ids were to be {ids}")));
            }
            evidence.note(file, seen);
        }
    }
    wrong.map_or(Ok(()), |wrong| Err(no(wrong)))
}

/// An id map of a process (user_namespaces(7)): inside, outside, how many.
fn map(pid: i32, file: &str) -> Result<String, Stop> {
    let path = format!("/proc/{pid}/{file}");
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.split_whitespace().collect::<Vec<_>>().join(" ")),
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Err(Stop::Dead),
        Err(e) => Err(Stop::Broken(Error::os(format!("read {path}"), e))),
    }
}

/// The inode number of a namespace of a process (namespaces(7)).
pub(crate) fn inode(pid: &str, name: &str) -> Result<u64, Stop> {
    match namespace(pid, name) {
        Ok(inode) => Ok(inode),
        // The process is gone, as the pidfd will say.
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ESRCH)) => Err(Stop::Dead),
        Err(e) => Err(Stop::Broken(Error::os(format!("look at the {name} namespace of process {pid}"), e))),
    }
}
