//! The security phase (`--security`): is the confinement that the record says in force, seen from inside?
//!
//! A visitor (`facts.rs`) gathers what a process there has, sees and can do; here it is held against a list of what must
//! be, made without looking at how quilt-spawn does it: two that agree are worth more than one. What cannot be seen from
//! inside is looked at from outside: the init, the device policy, whose cgroups are shown.

use std::fs::{self, File};
use std::io::Read;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use quilt_exec::{Program, Stdio, Target};
use quilt_record::confine::{CapSet, Status, rlimit};
use quilt_record::process::wait_dead;
use quilt_record::{Code, Error, Record, Step, sys};
use serde::Deserialize;

use crate::report::Evidence;
use crate::watch::{Event, Stop, Watch, no};

mod calls;
mod devices;
mod facts;
mod golden;
mod held;

use facts::{Descriptors, Facts, Wanted};
use golden::{Extra, Own};

/// How long the phase may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How long the visitor may take to end once it has said all.
const END: Duration = Duration::from_millis(500);

/// The most that the visitor may have to say, in bytes: a container may have a thousand mounts.
const FACTS_MAX: u64 = 1 << 20;

/// By its number in linux/capability.h.
const SYS_RESOURCE: CapSet = CapSet(1 << 24);

/// What of the record says what must be.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Asked {
    privileged: bool,
    read_only: bool,
    tmpfs: Vec<String>,
    volume: Vec<String>,
}

/// Looks from inside, and fails with all that is not as it must be.
pub(crate) fn look(record: &Record, target: &Target, watch: &Watch<'_>, evidence: &mut Evidence) -> Result<(), Stop> {
    let asked: Asked = record.want("spawn")?;
    let rules = &target.spawn.confine;
    let extras = asked.volume.iter().filter_map(|text| Extra::volume(text));
    let extras: Vec<Extra> = asked.tmpfs.iter().map(|text| Extra::tmpfs(text)).chain(extras).collect();
    let targets: Vec<String> = extras.iter().map(|extra| extra.target.clone()).collect();
    let tries = calls::tries(rules.seccomp, target.root().filter.as_deref());
    let wanted = Wanted { read: &golden::masked(), write: &golden::READ_ONLY, targets: &targets, calls: &tries };
    let text = visit(target, watch, |descriptors| visitor(&wanted, descriptors))?;
    let seen: Facts = serde_json::from_slice(&text).map_err(|e| no(format!("what came back from inside: {e}")))?;
    let step = || "look at what this process may do";
    let own = held::Own {
        rlimits: rlimit::current().step(step)?,
        may_raise: CapSet(sys::permitted_capabilities().step(step)?).has(SYS_RESOURCE),
        no_new_privs: sys::no_new_privs(),
        filtered: sys::is_filtered(),
    };
    let mut wrong: Vec<String> = seen.blind.iter().map(|what| format!("cannot look from inside at {what}")).collect();
    wrong.extend(held::visitor(rules, &own, &seen.status, &seen.rlimits));
    wrong.extend(calls::wrong(&tries, &seen.calls));
    wrong.extend(seen.descriptors.iter().map(|open| format!("a descriptor is open inside: {open}")));
    wrong.extend(held::init(rules, &of_init(target)?));
    if asked.privileged {
        evidence.note("privileged", "nothing is masked, read-only or refused");
    } else {
        let found = extras.into_iter().zip(&seen.targets);
        let found = found.map(|(extra, leads)| Extra { target: leads.clone().unwrap_or(extra.target), ..extra });
        let own = Own {
            read_only: asked.read_only,
            mounts: found.collect(),
            cgroups: cgroups(target)?,
            devices: target.cgroup.devices.clone(),
        };
        wrong.extend(golden::mounts(&seen.mounts, &own));
        wrong.extend(golden::cgroups(&seen.cgroups, &own));
        wrong.extend(golden::devices(&seen.devices, &own));
        wrong.extend(devices::policy(&target.cgroup, evidence)?);
        wrong.extend(seen.readable.iter().map(|path| format!("{path} can be read")));
        wrong.extend(seen.writable.iter().map(|path| format!("{path} can be written")));
    }
    evidence.note("capabilities", rules.capabilities);
    evidence.note("no_new_privs", rules.no_new_privs);
    evidence.note("seccomp", rules.seccomp);
    evidence.note("mounts", seen.mounts.len());
    evidence.note("devices", &seen.devices);
    evidence.note("calls", calls::shown(&tries, &seen.calls));
    evidence.note("calls_tried", tries.len());
    evidence.note("deviations", &wrong);
    match wrong.len() {
        0 => Ok(()),
        1 => Err(no(wrong.remove(0))),
        n => Err(no(format!("{} deviations: {}", n, wrong.join("; ")))),
    }
}

/// What the kernel says about the init.
fn of_init(target: &Target) -> Result<Status, Stop> {
    let init = &target.spawn.init;
    match Status::read(init.pid) {
        Ok(found) if init.alive() => Ok(found),
        Err(e) if init.alive() => Err(Stop::Broken(Error::os(format!("look at process {}", init.pid), e))),
        _ => Err(Stop::Dead),
    }
}

/// The container's directories in the hierarchies of cgroups, by their numbers.
fn cgroups(target: &Target) -> Result<Vec<(u64, u64)>, Error> {
    let numbers = |hierarchy: &quilt_record::have::Hierarchy| {
        let found = fs::metadata(&hierarchy.path).step(|| format!("look at {}", hierarchy.path.display()))?;
        Ok((found.dev(), found.ino()))
    };
    target.cgroup.hierarchies.iter().map(numbers).collect()
}

/// Sends a visitor in, and reads all it has to say.
fn visit(target: &Target, watch: &Watch<'_>, body: impl FnOnce(Descriptors) -> u8) -> Result<Vec<u8>, Stop> {
    let deadline = watch.deadline(LIMIT);
    let program = Program {
        argv: vec![c"quilt-probe".to_owned()],
        body: None,
        env: target.environment(None, &[])?,
        workdir: c"/".to_owned(),
        confine: target.root(),
    };
    let step = || "prepare to look from inside";
    let (socket, theirs) = sys::socket_pair().step(step)?;
    let stdio = Stdio { stdin: Some(theirs), ..Stdio::default() };
    let running =
        target.visit(&program, stdio, Some(deadline), facts::descriptors, body).map_err(|e| match e.code {
            Code::Timeout => watch.late("no answer from inside"),
            _ => Stop::Failed(e),
        })?;
    let socket = UnixStream::from(socket);
    let answer = || -> Result<Vec<u8>, Stop> {
        let mut text = Vec::new();
        let mut part = [0u8; 4096];
        loop {
            match watch.wait(&[socket.as_fd()], deadline)? {
                Event::Late => return Err(no("no answer from inside")),
                Event::Ready(_) => {}
            }
            match (&socket).read(&mut part) {
                Ok(0) => return Ok(text),
                Ok(n) if text.len() as u64 + n as u64 <= FACTS_MAX => text.extend_from_slice(&part[..n]),
                Ok(_) => return Err(no("it says more than 1 MiB from inside")),
                Err(e) => return Err(Stop::Broken(Error::os("read what came back from inside", e))),
            }
        }
    };
    let text = answer();
    let _ = socket.shutdown(Shutdown::Both);
    // It has said all it had to say, and ends, unless somebody inside stopped it.
    if !(text.is_ok() && wait_dead(&running.child.pidfd, END).step(|| "wait for the process inside")?) {
        running.kill(LIMIT)?;
        return text;
    }
    let silent = matches!(&text, Ok(text) if text.is_empty());
    let survived = if silent { watch.survived(&running) } else { Ok(()) };
    let status = running.status();
    running.finish();
    survived?;
    if silent { Err(no(unsaid(status))) } else { text }
}

/// What to say of a visitor that ended before it said anything.
fn unsaid(status: u8) -> String {
    let what = "the process that looks from inside";
    match status.checked_sub(128).filter(|signal| *signal > 0) {
        Some(signal) if i32::from(signal) == libc::SIGSYS => {
            format!(
                "{what} was killed by signal {signal}: the container's seccomp profile refuses what it takes to look"
            )
        }
        Some(signal) => format!("{what} was killed by signal {signal}"),
        None => format!("{what} ended with status {status}, and said nothing"),
    }
}

/// The life of the visitor.
fn visitor(wanted: &Wanted<'_>, descriptors: Descriptors) -> u8 {
    let facts = Facts::gather(wanted, descriptors);
    let told = sys::duplicate_number(0).map(File::from).and_then(|socket| {
        serde_json::to_writer(std::io::BufWriter::new(socket), &facts).map_err(std::io::Error::other)
    });
    u8::from(told.is_err())
}
