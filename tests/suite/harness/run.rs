//! Running commands: captured, in a process group of their own, and never for longer than their limit.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a command may take, if the test says nothing else.
pub const LIMIT: Duration = Duration::from_secs(20);

/// The children that a [`Running`] waits for; the reaper leaves them alone.
static OWN: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

fn own<T>(with: impl FnOnce(&mut HashSet<i32>) -> T) -> T {
    with(OWN.lock().unwrap_or_else(|e| e.into_inner()).get_or_insert_default())
}

/// Makes this process the reaper of all that its commands leave behind, as an init would be: promptly, for a container
/// cannot end while an orphan of its pid namespace is not reaped.
pub fn become_reaper() {
    static REAPER: OnceLock<()> = OnceLock::new();
    REAPER.get_or_init(|| {
        set_child_subreaper(true).unwrap();
        thread::spawn(|| {
            loop {
                let orphan = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
                    Ok(status) => status.pid().filter(|pid| own(|own| !own.contains(&pid.as_raw()))),
                    Err(_) => None,
                };
                match orphan {
                    Some(pid) => drop(waitpid(pid, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL))),
                    // No child at all, or one that its [`Running`] is about to take.
                    None => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
    });
}

/// A command to be run.
pub struct Run {
    command: Command,
    stdin: Vec<u8>,
    limit: Duration,
}

impl Run {
    /// The program, with nothing on its standard input.
    pub fn new(program: impl AsRef<OsStr>) -> Run {
        let mut command = Command::new(program);
        // A caller's umask, locale or setting of Quilt's must not decide whether a test passes.
        for foreign in ["QUILT_PIPE", "QUILT_CLAIM", "QUILT_WITHOUT"] {
            command.env_remove(foreign);
        }
        command.process_group(0).env("LC_ALL", "C");
        Run { command, stdin: Vec::new(), limit: LIMIT }
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: &[S]) -> Run {
        self.command.args(args);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Run {
        self.command.env(name, value);
        self
    }

    pub fn dir(mut self, dir: impl AsRef<std::path::Path>) -> Run {
        self.command.current_dir(dir);
        self
    }

    pub fn stdin(mut self, text: impl Into<Vec<u8>>) -> Run {
        self.stdin = text.into();
        self
    }

    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    pub fn start(mut self) -> Running {
        let started = Instant::now();
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let words = std::iter::once(self.command.get_program()).chain(self.command.get_args());
        let what = words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
        let mut child = own(|own| {
            let child = self.command.spawn().unwrap_or_else(|e| panic!("{what}: {e}"));
            own.insert(child.id() as i32);
            child
        });
        let (out, err) = (collect(child.stdout.take().unwrap()), collect(child.stderr.take().unwrap()));
        let mut stdin = child.stdin.take().unwrap();
        let input = self.stdin;
        // Fails where the command does not read it all; that is the command's business.
        thread::spawn(move || drop(stdin.write_all(&input)));
        let pid = child.id() as i32;
        Running { what, pid, status: wait(child), out, err, started, limit: super::patient(self.limit) }
    }

    /// Runs it to its end; a command that takes longer than its limit fails the test.
    pub fn go(self) -> Out {
        self.start().finish()
    }

    /// The same, for cleaning up: `None` if it took too long.
    pub fn try_go(self) -> Option<Out> {
        self.start().try_finish().ok()
    }
}

fn collect(mut from: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        let _ = send.send(bytes);
    });
    receive
}

fn wait(mut child: Child) -> Receiver<i32> {
    let (send, receive) = channel();
    thread::spawn(move || {
        let status = child.wait().unwrap();
        own(|own| own.remove(&(child.id() as i32)));
        let _ = send.send(status.code().unwrap_or_else(|| 128 + status.signal().unwrap()));
    });
    receive
}

/// A command that is running.
pub struct Running {
    what: String,
    pub pid: i32,
    status: Receiver<i32>,
    out: Receiver<Vec<u8>>,
    err: Receiver<Vec<u8>>,
    started: Instant,
    limit: Duration,
}

impl Running {
    /// Sends a signal to the process alone.
    pub fn signal(&self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.pid), signal);
    }

    /// Sends a signal to its process group.
    pub fn signal_group(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.pid), signal);
    }

    /// Ends all of its process group by SIGKILL, and waits until all of it is gone: a process that has closed its
    /// output may still hold a lock.
    pub fn kill_group(self) -> Out {
        let group = Pid::from_raw(self.pid);
        self.signal_group(Signal::SIGKILL);
        let out = self.finish();
        assert!(super::eventually(super::SETTLE, || killpg(group, None).is_err()), "alive after SIGKILL: {out:?}");
        out
    }

    /// Waits for it to end and its output to be closed.
    pub fn finish(self) -> Out {
        let (what, limit) = (self.what.clone(), self.limit);
        self.try_finish().unwrap_or_else(|why| panic!("{why} after {limit:?}: {what}"))
    }

    fn try_finish(self) -> Result<Out, &'static str> {
        let left = || self.limit.saturating_sub(self.started.elapsed());
        let result = (|| {
            let status = self.status.recv_timeout(left()).map_err(|_| "still running")?;
            let took = self.started.elapsed();
            let stdout = self.out.recv_timeout(left()).map_err(|_| "somebody still holds its standard output")?;
            let stderr = self.err.recv_timeout(left()).map_err(|_| "somebody still holds its standard error")?;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Ok(Out { what: self.what.clone(), status, stdout: text(stdout), stderr: text(stderr), took })
        })();
        if result.is_err() {
            self.signal_group(Signal::SIGKILL);
        }
        result
    }
}

/// What a command came to.
#[derive(Clone, Debug)]
pub struct Out {
    /// The command, for whoever reads why a test failed.
    #[expect(dead_code, reason = "shown by Debug")]
    pub what: String,
    /// Its exit status, or 128 + the signal that it died of.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Out {
    /// It must have succeeded.
    #[track_caller]
    pub fn ok(self) -> Out {
        assert!(self.status == 0, "{self:#?}");
        self
    }

    /// It must have ended with this status and printed exactly this.
    #[track_caller]
    pub fn is(self, status: i32, stdout: &str, stderr: &str) -> Out {
        assert!((self.status, self.stdout.as_str(), self.stderr.as_str()) == (status, stdout, stderr), "{self:#?}");
        self
    }

    /// Its standard output, which must be one line with one JSON object.
    #[track_caller]
    pub fn record(&self) -> Value {
        let lines: Vec<&str> = self.stdout.lines().collect();
        assert!(lines.len() == 1 && self.stdout.ends_with('\n'), "not one line: {self:#?}");
        let value: Value = serde_json::from_str(lines[0]).unwrap_or_else(|e| panic!("{e}: {self:#?}"));
        assert!(value.is_object(), "{self:#?}");
        value
    }

    /// Its standard output: a JSON object on every line.
    #[track_caller]
    pub fn objects(&self) -> Vec<Value> {
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:#?}"));
        self.stdout.lines().map(parse).collect()
    }

    /// A stage or a create must have failed as documented: the code's status, one line of explanation, and the same in
    /// the record's `error`, which is returned.
    #[track_caller]
    pub fn failed(&self, tool: &str, code: &str) -> Value {
        let error = self.record()["error"].clone();
        let expected = (tool, code, status_of(code), 1);
        let seen = (error["tool"].as_str(), error["code"].as_str(), self.status, self.stderr.lines().count());
        assert!(seen == (Some(expected.0), Some(expected.1), expected.2, expected.3), "{expected:?}: {self:#?}");
        let keys: Vec<&String> = error.as_object().unwrap().keys().collect();
        assert_eq!(keys, ["code", "errno", "message", "step", "tool"], "{self:#?}");
        assert!(self.stderr.starts_with(&format!("{tool}: ")), "{self:#?}");
        let message = error["message"].as_str().unwrap().replace('\n', " ");
        assert!(self.stderr.trim_end().ends_with(&message), "{self:#?}");
        error
    }

    /// A verb that is no stage must have failed as documented: status and one line.
    #[track_caller]
    pub fn refused(&self, tool: &str, code: &str) {
        assert!(self.status == status_of(code) && self.stdout.is_empty(), "{self:#?}");
        assert!(self.stderr.lines().count() == 1 && self.stderr.starts_with(&format!("{tool}: ")), "{self:#?}");
    }

    /// A usage error: 2, nothing on standard output, something on standard error.
    #[track_caller]
    pub fn misused(&self) {
        assert!(self.status == 2 && self.stdout.is_empty() && !self.stderr.is_empty(), "{self:#?}");
    }
}

/// The documented exit statuses.
pub fn status_of(code: &str) -> i32 {
    const CODES: [&str; 13] = [
        "exists",
        "not_found",
        "invalid",
        "busy",
        "exhausted",
        "denied",
        "timeout",
        "unsupported",
        "no_space",
        "not_ready",
        "interrupted",
        "io",
        "internal",
    ];
    10 + CODES.iter().position(|c| *c == code).unwrap() as i32
}
