//! The security phase (`--security`): is the confinement that the record says in force, seen from inside?
//!
//! A visitor (`facts.rs`) gathers what a process there has, sees and can do; here it is held against a list of what must
//! be, made without looking at how quilt-spawn does it: two that agree are worth more than one.

use std::fs::File;
use std::io::Read;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use quilt_exec::{Program, Stdio, Target};
use quilt_record::confine::{CapSet, Rules, Seccomp};
use quilt_record::have::Cgroup;
use quilt_record::process::wait_dead;
use quilt_record::{Code, Error, Record, Step, sys};
use serde::Deserialize;

use crate::report::Evidence;
use crate::watch::{Event, Stop, Watch, no};

mod facts;
mod golden;

use facts::Facts;

/// How long the phase may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How long the visitor may take to end once it has said all.
const END: Duration = Duration::from_millis(500);

/// The most that the visitor may have to say, in bytes: a container may have a thousand mounts.
const FACTS_MAX: u64 = 1 << 20;

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
    let cgroup: Option<Cgroup> = record.have("cgroup")?;
    let rules = &target.spawn.confine;
    let targets: Vec<String> =
        asked.tmpfs.iter().map(|text| first(text)).chain(asked.volume.iter().filter_map(|text| second(text))).collect();
    let text = visit(target, watch, || visitor(&targets))?;
    let seen: Facts = serde_json::from_slice(&text).map_err(|e| no(format!("what came back from inside: {e}")))?;
    let mut wrong = held(rules, &seen);
    wrong.extend(init(rules, &status(target)?));
    if asked.privileged {
        evidence.note("privileged", "nothing is masked, read-only or refused");
    } else {
        let own = golden::Own {
            read_only: asked.read_only,
            mounts: seen.targets.clone(),
            devices: cgroup.map(|cgroup| cgroup.devices).unwrap_or_default(),
        };
        wrong.extend(golden::mounts(&seen.mounts, &own));
        wrong.extend(golden::devices(&seen.devices, &own));
        wrong.extend(seen.readable.iter().map(|path| format!("{path} can be read")));
        wrong.extend(seen.writable.iter().map(|path| format!("{path} can be written")));
    }
    evidence.note("capabilities", rules.capabilities);
    evidence.note("no_new_privs", rules.no_new_privs);
    evidence.note("seccomp", rules.seccomp);
    evidence.note("mounts", seen.mounts.len());
    evidence.note("devices", &seen.devices);
    evidence.note(
        "calls",
        seen.calls.iter().map(|(name, errno)| (name, name_of(*errno))).collect::<std::collections::BTreeMap<_, _>>(),
    );
    evidence.note("deviations", &wrong);
    match wrong.len() {
        0 => Ok(()),
        1 => Err(no(wrong.remove(0))),
        n => Err(no(format!("{} deviations: {}", n, wrong.join("; ")))),
    }
}

/// What the kernel says about the init, which was there before this visitor came and was confined by the same record.
fn status(target: &Target) -> Result<String, Stop> {
    let path = format!("/proc/{}/status", target.spawn.init.pid);
    match std::fs::read_to_string(&path) {
        Ok(text) if target.spawn.init.alive() => Ok(text),
        Ok(_) => Err(Stop::Dead),
        Err(_) if !target.spawn.init.alive() => Err(Stop::Dead),
        Err(e) => Err(Stop::Broken(Error::os(format!("read {path}"), e))),
    }
}

/// What of that is not as the rules have it. Where it has a command that runs as another user, it keeps what it takes to
/// pass signals on to it (CAP_KILL).
fn init(rules: &Rules, status: &str) -> Vec<String> {
    const KILL: CapSet = CapSet(1 << 5);
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let bounding = CapSet(u64::from_str_radix(field("CapBnd:"), 16).unwrap_or(u64::MAX));
    let more = bounding.without(rules.capabilities).without(KILL);
    let mut wrong = Vec::new();
    if more != CapSet(0) {
        wrong.push(format!("the init has {}, which the rules have not", more.names().collect::<Vec<_>>().join(", ")));
    }
    let filtered = rules.seccomp != Seccomp::Off;
    for (name, must) in [("NoNewPrivs", u8::from(rules.no_new_privs)), ("Seccomp", if filtered { 2 } else { 0 })] {
        let is = field(&format!("{name}:"));
        if is != must.to_string() {
            wrong.push(format!("{name} of the init is {is} and must be {must}"));
        }
    }
    wrong
}

fn first(text: &str) -> String {
    text.split(':').next().unwrap_or(text).to_owned()
}

fn second(text: &str) -> Option<String> {
    text.split(':').nth(1).map(str::to_owned)
}

/// `EPERM`, or `success`.
fn name_of(errno: i32) -> String {
    if errno == 0 { "success".to_owned() } else { format!("{:?}", nix::errno::Errno::from_raw(errno)) }
}

/// Sends a visitor in, and reads all it has to say.
fn visit(target: &Target, watch: &Watch<'_>, body: impl FnOnce() -> u8) -> Result<Vec<u8>, Stop> {
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
    let running = target.visit(&program, stdio, Some(deadline), body).map_err(|e| match e.code {
        Code::Timeout => no("no answer from inside"),
        _ => Stop::Failed(e),
    })?;
    let socket = UnixStream::from(socket);
    let answer = || -> Result<Vec<u8>, Stop> {
        let mut text = Vec::new();
        let mut part = [0u8; 4096];
        loop {
            match watch.wait(&[std::os::fd::AsFd::as_fd(&socket)], deadline)? {
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
    match text.is_ok() && wait_dead(&running.child.pidfd, END).step(|| "wait for the process inside")? {
        true => running.finish(),
        false => running.kill(LIMIT)?,
    }
    text
}

/// The life of the visitor.
fn visitor(targets: &[String]) -> u8 {
    let facts = Facts::gather(&golden::masked(), &golden::READ_ONLY, targets);
    let told = sys::duplicate_number(0).map(File::from).and_then(|socket| {
        serde_json::to_writer(std::io::BufWriter::new(socket), &facts).map_err(std::io::Error::other)
    });
    u8::from(told.is_err())
}

/// What the kernel says about the process inside, against the rules.
fn held(rules: &Rules, seen: &Facts) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut line = |name: &str, must: String| {
        let is = seen.status.get(name).map_or("", String::as_str);
        if is != must {
            wrong.push(format!("{name} is {is} and must be {must}"));
        }
    };
    let mask = |CapSet(mask): CapSet| format!("{mask:016x}");
    for set in ["CapPrm", "CapEff", "CapBnd"] {
        line(set, mask(rules.capabilities));
    }
    for set in ["CapInh", "CapAmb"] {
        line(set, mask(CapSet(0)));
    }
    line("NoNewPrivs", u8::from(rules.no_new_privs).to_string());
    line("Seccomp", if rules.seccomp == Seccomp::Off { "0" } else { "2" }.to_owned());
    line("Umask", "0022".to_owned());
    line("Groups", String::new());
    for set in ["Uid", "Gid"] {
        line(set, "0\t0\t0\t0".to_owned());
    }
    for limit in &rules.rlimits {
        let number = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        let is = seen.rlimits.iter().find(|is| is.name == limit.name);
        // The caller's own hard limit may be the lower one.
        if is.is_none_or(|is| number(is.soft) > number(limit.soft) || number(is.hard) > number(limit.hard))
            && limit.hard.is_some()
        {
            wrong.push(format!(
                "the resource limit {} is {:?} and must be {:?}",
                limit.name,
                is.map(|is| is.hard),
                limit.hard
            ));
        }
    }
    if rules.seccomp == Seccomp::Default {
        for (name, errno) in &seen.calls {
            let must = if name == "clone3" { libc::ENOSYS } else { libc::EPERM };
            if *errno != must {
                wrong.push(format!(
                    "the system call {name} ends with {} and must with {}",
                    name_of(*errno),
                    name_of(must)
                ));
            }
        }
    }
    wrong.extend(seen.descriptors.iter().map(|open| format!("a descriptor is open inside: {open}")));
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        let status = [
            ("Umask", "0022"),
            ("Uid", "0\t0\t0\t0"),
            ("Gid", "0\t0\t0\t0"),
            ("Groups", ""),
            ("CapInh", "0000000000000000"),
            ("CapPrm", "00000000800405fb"),
            ("CapEff", "00000000800405fb"),
            ("CapBnd", "00000000800405fb"),
            ("CapAmb", "0000000000000000"),
            ("NoNewPrivs", "1"),
            ("Seccomp", "2"),
        ];
        let status = status.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let calls = [("bpf", libc::EPERM), ("clone3", libc::ENOSYS)].map(|(name, errno)| (name.to_owned(), errno));
        Facts { status: status.into(), rlimits: Rules::default().rlimits, calls: calls.into(), ..Facts::default() }
    }

    #[test]
    fn an_init_that_is_held_to_less_is_found() {
        let good = "CapBnd:\t00000000800405fb\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        assert_eq!(init(&Rules::default(), good), [""; 0]);
        let bad = "CapBnd:\t00000000800425fb\nNoNewPrivs:\t0\nSeccomp:\t0\n";
        let wrong = [
            "the init has CAP_NET_RAW, which the rules have not",
            "NoNewPrivs of the init is 0 and must be 1",
            "Seccomp of the init is 0 and must be 2",
        ];
        assert_eq!(init(&Rules::default(), bad), wrong);
    }

    #[test]
    fn what_is_not_as_it_must_be_is_named() {
        assert_eq!(held(&Rules::default(), &good()), [""; 0]);
        let mut bad = good();
        bad.status.insert("CapBnd".to_owned(), "000001ffffffffff".to_owned());
        bad.calls.insert("bpf".to_owned(), libc::EINVAL);
        bad.rlimits.clear();
        bad.descriptors.push("7 /etc".to_owned());
        let wrong = [
            "CapBnd is 000001ffffffffff and must be 00000000800405fb",
            "the resource limit core is None and must be Some(0)",
            "the system call bpf ends with EINVAL and must with EPERM",
            "a descriptor is open inside: 7 /etc",
        ];
        assert_eq!(held(&Rules::default(), &bad), wrong);
    }
}
