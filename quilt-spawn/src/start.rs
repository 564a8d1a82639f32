//! The maker's side: what must be opened before the child is, the child, and the wait for it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::mount::{MntFlags, umount2};
use nix::sched::CloneFlags;
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{UnlinkatFlags, pipe2, unlinkat};

use quilt_record::confine::{FILTER, Seccomp, User};
use quilt_record::defence::out;
use quilt_record::error::Step as _;
use quilt_record::leaf::{INIT, Leaf};
use quilt_record::process::forgo_oom_protection;
use quilt_record::signals::Waiter;
use quilt_record::{Code, Container, Error, Instance, ProcessId, have, readonly, signals, sys};

use crate::inside::{Ids, Job, become_init, shift_volume};
use crate::plan::{FILES, Input, Step, plan};
use crate::report::Line;
use crate::rules::Confinement;
use crate::sysctl;
use crate::volume::{self, Source, Volume};
use crate::want::Pid;

/// How long the child may take until it is ready. It waits for nothing but the kernel.
const LIMIT: Duration = Duration::from_secs(30);

/// Starts the container's init.
pub fn start(
    instance: &Instance,
    container: &Container,
    input: &Input,
    confinement: Confinement,
    files: &[(String, String)],
    sources: &[(Volume, Source)],
) -> Result<have::Spawn, Error> {
    let want = &input.want;
    let steps = plan(input);
    let cloning = steps.iter().position(|step| matches!(step, Step::Clone { .. })).unwrap_or(0);
    // Modes of what is made inside are said exactly.
    umask(Mode::empty());
    let proc_sys = if input.sysctls.is_empty() { None } else { Some(sysctl::open()?) };
    let net = input.net.as_deref().map(|pin| open_pin("network", pin)).transpose()?;
    let ids =
        input.ids.map(|map| Ok::<_, Error>(Ids { userns: user_namespace(input, net.as_ref())?, map })).transpose()?;
    let volumes =
        sources.iter().map(|(volume, source)| volume::clone(volume, source)).collect::<Result<Vec<_>, _>>()?;
    // Its descriptors lead to files of the host's, and being undumpable does not hide them from who may trace.
    let init = match input.ids.is_some() && confinement.rules.may_trace() && !out("unreadable-init") {
        true => readonly::unreadable("quilt-init")?,
        false => readonly::tool(instance, "quilt-init")?,
    };
    let made = |name: &str| make(container, name);
    let exit = made(FILES[0])?;
    let log = if want.command.is_empty() { None } else { Some((made(FILES[1])?, made(FILES[2])?)) };
    let Confinement { rules, filter, mut notes } = confinement;
    if let Some(ids) = &ids {
        for tree in &volumes {
            notes.extend(shift_volume(ids, tree)?);
        }
    }
    match filter.as_deref().filter(|_| rules.seccomp == Seccomp::File) {
        Some(filter) => File::from(made(FILTER)?).write_all(filter).step(|| "write the filter of system calls")?,
        None => container.unlink(FILTER)?,
    }
    let leaf = Leaf::create(&input.hierarchies, INIT)?;
    signals::check()?;

    let (told, tell) = pipe2(OFlag::O_CLOEXEC).step(|| "make a pipe")?;
    let waiter = Waiter::new()?;
    let mut flags = CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWIPC;
    let private = want.pid.unwrap_or_default() == Pid::Private;
    flags.set(CloneFlags::CLONE_NEWPID, private);
    let job = Job {
        stage: instance.run(),
        net,
        volumes,
        proc_sys,
        ids,
        files,
        want,
        hostname: &input.hostname,
        rules: &rules,
        filter,
        tell: &tell,
        init: &init,
        exit: &exit,
        log: log.as_ref(),
    };
    let child = leaf.fork(flags.bits() as u32 as u64, || {
        // Nobody inside can be, yet; the maker is watched from the first line on.
        let _ = sys::set_parent_death_signal(Some(Signal::SIGKILL));
        let _ = sys::set_dumpable(false);
        let failed = match forgo_oom_protection() {
            Ok(()) => become_init(&job, &steps[cloning + 1..]),
            Err(e) => Error::os("give up protection from the OOM killer", e),
        };
        let _ = Line::Failed(failed).send(job.tell);
        125
    })?;
    drop(tell);
    let unpin = || input.net.iter().chain(&input.user).for_each(|pin| unpin(pin));
    // A command may turn out not to exist, and then the network is still good for another try.
    let idle = want.command.is_empty();
    let nearly = || {
        if idle {
            unpin()
        }
    };
    let identity = ProcessId::of(child.pid).step(|| "look at init");
    let outcome = identity.and_then(|identity| Ok((identity, listen(&waiter, told, nearly)?)));
    let (identity, heard) = match outcome {
        Ok(outcome) => outcome,
        Err(e) => {
            let _ = sys::pidfd_send_signal(child.pidfd.as_fd(), Signal::SIGKILL);
            let ended = waitpid(nix::unistd::Pid::from_raw(child.pid), Some(WaitPidFlag::__WALL));
            return Err(explain(e, ended));
        }
    };
    if input.ids.is_some() {
        notes.extend(in_vain(want.cap_add.iter().map(String::as_str)));
    }
    if !private {
        let what = if input.ids.is_some() { "sees" } else { "sees and can kill" };
        notes.push(format!("it {what} the host's processes (--pid host)"));
    }
    Ok(have::Spawn {
        init: identity,
        started: humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string(),
        namespaces: heard.namespaces,
        ids: input.ids,
        env: want.environment(&heard.user.home, &input.hostname),
        user: Some(heard.user),
        confine: rules,
        notes,
    })
}

/// Capabilities that the kernel asks of the host's root alone (`capable()`, not `ns_capable()` of a namespace that the
/// container owns): in a user namespace they allow nothing, or not what they are asked for.
const IDLE: [&str; 14] = [
    "SYS_ADMIN",
    "MKNOD",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_TIME",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYSLOG",
    "BPF",
    "PERFMON",
    "IPC_LOCK",
    "LINUX_IMMUTABLE",
    "SYS_TTY_CONFIG",
];

/// A note on those that were asked for in vain.
fn in_vain<'a>(asked: impl Iterator<Item = &'a str>) -> Option<String> {
    let name = |asked: &str| asked.to_ascii_uppercase().trim_start_matches("CAP_").to_owned();
    let idle: Vec<String> = asked.map(name).filter(|name| IDLE.contains(&name.as_str())).collect();
    (!idle.is_empty()).then(|| format!("in a user namespace {} allow nothing (--userns host)", idle.join(", ")))
}

/// The pin of a namespace.
fn open_pin(what: &str, pin: &Path) -> Result<OwnedFd, Error> {
    let step = || format!("open the {what} namespace {}", pin.display());
    openat(AT_FDCWD, pin, OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()).step(step)
}

/// The container's user namespace: pinned by itself, or the one that owns its network namespace.
fn user_namespace(input: &Input, net: Option<&OwnedFd>) -> Result<OwnedFd, Error> {
    match (&input.user, net) {
        (Some(pin), _) => open_pin("user", pin),
        (None, Some(net)) => sys::owning_user_namespace(net.as_fd()).step(|| "find the container's user namespace"),
        (None, None) => {
            Err(Error::new(Code::Invalid, "read `netns.have` of the record", "no user namespace is pinned"))
        }
    }
}

/// Lets go of the pin: the container's processes hold the namespace now. What is left of it, quilt-netns takes back. Takes
/// a grace period (0.1 ms).
fn unpin(pin: &Path) {
    let _ = umount2(pin, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW);
    let _ = unlinkat(AT_FDCWD, pin, UnlinkatFlags::NoRemoveDir);
}

/// A file of the container's directory for init to write, emptied if it is there.
fn make(container: &Container, name: &str) -> Result<OwnedFd, Error> {
    let flags =
        OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC | OFlag::O_APPEND | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(container.dir(), name, flags, Mode::S_IRUSR | Mode::S_IWUSR)
        .step(|| format!("write {}", container.path().join(name).display()))
}

/// What the child told.
#[derive(Default)]
struct Heard {
    namespaces: Vec<(String, u64)>,
    user: User,
}

/// Listens until the child is ready or has failed. Calls `nearly` once as soon as the root is complete: what is done then
/// costs no time, as the child is busy becoming init.
fn listen(waiter: &Waiter, told: OwnedFd, nearly: impl FnOnce()) -> Result<Heard, Error> {
    let deadline = Instant::now() + LIMIT;
    let mut pipe = std::fs::File::from(told);
    let mut heard = Heard::default();
    let (mut text, mut read) = (Vec::new(), [0u8; 4096]);
    let mut nearly = Some(nearly);
    loop {
        if waiter.wait(&[pipe.as_fd()], Some(deadline))?.is_none() {
            return Err(Error::new(Code::Timeout, "wait for init", "it was not ready in 30 s"));
        }
        match pipe.read(&mut read) {
            Ok(0) => return Err(Error::new(Code::Internal, "wait for init", "it ended before it was ready")),
            Ok(n) => text.extend_from_slice(&read[..n]),
            Err(e) => return Err(Error::os("wait for init", e)),
        }
        while let Some(end) = text.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            match Line::parse(String::from_utf8_lossy(&line[..end]).as_ref()) {
                Some(Line::Namespace(name, inode)) => {
                    heard.namespaces.push((name, inode));
                    nearly.take().into_iter().for_each(|nearly| nearly());
                }
                Some(Line::User(user)) => heard.user = user,
                Some(Line::Ready) => return Ok(heard),
                Some(Line::Failed(error)) => return Err(error),
                None => return Err(Error::new(Code::Internal, "wait for init", "it said something else")),
            }
        }
    }
}

/// Says what killed a child that did not say anything itself.
fn explain(error: Error, ended: nix::Result<WaitStatus>) -> Error {
    match ended {
        Ok(WaitStatus::Signaled(_, signal, _)) if error.code == Code::Internal => {
            let message = format!("it was killed by {signal} before it was ready (is the memory limit too small?)");
            Error { code: Code::Exhausted, message, ..error }
        }
        _ => error,
    }
}

/// For undo: what `start` made in the container's directory goes, and only that.
pub fn remove_files(container: &Container) -> Result<(), Error> {
    FILES.iter().chain([&FILTER]).map(|name| container.unlink(name)).fold(Ok(()), Result::and)
}

/// `ESRCH` and `ENOENT` are what undo hopes for.
pub fn gone(e: &std::io::Error) -> bool {
    matches!(e.raw_os_error().map(Errno::from_raw), Some(Errno::ESRCH | Errno::ENOENT))
}
