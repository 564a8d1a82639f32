//! The harness: a world of its own for every test, commands with a hard time limit, and the check that a test leaves
//! the machine as it found it.
//!
//! A world is a network namespace and a mount namespace of the test's own (so every test starts on a machine without
//! a bridge, and the one that it runs on is left alone), an instance of Quilt of its own, and a directory. The test
//! process is the reaper of whatever its commands leave behind: all that a test started can be found below it.

pub mod images;
pub mod inventory;
pub mod nftables;
pub mod pace;
pub mod run;
pub mod teeth;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

pub use inventory::Inventory;
pub use pace::patient;
pub use run::{Out, Run, Running};

/// What the kernel does later than it says: namespaces and links go this long after their last process, at most.
pub const SETTLE: Duration = Duration::from_secs(1);

/// Whether the network namespace of whoever looks forwards packets.
pub const IP_FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";

static TURN: Mutex<()> = Mutex::new(());
static SKIPS: Mutex<Vec<String>> = Mutex::new(Vec::new());
static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// A test's own machine, as far as Quilt can tell.
pub struct World {
    /// The test's directory.
    pub dir: PathBuf,
    /// The instance (`QUILT_ROOT`).
    pub root: PathBuf,
    /// The directory of the tools.
    pub bin: PathBuf,
    /// The defences that are taken out: `QUILT_WITHOUT`.
    without: String,
    before: Inventory,
    _turn: MutexGuard<'static, ()>,
}

impl World {
    /// A cold machine. `World::new("lifecycle")`; the name is only for people who look at the directory.
    pub fn new(name: &str) -> World {
        World::of(name, bin(), "")
    }

    fn of(name: &str, bin: PathBuf, without: &str) -> World {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(nix::unistd::geteuid().is_root(), "the tests must run as root");
        run::become_reaper();
        enter_namespaces();
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("quilt-tests-{}/{n}-{name}", std::process::id()));
        let root = dir.join("root");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&root).unwrap();
        let before = Inventory::take(&root);
        let world = World { dir, root, bin, without: without.to_owned(), before, _turn: turn };
        world.subnet("10.91.0.0/16");
        world
    }

    /// Gives the instance its subnet, as its first `--subnet` would.
    pub fn subnet(&self, subnet: &str) {
        let link = self.root.join("subnet");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.root).unwrap();
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(subnet, link).unwrap();
    }

    /// A file or directory of the test's own.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file of the test's own; returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.path(name), text).unwrap();
        self.path(name).display().to_string()
    }

    /// A command in this world.
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Run {
        let run = Run::new(program).args(args).env("QUILT_ROOT", &self.root).env("QUILT_BIN", &self.bin);
        if self.without.is_empty() { run } else { run.env("QUILT_WITHOUT", &self.without) }
    }

    /// `scripts/quilt ARGS…`, not yet started.
    pub fn command(&self, args: &[&str]) -> Run {
        self.run(repo().join("scripts/quilt"), args)
    }

    /// `scripts/quilt ARGS…`, to its end.
    pub fn quilt(&self, args: &[&str]) -> Out {
        self.command(args).go()
    }

    /// A tool by itself: `quilt-NAME ARGS…`, not yet started.
    pub fn tool(&self, name: &str, args: &[&str]) -> Run {
        self.run(self.bin.join(name), args)
    }

    /// Runs a line of shell on a terminal of that size; its output has the terminal's line ends made plain.
    pub fn on_terminal(&self, rows: u16, columns: u16, line: &str) -> Out {
        const SCRIPT: &str = r#"
import fcntl, os, pty, struct, sys, termios
pid, fd = pty.fork()
if pid == 0:
    fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", int(sys.argv[1]), int(sys.argv[2]), 0, 0))
    os.execv("/bin/sh", ["sh", "-c", sys.argv[3]])
out = b""
try:
    while more := os.read(fd, 65536):
        out += more
except OSError:
    pass
os.write(1, out.replace(b"\r\n", b"\n"))
status = os.waitpid(pid, 0)[1]
sys.exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))
"#;
        self.run("python3", &["-c", SCRIPT, &rows.to_string(), &columns.to_string(), line]).go()
    }

    /// `quilt create IMAGE --name NAME ARGS…`, which must succeed; the record.
    pub fn create(&self, name: &str, args: &[&str]) -> serde_json::Value {
        self.create_from(&images::busybox(), name, args)
    }

    /// The same from another image.
    pub fn create_from(&self, image: &Path, name: &str, args: &[&str]) -> serde_json::Value {
        let mut all = vec!["create", image.to_str().unwrap(), "--name", name];
        all.extend(args);
        self.quilt(&all).ok().record()
    }

    /// The host's id of a user of a container.
    pub fn outside(&self, name: &str, uid: u64) -> u64 {
        self.quilt(&["inspect", name]).ok().record()["netns"]["have"]["ids"]["uid"].as_u64().unwrap_or(0) + uid
    }

    /// Whether containers can have ids of their own here, without anything done.
    pub fn has_userns(&self) -> bool {
        let image = images::busybox().display().to_string();
        let plan = self.quilt(&["create", "--dry-run", "--userns", "auto", &image]).ok().stdout;
        plan.contains("clone3 CLONE_NEWUSER")
    }

    /// `--pid PID`, and what `host` needs beside it on this machine.
    pub fn pids(&self, pid: &'static str) -> Vec<&'static str> {
        let beside: &[&str] = match pid {
            "host" if self.has_userns() => &["--userns", "auto"],
            "host" => &["--privileged"],
            _ => &[],
        };
        [&["--pid", pid], beside].concat()
    }

    /// `quilt exec NAME ARGS…`, which must succeed; its standard output.
    pub fn exec(&self, name: &str, args: &[&str]) -> String {
        let mut all = vec!["exec", name];
        all.extend(args);
        self.quilt(&all).ok().stdout
    }

    /// The pid of a container's init, from its record on disk.
    pub fn init(&self, name: &str) -> i32 {
        let text = fs::read_to_string(self.root.join("containers").join(name).join("spawn.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["have"]["pid"].as_i64().unwrap() as i32
    }

    /// Everything there is now, once it has come to rest: what the last command leaves to the kernel or to a child
    /// (the end of a namespace, files to be deleted) is on its way for some milliseconds.
    pub fn inventory(&self) -> Inventory {
        let mut last = Inventory::take(&self.root);
        let mut since = Instant::now();
        eventually(SETTLE, || {
            let now = Inventory::take(&self.root);
            if now != last {
                (last, since) = (now, Instant::now());
            }
            // A process without a command line is on its way out, and waits in the kernel. A quilt-rm deletes files.
            let leaving = last.of("processes").iter().any(|p| p.ends_with("[]") || p.contains(" quilt-rm ["));
            !leaving && since.elapsed() > Duration::from_millis(40)
        });
        last
    }

    /// Fails unless everything is as it was at `before` within `limit`.
    pub fn assert_same(&self, before: &Inventory, limit: Duration) {
        let mut now = Inventory::take(&self.root);
        eventually(limit, || {
            now = Inventory::take(&self.root);
            now == *before
        });
        assert!(now == *before, "something was left or went missing:\n{}", before.diff(&now));
    }

    /// Ends the instance.
    fn purge(&self) -> Option<Out> {
        let used = self.root.join("containers").exists();
        // A whole Debian may have to go, on a busy disk.
        let purge = self.command(&["gc", "--purge", "--yes"]).limit(Duration::from_secs(120));
        used.then(|| purge.go())
    }
}

impl Drop for World {
    /// Everything must be as it was before the world; where it is not, that must not make the next test fail too.
    fn drop(&mut self) {
        let failed = std::thread::panicking();
        let closed = catch_unwind(AssertUnwindSafe(|| match self.purge() {
            purged if failed => purged.filter(|out| out.status != 0).into_iter().for_each(|out| eprintln!("{out:#?}")),
            purged => {
                purged.map(Out::ok);
                self.assert_same(&self.before, SETTLE);
            }
        }));
        if failed || closed.is_err() {
            inventory::sweep(&self.root, &self.before);
        }
        let _ = fs::remove_dir_all(&self.dir);
        let _ = fs::remove_dir(self.dir.parent().unwrap());
        if let (false, Err(failure)) = (failed, closed) {
            resume_unwind(failure);
        }
    }
}

/// A network namespace with nothing but loopback, and a mount namespace whose mounts propagate as a host's do, but to
/// nobody. Of the calling thread: what it starts is in them.
fn enter_namespaces() {
    unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).unwrap();
    for propagation in [MsFlags::MS_PRIVATE, MsFlags::MS_SHARED] {
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | propagation, None::<&str>).unwrap();
    }
    // Other instances on this machine come and go meanwhile; their mounts are not for us to watch.
    for point in inventory::mount_points().iter().filter(|p| ["/run/bin", "/run/ns"].iter().any(|end| p.ends_with(end)))
    {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
    Run::new("ip").args(&["link", "set", "lo", "up"]).go().ok();
    // A new namespace has the host's setting, which is not for the tests to know.
    fs::write(IP_FORWARD, "1").unwrap();
}

/// The repository.
pub fn repo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The tools under test: `QUILT_BIN`, else what scripts/build built.
pub fn bin() -> PathBuf {
    let dir = repo().join(std::env::var_os("QUILT_BIN").unwrap_or_else(|| "target/quilt".into()));
    assert!(dir.join("quilt-spec").exists(), "no tools in {}: run scripts/build, or set QUILT_BIN", dir.display());
    dir
}

/// Counts a test that cannot run here. The caller returns.
pub fn skip(test: &str, reason: &str) {
    eprintln!("SKIP {test}: {reason}");
    SKIPS.lock().unwrap().push(format!("{test}: {reason}"));
}

/// What was skipped so far.
pub fn skipped() -> Vec<String> {
    SKIPS.lock().unwrap().clone()
}

/// Waits until `done`, looking again and again: the one place where the tests do so. False if it is not by the limit,
/// as [`patient`] has it.
pub fn eventually(limit: Duration, mut done: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patient(limit);
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}
