//! Where this host has its controllers.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, statfs};
use quilt_record::error::{Code, Error};
use quilt_record::have::Hierarchy;
use quilt_record::mountinfo;

/// What a container is put under wherever it is, by the names that v2 has for it: for the limits, and for the accounts.
pub(crate) const CONTROLLERS: [&str; 4] = ["memory", "cpu", "pids", "io"];

/// The v1 hierarchies to look for. A container is put into cpuset's before anybody asks for CPUs, as nothing can be put
/// there later without its processes being moved one by one; and into devices', which says what it may use of them.
const V1: [&str; 6] = ["memory", "cpu", "pids", "blkio", "cpuset", "devices"];

/// Those that are needed only where no v2 tree stands beside: it knows the CPU time of every cgroup in it, and can stop
/// all that is in one. The freezer last: it has the leaves.
const V1_ALONE: [&str; 2] = ["cpuacct", "freezer"];

/// The hierarchies that matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// v1 hierarchies, each with its controllers, comma-separated.
    pub v1: Vec<(String, PathBuf)>,
    /// Where the v2 tree is mounted.
    pub v2: Option<PathBuf>,
}

impl Layout {
    /// Looks. By the places where every distribution has them, which costs a statfs(2) each; the host's mount table,
    /// which can be long, is read only if one that every host has is not there.
    pub fn detect() -> Result<Layout, Error> {
        let base = Path::new("/sys/fs/cgroup");
        let mut layout = Layout::default();
        if is(base, CGROUP2_SUPER_MAGIC) {
            layout.v2 = Some(base.to_owned());
            return Ok(layout);
        }
        let unified = base.join("unified");
        layout.v2 = is(&unified, CGROUP2_SUPER_MAGIC).then_some(unified);
        V1.iter().for_each(|controller| layout.add_v1(controller, base));
        if layout.v2.is_none() {
            V1_ALONE.iter().for_each(|controller| layout.add_v1(controller, base));
        }
        if ["memory", "cpu", "pids"].iter().any(|c| layout.v1_home(c).is_none()) {
            layout.complete(&mountinfo::read("self")?);
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

    /// Adds what the mount table has and the usual places have not.
    fn complete(&mut self, table: &[u8]) {
        // Only a mount of the hierarchy's root has the places that other tools see.
        for mount in mountinfo::mounts(table).filter(|mount| *mount.root == *Path::new("/")) {
            let path = mount.point.into_owned();
            match &*mount.fstype {
                "cgroup2" if self.v2.is_none() => self.v2 = Some(path),
                "cgroup" => {
                    let names =
                        mount.super_options.split(',').filter(|o| KNOWN.contains(o)).collect::<Vec<_>>().join(",");
                    let has = |c: &&&str| names.split(',').any(|n| n == **c) && self.v1_home(c).is_none();
                    let alone = V1_ALONE.iter().filter(|_| self.v2.is_none());
                    if V1.iter().chain(alone).any(|c| has(&c)) {
                        self.v1.push((names, path));
                    }
                }
                _ => {}
            }
        }
    }

    /// The v1 hierarchy that has a controller, by v1's name for it.
    fn v1_home(&self, controller: &str) -> Option<&Path> {
        let found = self.v1.iter().find(|(names, _)| names.split(',').any(|n| n == controller));
        found.map(|(_, path)| path.as_path())
    }

    /// The v1 hierarchy that has a controller, by v2's name for it.
    pub(crate) fn on_v1(&self, controller: &str) -> Option<&Path> {
        self.v1_home(if controller == "io" { "blkio" } else { controller })
    }

    /// The directory `below` in every hierarchy, v2 last, with the controllers that it has there: so it is the last that
    /// a process joins and, everything being taken back in the opposite order, the first that is removed; it knows whether
    /// a process is left.
    pub(crate) fn hierarchies(&self, below: &Path, unified: &[String]) -> Vec<Hierarchy> {
        let v1 = self.v1.iter().map(|(names, path)| Hierarchy {
            version: 1,
            controllers: names.clone(),
            path: path.join(below),
        });
        let v2 =
            self.v2.iter().map(|path| Hierarchy { version: 2, controllers: unified.join(","), path: path.join(below) });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusual_places_are_found_in_the_mount_table() {
        let table = b"\
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
        assert_eq!(layout.on_v1("pids"), None);

        let mut layout = Layout::default();
        layout.complete(b"35 23 0:33 / /cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(layout.v2, Some(PathBuf::from("/cgroup")));
    }
}
