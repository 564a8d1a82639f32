//! The tests' own reader of the kernel: all that Quilt could leave behind, never asked of Quilt.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::mount::{MntFlags, umount2};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{eventually, nftables};

/// Everything there is, by kind, as sorted lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory(pub BTreeMap<&'static str, Vec<String>>);

impl Inventory {
    /// Takes stock, from where the calling thread stands; `root` is the instance.
    pub fn take(root: &Path) -> Inventory {
        let mut kinds = BTreeMap::from([
            ("links", links()),
            ("mounts", mounts()),
            ("cgroups", cgroups(root)),
            ("processes", processes().into_iter().map(|p| p.describe()).collect()),
            ("nftables", nftables::dump()),
            ("state", state(root)),
        ]);
        kinds.values_mut().for_each(|lines| lines.sort());
        Inventory(kinds)
    }

    /// One kind, by name.
    pub fn of(&self, kind: &str) -> &[String] {
        &self.0[kind]
    }

    /// What is different now, a line each.
    pub fn diff(&self, now: &Inventory) -> String {
        let mut text = String::new();
        for (kind, lines) in &self.0 {
            let (mut old, mut new) = (lines.clone(), now.0[kind].clone());
            old.retain(|line| new.iter().position(|n| n == line).map(|at| new.swap_remove(at)).is_none());
            text.extend(old.iter().map(|line| format!("  missing from {kind}: {line}\n")));
            text.extend(new.iter().map(|line| format!("  new in {kind}: {line}\n")));
        }
        text
    }
}

/// The interfaces of the thread's network namespace: index and name.
fn links() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table.lines().skip(2).filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
    names.map(|name| format!("{} {name}", if_nametoindex(name).unwrap_or(0))).collect()
}

/// The mounts of the thread's mount namespace: mount point, root in its file system, type, source.
fn mounts() -> Vec<String> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let describe = |line: &str| {
        let (left, right) = line.split_once(" - ").unwrap();
        let (left, right): (Vec<_>, Vec<_>) = (left.split(' ').collect(), right.split(' ').collect());
        format!("{} ({} of {} {})", left[4], left[3], right[0], right[1])
    };
    table.lines().map(describe).collect()
}

/// Where something is mounted.
pub fn mount_points() -> Vec<String> {
    mounts().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// Every cgroup directory of every hierarchy, but those below what others had before the tests began.
fn cgroups(root: &Path) -> Vec<String> {
    let own = quilt_record::Instance::locate(Some(root)).unwrap().name();
    static OTHERS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    let roots: Vec<PathBuf> = mounts()
        .iter()
        .filter(|mount| mount.contains(" of cgroup"))
        .map(|mount| mount.split(' ').next().unwrap().into())
        .collect();
    let others = OTHERS.get_or_init(|| roots.iter().flat_map(|root| directories(root)).collect());
    let mut found = Vec::new();
    let mut left: Vec<PathBuf> = roots.iter().flat_map(|root| directories(root)).collect();
    while let Some(dir) = left.pop() {
        // Instances of others come and go while the tests run.
        let name = dir.file_name().unwrap().to_string_lossy();
        let foreign = name.starts_with("quilt-") && name != own && roots.contains(&dir.parent().unwrap().to_owned());
        if !others.contains(&dir) && !foreign {
            left.extend(directories(&dir));
            found.push(dir.display().to_string());
        }
    }
    found
}

fn directories(of: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(of).into_iter().flatten().flatten();
    entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

/// A process that a command of the tests left: it is, or was born below, a child of the test process.
pub struct Process {
    pub pid: i32,
    parent: i32,
    zombie: bool,
    name: String,
}

impl Process {
    fn read(pid: i32) -> Option<Process> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (left, right) = stat.rsplit_once(") ")?;
        let (state, parent) = (right.split(' ').next()?, right.split(' ').nth(1)?.parse().ok()?);
        Some(Process { pid, parent, zombie: matches!(state, "Z" | "X"), name: left.split_once('(')?.1.to_owned() })
    }

    fn describe(&self) -> String {
        let line = fs::read_to_string(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        format!("{} {} [{}]", self.pid, self.name, line.trim_end_matches('\0').replace('\0', " "))
    }
}

/// All descendants of the test process that live.
pub fn processes() -> Vec<Process> {
    let me = std::process::id() as i32;
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
    let all: BTreeMap<i32, Process> = pids.filter_map(Process::read).map(|p| (p.pid, p)).collect();
    let descends = |p: &Process| {
        let mut parent = p.parent;
        while parent != me && parent > 1 {
            parent = all.get(&parent).map_or(0, |p| p.parent);
        }
        parent == me
    };
    let found: Vec<i32> = all.values().filter(|p| !p.zombie && descends(p)).map(|p| p.pid).collect();
    found.into_iter().filter_map(Process::read).filter(|p| !p.zombie).collect()
}

/// What the instance keeps: names in `containers/`, `images/`, `run/` and beside them, not the trees below.
fn state(root: &Path) -> Vec<String> {
    const ROOMS: [&str; 5] = ["containers", "images", "run", "subnet", "userns-range"];
    let mut found = Vec::new();
    let list = |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    for path in list(root) {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if !ROOMS.contains(&name.as_str()) {
            found.push(path);
        } else if path.is_dir() {
            for below in list(&path) {
                found.extend(if name == "run" { list(&below) } else { Vec::new() });
                found.push(below);
            }
        }
    }
    let relative = |p: &PathBuf| p.strip_prefix(root).unwrap().display().to_string();
    // A lock's file stays, so that the next one takes the same lock.
    found.iter().filter(|p| p.extension().is_none_or(|e| e != "lock")).map(relative).collect()
}

/// After a test that failed: ends and removes, by force, what it left, so that the next one starts clean.
pub fn sweep(root: &Path, before: &Inventory) {
    let gone = eventually(super::SETTLE, || {
        let left: Vec<Process> =
            processes().into_iter().filter(|p| !before.of("processes").contains(&p.describe())).collect();
        for process in &left {
            let _ = kill(Pid::from_raw(process.pid), Signal::SIGKILL);
        }
        left.is_empty()
    });
    if !gone {
        eprintln!("sweep: processes are left");
    }
    for point in mount_points().iter().rev().filter(|point| Path::new(point).starts_with(root)) {
        let _ = umount2(point.as_str(), MntFlags::MNT_DETACH);
    }
    let mut left: Vec<String> = cgroups(root).into_iter().filter(|dir| !before.of("cgroups").contains(dir)).collect();
    left.sort_by_key(|dir| std::cmp::Reverse(dir.len()));
    left.iter().for_each(|dir| {
        let _ = fs::remove_dir(dir);
    });
}
