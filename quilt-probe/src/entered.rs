//! The exec phase: one process inside, which proves that programs run there, and then runs the health check.

use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{pipe2, read};
use quilt_exec::{Program, Running, Stdio, Target};
use quilt_record::process::wait_dead;
use quilt_record::{Code, Error, Step, defence, leaf, sys};

use crate::inside::{checker, visitor};
use crate::look::inode;
use crate::report::Evidence;
use crate::watch::{Event, Stop, Watch, no};

/// How long the exec phase may take.
const LIMIT: Duration = Duration::from_secs(3);

/// How long what a check started may take to die.
const KILL: Duration = Duration::from_secs(5);

/// How long the process inside may take to read or write one word.
const WORD: Duration = Duration::from_secs(1);

/// How long it may take to end once its socket has.
const END: Duration = Duration::from_millis(500);

/// How much of a check's output is kept, in bytes: docker's number.
pub(crate) const OUTPUT_MAX: usize = 4096;

/// What is said when somebody inside killed the process inside.
const ORPHANED: &str = "the process inside that runs the check was killed";

/// A process of ours inside the container.
pub(crate) struct Entered {
    running: Running,
    socket: UnixStream,
    output: OwnedFd,
    /// Whether it has run anything that may have left something running.
    used: bool,
}

/// How a try of a check went.
#[derive(Debug, Default)]
pub(crate) struct Try {
    /// The exit status; `None` if it took too long and was killed.
    pub(crate) status: Option<u8>,
    /// The end of what it printed.
    pub(crate) output: Vec<u8>,
    /// How much it printed, in bytes.
    pub(crate) printed: u64,
}

impl Entered {
    /// Enters, and proves it: a nonce comes back from a process whose namespaces are the init's and whose cgroup, seen
    /// from outside, is a leaf of the container's. `once`: that is all it is for; it cannot be given a check to run.
    pub(crate) fn enter(
        target: &Target,
        watch: &Watch<'_>,
        once: bool,
        evidence: &mut Evidence,
    ) -> Result<Entered, Stop> {
        let deadline = watch.deadline(LIMIT);
        let (confine, home) = target.confinement(None).map_err(Stop::Failed)?;
        let program = Program {
            argv: vec![c"quilt-probe".to_owned()],
            body: Some(checker),
            env: target.environment(home, &[])?,
            workdir: target.workdir(None)?,
            confine,
        };
        let step = || "prepare to enter the container";
        let (socket, theirs) = sys::socket_pair().step(step)?;
        let (output, stdout) = pipe2(OFlag::O_CLOEXEC).step(step)?;
        fcntl(&output, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).step(step)?;
        let stderr = Some(stdout.try_clone().step(step)?);
        let stdio = Stdio { stdin: Some(theirs), stdout: Some(stdout), stderr, terminal: None };
        let running = match once {
            true => target.visit(&program, stdio, Some(deadline), || (), |()| visitor()),
            false => target.enter(&program, stdio, Some(deadline)),
        };
        let running = running.map_err(|e| match e.code {
            Code::NotFound => Stop::Dead,
            Code::Timeout => watch.late(unanswered()),
            _ => Stop::Failed(e),
        })?;
        let socket = UnixStream::from(socket);
        // Whoever took that process over with ptrace(2) could leave half a word, or never read.
        socket.set_read_timeout(Some(WORD)).step(step)?;
        socket.set_write_timeout(Some(WORD)).step(step)?;
        let mut entered = Entered { running, socket, output, used: false };
        match entered.prove(target, watch, &program, once, deadline, evidence) {
            Ok(()) => Ok(entered),
            Err(stop) => {
                entered.used = true;
                let _ = entered.leave();
                Err(stop)
            }
        }
    }

    fn prove(
        &mut self,
        target: &Target,
        watch: &Watch<'_>,
        program: &Program,
        once: bool,
        deadline: Instant,
        evidence: &mut Evidence,
    ) -> Result<(), Stop> {
        let nonce = sys::random_u128().to_ne_bytes();
        // If nobody is there to read it, the answer will be missing.
        let _ = self.socket.write_all(&nonce);
        let mut answer = [0u8; 16];
        match watch.wait(&[self.socket.as_fd()], deadline)? {
            Event::Ready(_) => {}
            Event::Late => {
                let paused = target.refuse_paused().err().map(|e| e.message);
                return Err(no(paused.unwrap_or_else(unanswered)));
            }
        }
        if self.socket.read_exact(&mut answer).is_err() {
            // It ended. Either it could not start, and says why, or it was killed.
            self.running.started(target, program).map_err(|failed| Stop::Failed(failed.error))?;
            watch.survived(&self.running)?;
            return Err(no(match self.running.status_within(WORD) {
                Some(status) => format!("the process inside ended with status {status}"),
                None => "the process inside does not answer, nor end".to_owned(),
            }));
        }
        if answer != nonce {
            return Err(no("what came back from inside is not what was sent there"));
        }
        evidence.note("nonce", format!("{:032x}", u128::from_be_bytes(nonce)));
        let pid = self.running.child.pid.to_string();
        evidence.note("pid", self.running.child.pid);
        // The phase before has compared the init's with these.
        for (name, recorded) in &target.spawn.namespaces {
            let seen = inode(&pid, name)?;
            // A command's cgroup namespace is its own, as it is in a leaf of its own.
            let right = if name == "cgroup" { seen != inode("self", name)? } else { seen == *recorded };
            if !right {
                return Err(no(format!("a command's {name} namespace is not the container's")));
            }
        }
        let root = |pid: &str| fs::metadata(format!("/proc/{pid}/root")).map(|meta| (meta.dev(), meta.ino())).ok();
        if root(&pid).is_none() || root(&pid) != root(&target.spawn.init.pid.to_string()) {
            return Err(no("a command's root directory is not the container's"));
        }
        evidence.note("namespaces", "as the init's");
        let path = format!("/proc/{pid}/cgroup");
        let cgroups = fs::read_to_string(&path).step(|| format!("read {path}"))?;
        let judge = leaf::judge(&target.cgroup.hierarchies).map(|judge| &judge.path);
        for hierarchy in &target.cgroup.hierarchies {
            let leaf = (judge == Some(&hierarchy.path)).then(|| hierarchy.path.join(self.running.leaf.name()));
            let cgroup = leaf.as_ref().unwrap_or(&hierarchy.path);
            // The line of the v2 tree names no controllers, whatever it has.
            let controllers = if hierarchy.version == 2 { "" } else { &hierarchy.controllers };
            if !is_in(&cgroups, controllers, cgroup) {
                return Err(no(format!("a command is not in the cgroup {}", cgroup.display())));
            }
        }
        evidence.note("cgroup", self.running.leaf.name());
        if once {
            // It has done its part, and ends while the network is looked at.
            let _ = self.socket.shutdown(Shutdown::Both);
        }
        Ok(())
    }

    /// Runs a command inside once, for at most `limit`. If it takes longer, all that it started is killed, and the
    /// process inside with it: enter anew for another try.
    pub(crate) fn run(&mut self, words: &[String], limit: Duration, watch: &Watch<'_>) -> Result<Try, (Stop, Try)> {
        self.used = true;
        let deadline = Instant::now() + limit;
        let mut seen = Try::default();
        let text = serde_json::to_vec(words).unwrap_or_default();
        let request = [&(text.len() as u32).to_le_bytes()[..], &text].concat();
        let mut open = true;
        if self.socket.write_all(&request).is_err() {
            return Err((watch.survived(&self.running).err().unwrap_or_else(|| no(ORPHANED)), seen));
        }
        loop {
            let fds = [self.socket.as_fd(), self.output.as_fd()];
            match watch.wait(&fds[..if open { 2 } else { 1 }], deadline) {
                Ok(Event::Ready(0)) => {
                    let mut status = [0u8; 1];
                    let answered = self.socket.read_exact(&mut status).is_ok();
                    // What it wrote before it ended, and no more: what it left running may go on writing.
                    let held = sys::readable_bytes(self.output.as_fd()).unwrap_or(0);
                    let _ = self.drain(held, &mut seen);
                    if answered {
                        seen.status = Some(status[0]);
                        return Ok(seen);
                    }
                    return Err((watch.survived(&self.running).err().unwrap_or_else(|| no(ORPHANED)), seen));
                }
                Ok(Event::Ready(_)) => open = self.drain(64 << 10, &mut seen),
                Ok(Event::Late) => return Ok(seen),
                Err(stop) => return Err((stop, seen)),
            }
        }
    }

    /// Takes up to `most` bytes of output; false at its end.
    fn drain(&self, most: usize, seen: &mut Try) -> bool {
        let mut buffer = [0u8; 16 << 10];
        let mut left = most;
        while left > 0 {
            let part = left.min(buffer.len());
            match read(&self.output, &mut buffer[..part]) {
                Ok(0) => return false,
                Ok(n) => {
                    left -= n;
                    seen.printed += n as u64;
                    seen.output.extend_from_slice(&buffer[..n]);
                    let most = if defence::out("output-bound") { usize::MAX } else { OUTPUT_MAX };
                    let over = seen.output.len().saturating_sub(most);
                    seen.output.drain(..over);
                }
                Err(Errno::EINTR) => {}
                Err(_) => return true,
            }
        }
        true
    }

    /// Ends the process inside and all that it started, and removes their cgroup.
    pub(crate) fn leave(self) -> Result<(), Error> {
        let Entered { running, socket, used, .. } = self;
        drop(socket);
        // It is on its way out and there is nobody else, unless somebody inside stopped it.
        if used || !wait_dead(&running.child.pidfd, END).step(|| "wait for the process inside")? {
            return running.kill(KILL);
        }
        running.finish();
        Ok(())
    }
}

fn unanswered() -> String {
    format!("no answer from inside within {}", seconds(LIMIT))
}

/// Whether the lines of `/proc/PID/cgroup` put a process into `leaf` in the hierarchy of those controllers. The path in
/// there is relative to the mount or to the cgroup namespace's root; `leaf` ends with it.
fn is_in(cgroups: &str, controllers: &str, leaf: &Path) -> bool {
    let line = cgroups.lines().filter_map(|line| {
        let (_, rest) = line.split_once(':')?;
        rest.split_once(':')
    });
    let own =
        line.filter(|(names, _)| names.strip_prefix("name=").unwrap_or(names) == controllers || *names == controllers);
    let mut own = own.map(|(_, path)| path.trim_start_matches('/'));
    own.any(|path| !path.is_empty() && leaf.ends_with(path))
}

/// A number of seconds, for a person.
pub(crate) fn seconds(limit: Duration) -> String {
    quilt_record::units::Span(limit).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_compared_by_their_ends() {
        let seen = "5:memory:/quilt/web/x-7\n4:cpu,cpuacct:/quilt/web/x-7\n1:pids:/\n0::/quilt/web/x-7\n";
        let leaf = |mount: &str| Path::new(mount).join("quilt/web/x-7");
        assert!(is_in(seen, "memory", &leaf("/sys/fs/cgroup/memory")));
        assert!(is_in(seen, "cpu,cpuacct", &leaf("/sys/fs/cgroup/cpu,cpuacct")));
        assert!(is_in(seen, "", &leaf("/sys/fs/cgroup/unified")));
        assert!(!is_in(seen, "pids", &leaf("/sys/fs/cgroup/pids")));
        assert!(!is_in(seen, "memory", Path::new("/sys/fs/cgroup/memory/quilt/web/x-77")));
    }
}
