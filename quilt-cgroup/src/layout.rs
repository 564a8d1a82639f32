//! Where this host has its controllers.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use quilt_record::error::{Code, Error, Step};
use quilt_record::have::Hierarchy;

/// The controllers that a container is put under wherever they are: for the limits, and for the accounts.
pub(crate) const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// The hierarchies that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// v1 hierarchies, each with its controllers, comma-separated.
    pub v1: Vec<(String, PathBuf)>,
    /// The v2 tree.
    pub v2: Option<Unified>,
}

/// A v2 tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unified {
    /// Where it is mounted.
    pub path: PathBuf,
    /// The controllers that it has, as far as a container needs them from it.
    pub available: Vec<String>,
    /// Those that it passes on to the cgroups right below its root.
    pub enabled: Vec<String>,
    /// Those that the instance's cgroup passes on to the containers'.
    pub delegated: Vec<String>,
}

impl Layout {
    /// Looks. By the places where every distribution has them, which costs a statfs(2) each; the host's mount table,
    /// which can be long, is read only if something is not there. `parent` is the instance's cgroup.
    pub fn detect(parent: &str) -> Result<Layout, Error> {
        let base = Path::new("/sys/fs/cgroup");
        let mut layout = Layout::default();
        if is(base, CGROUP2_SUPER_MAGIC) {
            layout.v2 = Some(Unified { path: base.to_owned(), ..Unified::default() });
        } else {
            let unified = base.join("unified");
            layout.v2 = is(&unified, CGROUP2_SUPER_MAGIC).then(|| Unified { path: unified, ..Unified::default() });
            // Without a v2 tree, v1 has one way to stop everything in a cgroup.
            let freezer = layout.v2.is_none().then_some("freezer");
            for controller in CONTROLLERS.into_iter().chain(freezer) {
                layout.add_v1(controller, base);
            }
        }
        layout.look_at_v2(parent)?;
        if CONTROLLERS.iter().any(|c| layout.home(c).is_none()) {
            let table = fs::read_to_string("/proc/self/mountinfo").step(|| "read /proc/self/mountinfo")?;
            layout.complete(&table);
            layout.look_at_v2(parent)?;
        }
        if layout.v1.is_empty() && layout.v2.is_none() {
            return Err(Error::new(Code::Unsupported, "find the cgroups", "no cgroup file system is mounted"));
        }
        Ok(layout)
    }

    fn add_v1(&mut self, controller: &str, base: &Path) {
        let place = base.join(controller);
        // Controllers that share a hierarchy have a link each: cpu -> cpu,cpuacct.
        let shared = fs::read_link(&place).ok().and_then(|to| to.file_name()?.to_str().map(str::to_owned));
        let names = shared.filter(|names| names.split(',').any(|n| n == controller));
        let names = names.unwrap_or_else(|| controller.to_owned());
        let path = base.join(&names);
        if self.v1.iter().all(|(_, p)| *p != path) && is(&path, CGROUP_SUPER_MAGIC) {
            self.v1.push((names, path));
        }
    }

    /// Asks the v2 tree for the controllers that v1 does not have: nothing at all on the usual hybrid host.
    fn look_at_v2(&mut self, parent: &str) -> Result<(), Error> {
        let elsewhere = |c: &&str| self.v1.iter().all(|(names, _)| names.split(',').all(|n| n != *c));
        let needed: Vec<&str> = CONTROLLERS.iter().copied().filter(elsewhere).collect();
        let Some(v2) = self.v2.as_mut().filter(|_| !needed.is_empty()) else { return Ok(()) };
        let words = |file: PathBuf| -> Result<Vec<String>, Error> {
            match fs::read_to_string(&file) {
                Ok(text) => Ok(text.split_whitespace().filter(|c| needed.contains(c)).map(str::to_owned).collect()),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
                Err(e) => Err(e).step(|| format!("read {}", file.display())),
            }
        };
        v2.delegated = words(v2.path.join(parent).join("cgroup.subtree_control"))?;
        if v2.delegated.len() == needed.len() {
            // Passed on at the lower place, so passed on at the upper one.
            v2.available.clone_from(&v2.delegated);
            v2.enabled.clone_from(&v2.delegated);
            return Ok(());
        }
        v2.available = words(v2.path.join("cgroup.controllers"))?;
        v2.enabled = words(v2.path.join("cgroup.subtree_control"))?;
        Ok(())
    }

    /// Adds what the mount table (proc_pid_mountinfo(5)) has and the usual places have not.
    fn complete(&mut self, table: &str) {
        for line in table.lines() {
            let Some((mount, source)) = line.split_once(" - ") else { continue };
            let (mut mount, mut source) = (mount.split(' ').skip(3), source.split(' '));
            // Only a mount of the hierarchy's root has the places that other tools see.
            let (Some("/"), Some(point)) = (mount.next(), mount.next()) else { continue };
            let path = unescape(point);
            match (source.next(), source.nth(1)) {
                (Some("cgroup2"), _) if self.v2.is_none() => self.v2 = Some(Unified { path, ..Unified::default() }),
                (Some("cgroup"), Some(options)) => {
                    let names = options.split(',').filter(|o| KNOWN.contains(o)).collect::<Vec<_>>().join(",");
                    let new = CONTROLLERS.iter().any(|c| names.split(',').any(|n| n == *c) && self.home(c).is_none());
                    let stops = self.v2.is_none() && names == "freezer" && self.v1.iter().all(|(n, _)| n != "freezer");
                    if new || stops {
                        self.v1.push((names, path));
                    }
                }
                _ => {}
            }
        }
    }

    /// The version of the hierarchy that has the controller, and where that is mounted.
    pub(crate) fn home(&self, controller: &str) -> Option<(u8, &Path)> {
        let v1 = self.v1.iter().find(|(names, _)| names.split(',').any(|n| n == controller));
        let v2 = || self.v2.as_ref().filter(|v2| v2.available.iter().any(|c| c == controller));
        v1.map(|(_, path)| (1, path.as_path())).or_else(|| v2().map(|v2| (2, v2.path.as_path())))
    }

    /// The directory `below` in every hierarchy, v2 last: so it is the last that a process joins and, everything being
    /// taken back in the opposite order, the first that is removed; it knows whether a process is left.
    pub fn hierarchies(&self, below: &Path) -> Vec<Hierarchy> {
        let v1 = self.v1.iter().map(|(names, path)| Hierarchy {
            version: 1,
            controllers: names.clone(),
            path: path.join(below),
        });
        let v2 = self.v2.iter().map(|v2| Hierarchy {
            version: 2,
            controllers: v2.available.join(","),
            path: v2.path.join(below),
        });
        v1.chain(v2).collect()
    }
}

/// Every v1 controller there ever was, to tell them from the other mount options.
const KNOWN: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

fn is(path: &Path, magic: nix::sys::statfs::FsType) -> bool {
    statfs(path).is_ok_and(|fs| fs.filesystem_type() == magic)
}

/// Undoes the octal escapes of the mount table (`\040` is a space).
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let octal =
            after.get(..3).and_then(|d| std::str::from_utf8(d).ok()).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (byte, octal) {
            (b'\\', Some(value)) => {
                bytes.push(value);
                rest = &after[3..];
            }
            _ => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_places_are_found_in_the_mount_table() {
        let table = "\
30 23 0:28 / /mnt/my\\040cg/mem rw - cgroup cgroup rw,memory,release_agent=/x
31 23 0:29 / /mnt/cpu rw shared:9 - cgroup none rw,cpuacct,cpu
32 23 0:30 /sub /mnt/pids rw - cgroup cgroup rw,pids
33 23 0:31 / /mnt/freezer rw - cgroup cgroup rw,freezer
34 23 0:32 / /mnt/systemd rw - cgroup cgroup rw,name=systemd
35 23 0:33 / /tmp rw - tmpfs tmpfs rw";
        let mut layout = Layout::default();
        layout.complete(table);
        let expected = [("memory", "/mnt/my cg/mem"), ("cpuacct,cpu", "/mnt/cpu"), ("freezer", "/mnt/freezer")];
        assert_eq!(layout.v1, expected.map(|(names, path)| (names.to_owned(), PathBuf::from(path))));
        assert_eq!(layout.v2, None);
        assert_eq!(layout.home("pids"), None);

        let mut layout = Layout::default();
        layout.complete("35 23 0:33 / /cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(layout.v2.map(|v2| v2.path), Some(PathBuf::from("/cgroup")));
    }
}
